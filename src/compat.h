/* compat.h - the one place for what differs between Lua 5.1 to 5.5 and LuaJIT. */
#ifndef ICPTOKEN_COMPAT_H
#define ICPTOKEN_COMPAT_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* A userdata with one Lua table of its own: a user value, or on 5.1 an environment. */
#if LUA_VERSION_NUM >= 504
#define compat_newuserdata(L, size) lua_newuserdatauv(L, size, 1)
#define compat_setown(L, index) (void)lua_setiuservalue(L, index, 1)
#define compat_getown(L, index) (void)lua_getiuservalue(L, index, 1)
#elif LUA_VERSION_NUM >= 502
#define compat_newuserdata(L, size) lua_newuserdata(L, size)
#define compat_setown(L, index) lua_setuservalue(L, index)
#define compat_getown(L, index) lua_getuservalue(L, index)
#else
#define compat_newuserdata(L, size) lua_newuserdata(L, size)
#define compat_setown(L, index) (void)lua_setfenv(L, index)
#define compat_getown(L, index) lua_getfenv(L, index)
#endif

/* Does this Lua tell integers from floats? */
#if LUA_VERSION_NUM >= 503
#define compat_isinteger(L, index) (lua_isinteger(L, index) != 0)
#define compat_pushwhole(L, number) lua_pushinteger(L, (lua_Integer)(number))
#define COMPAT_INTEGERS 1
#else
#define compat_isinteger(L, index) ((void)(L), (void)(index), true)
#define compat_pushwhole(L, number) lua_pushnumber(L, (lua_Number)(number))
#define COMPAT_INTEGERS 0
#endif

#if LUA_VERSION_NUM >= 502
#define compat_rawlen(L, index) ((size_t)lua_rawlen(L, index))
#else
#define compat_rawlen(L, index) lua_objlen(L, index)
#endif

/* A stack index that stays the same when values are pushed. */
static inline int compat_absindex(lua_State *L, int index) {
  return index > 0 || index <= LUA_REGISTRYINDEX ? index : lua_gettop(L) + index + 1;
}

/* Sets the functions in the table at the top, each with copies of the count values that stand on
 * the stack from index first on. */
void compat_setfuncs(lua_State *L, const luaL_Reg *functions, int first, int count);

/* Gives a hook that a signal handler has set its turn, by calling the Lua function that does
 * nothing at index, and raises what the hook raises. lua.c sets its Ctrl-C hook in the main thread
 * alone: in a coroutine, where hooks are a thread's own, the main thread's is lent to it for the
 * call. */
void compat_run_hook(lua_State *L, int index);

#pragma GCC visibility pop

#endif
