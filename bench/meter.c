/* What the benchmarks measure with and against: a clock for bench/driver.lua, as Lua itself has
 * none, and the limit of client:token(): an empty C function that reads the same clock, as a plain
 * function and as a method of a userdata whose metatable is made like that of a client. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <lauxlib.h>
#include <lua.h>

#include "../src/clock.h"

/* Seconds of a clock that nobody sets. */
static int read_seconds(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  lua_pushnumber(L, (lua_Number)now.tv_sec + 1e-9 * (lua_Number)now.tv_nsec);
  return 1;
}

static int read_steady(lua_State *L) {
  (void)L;
  clock_steady_ms();
  return 0;
}

static int new_object(lua_State *L) {
  lua_newuserdata(L, sizeof(int));
  lua_newtable(L);
  lua_newtable(L);
  lua_pushcfunction(L, read_steady);
  lua_setfield(L, -2, "read");
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
  set_function(L, "read", read_steady);
  set_function(L, "new", new_object);
  return 1;
}
