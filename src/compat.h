/* compat.h - the differences between Lua 5.1 to 5.5 and LuaJIT; no other file depends on the
 * version. */
#ifndef ICPTOKEN_COMPAT_H
#define ICPTOKEN_COMPAT_H

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* Pushes a userdata with a Lua table of its own: a user value, or on 5.1 an environment. */
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

/* Does this Lua distinguish integers from floats? */
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

/* Is this number whole, and below 2^53, so that a double represents it exactly? */
static inline bool compat_is_whole(double number) {
  return number == floor(number) && fabs(number) < 9007199254740992.0;
}

/* Returns a stack index that remains valid when values are pushed. */
static inline int compat_absindex(lua_State *L, int index) {
  return index > 0 || index <= LUA_REGISTRYINDEX ? index : lua_gettop(L) + index + 1;
}

/* Sets the functions in the table at the top, each with copies of the count values that are on the
 * stack from index first on. */
void compat_setfuncs(lua_State *L, const luaL_Reg *functions, int first, int count);

/* Lets a hook run that a signal handler has set, by calling the Lua function at index, which does
 * nothing; raises what the hook raises. lua.c sets its Ctrl-C hook in the main thread only. Hooks
 * belong to a thread, so in a coroutine the main thread's hook is installed for this call. */
void compat_run_hook(lua_State *L, int index);

#pragma GCC visibility pop

#endif
