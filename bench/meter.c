/* A clock for bench/driver.lua, as Lua itself has none, and the lower limits of client:token(): an
 * empty C function that reads the same clock, as a plain function and as a method of a userdata
 * with the same kind of metatable as a client; and a method that also finds out that it got such a
 * userdata and returns what client:token() returns: a table that belongs to the userdata, nil, and
 * a constant string. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <sys/resource.h>

#include <lauxlib.h>
#include <lua.h>

#include "../src/clock.h"
#include "../src/compat.h"

/* Returns the seconds of the monotonic clock. */
static int read_seconds(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  lua_pushnumber(L, (lua_Number)now.tv_sec + 1e-9 * (lua_Number)now.tv_nsec);
  return 1;
}

/* Returns the KiB that the largest of the child processes that have ended had in memory. */
static int measure_children(lua_State *L) {
  struct rusage usage;
  getrusage(RUSAGE_CHILDREN, &usage);
  lua_pushnumber(L, (lua_Number)usage.ru_maxrss);
  return 1;
}

static int read_steady(lua_State *L) {
  (void)L;
  clock_steady_ms();
  return 0;
}

static int return_kept(lua_State *L) {
  const int *object = lua_touserdata(L, 1);
  if (object == NULL || compat_rawlen(L, 1) != sizeof *object)
    return luaL_error(L, "no object of this benchmark");
  clock_steady_ms();
  compat_getown(L, 1);
  lua_rawgeti(L, -1, 1);
  lua_pushnil(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  return 3;
}

static int new_object(lua_State *L) {
  compat_newuserdata(L, sizeof(int));
  lua_newtable(L);
  lua_newtable(L);
  lua_rawseti(L, -2, 1);
  compat_setown(L, -2);
  lua_newtable(L);
  lua_newtable(L);
  lua_pushcfunction(L, read_steady);
  lua_setfield(L, -2, "read");
  lua_pushliteral(L, "cached");
  lua_pushcclosure(L, return_kept, 1);
  lua_setfield(L, -2, "get");
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  return 1;
}

static void set_function(lua_State *L, const char *name, lua_CFunction function) {
  lua_pushcfunction(L, function);
  lua_setfield(L, -2, name);
}

int luaopen_meter(lua_State *L);

int luaopen_meter(lua_State *L) {
  lua_newtable(L);
  set_function(L, "clock", read_seconds);
  set_function(L, "children", measure_children);
  set_function(L, "read", read_steady);
  set_function(L, "new", new_object);
  return 1;
}
