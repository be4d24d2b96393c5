/* Baseline (b): what any Lua client must pay. The transfer of baseline (a), then lua-cjson's decode
 * of the answer and the result table, with nothing checked, escaped, retried or wiped. A client is
 * one userdata that owns its struct easy; its decoder (cjson.new().decode) is an upvalue of fetch.
 */
#include <math.h>
#include <time.h>

#include <lauxlib.h>
#include <lua.h>

#include "easy.h"

#define CLIENT_TYPE "bench.baseline"

/* refresh_at by the module's rule, less its random share. */
static const double window_share = 0.2, leeway_share = 0.1, window_max = 300, leeway_max = 10;

static int close_client(lua_State *L) {
  easy_close(luaL_checkudata(L, 1, CLIENT_TYPE));
  return 0;
}

static int new_client(lua_State *L) {
  const char *url = luaL_checkstring(L, 1);
  const char *cacert = luaL_checkstring(L, 2);
  const char *id_token = luaL_checkstring(L, 3);
  struct easy *easy = lua_newuserdata(L, sizeof *easy);
  *easy = (struct easy){0};
  luaL_getmetatable(L, CLIENT_TYPE);
  lua_setmetatable(L, -2);
  if (easy_open(easy, url, cacert, id_token)) return luaL_error(L, "no handle");
  return 1;
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

/* Completes the decoded table on top of the stack: cjson's 1800.0 becomes an integer, three times
 * are added. */
static void add_times(lua_State *L, time_t received_at) {
  lua_getfield(L, -1, "expires_in");
  double expires_in = lua_tonumber(L, -1);
  lua_pop(L, 1);
  double expires_at = (double)received_at + expires_in;
  double leeway = fmin(leeway_max, leeway_share * expires_in);
  double window = fmin(window_max, window_share * expires_in);
  set_integer(L, "expires_in", (lua_Integer)expires_in);
  set_integer(L, "received_at", (lua_Integer)received_at);
  set_integer(L, "expires_at", (lua_Integer)expires_at);
  set_integer(L, "refresh_at", (lua_Integer)(expires_at - leeway - window));
}

static int fetch_token(lua_State *L) {
  struct easy *easy = luaL_checkudata(L, 1, CLIENT_TYPE);
  const char *failure = easy_fetch(easy);
  if (failure) return luaL_error(L, "%s", failure);
  time_t received_at = time(NULL);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushlstring(L, easy->body, easy->length);
  lua_call(L, 1, 1);
  add_times(L, received_at);
  return 1;
}

static void push_decoder(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "cjson");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "new");
  lua_call(L, 0, 1);
  lua_getfield(L, -1, "decode");
}

static void set_function(lua_State *L, const char *name, lua_CFunction function) {
  lua_pushcfunction(L, function);
  lua_setfield(L, -2, name);
}

int luaopen_baseline(lua_State *L);

int luaopen_baseline(lua_State *L) {
  luaL_newmetatable(L, CLIENT_TYPE);
  int metatable = lua_gettop(L);
  lua_pushvalue(L, metatable);
  lua_setfield(L, metatable, "__index");
  set_function(L, "__gc", close_client);
  push_decoder(L);
  lua_pushcclosure(L, fetch_token, 1);
  lua_setfield(L, metatable, "fetch");
  lua_newtable(L);
  set_function(L, "new", new_client);
  return 1;
}
