/* Baseline (b): the cost that no Lua client can avoid. It performs the transfer of baseline (a),
 * decodes the answer with lua-cjson and makes the result table, but checks, escapes, retries and
 * wipes nothing. A client is one userdata that owns its struct easy; its decoder
 * (cjson.new().decode) is an upvalue of fetch. */
#include <math.h>
#include <time.h>

#include <lauxlib.h>
#include <lua.h>

#include "easy.h"
#include "many.h"

#define CLIENT_TYPE "bench.baseline"
#define MANY_TYPE "bench.baseline.many"

/* The module's rule for refresh_at, without its random part. */
static const double window_share = 0.2, leeway_share = 0.1, window_max = 300, leeway_max = 10;

static int close_client(lua_State *L) {
  easy_close(luaL_checkudata(L, 1, CLIENT_TYPE));
  return 0;
}

static int needs_copies(void) { return curl_version_info(CURLVERSION_NOW)->version_num < 0x080100; }

static int new_client(lua_State *L) {
  const char *url = luaL_checkstring(L, 1);
  const char *cacert = luaL_checkstring(L, 2);
  const char *id_token = luaL_checkstring(L, 3);
  int copies = lua_toboolean(L, 4) && needs_copies();
  struct easy *easy = lua_newuserdata(L, sizeof *easy);
  *easy = (struct easy){0};
  luaL_getmetatable(L, CLIENT_TYPE);
  lua_setmetatable(L, -2);
  if (easy_open(easy, url, cacert, id_token)) return luaL_error(L, "no handle");
  if (copies && easy_copy_handles(easy)) return luaL_error(L, "no handle");
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

/* Pushes the result table for an answer. The decoder is an upvalue of the running function. */
static void push_token(lua_State *L, const struct easy *easy) {
  time_t received_at = time(NULL);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushlstring(L, easy->body, easy->length);
  lua_call(L, 1, 1);
  add_times(L, received_at);
}

static int fetch_token(lua_State *L) {
  struct easy *easy = luaL_checkudata(L, 1, CLIENT_TYPE);
  const char *failure = easy_fetch(easy);
  if (failure) return luaL_error(L, "%s", failure);
  push_token(L, easy);
  return 1;
}

/* Many at once: the loop of many.c, whose answers become a list of such tables. */

static int close_many(lua_State *L) {
  many_close(luaL_checkudata(L, 1, MANY_TYPE));
  return 0;
}

static int new_many(lua_State *L) {
  const char *url = luaL_checkstring(L, 1);
  const char *cacert = luaL_checkstring(L, 2);
  const char *id_token = luaL_checkstring(L, 3);
  int http2 = lua_toboolean(L, 4);
  struct many *many = lua_newuserdata(L, sizeof *many);
  *many = (struct many){0};
  luaL_getmetatable(L, MANY_TYPE);
  lua_setmetatable(L, -2);
  if (many_open(many, url, cacert, id_token, http2)) return luaL_error(L, "no handles");
  many->copies = needs_copies();
  return 1;
}

struct taking {
  lua_State *L; /* with the list of tokens at the top */
  int count;
};

static const char *take_answer(void *context, const struct easy *easy) {
  struct taking *taking = context;
  push_token(taking->L, easy);
  lua_rawseti(taking->L, -2, ++taking->count);
  return NULL;
}

static int fetch_many(lua_State *L) {
  struct many *many = luaL_checkudata(L, 1, MANY_TYPE);
  int count = (int)luaL_checkinteger(L, 2);
  lua_createtable(L, count, 0);
  struct taking taking = {L, 0};
  many->take = take_answer;
  many->context = &taking;
  const char *failure = many_fetch(many, count);
  if (failure) return luaL_error(L, "%s", failure);
  return 1;
}

static void push_decoder(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "cjson");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "new");
  lua_call(L, 0, 1);
  lua_getfield(L, -1, "decode");
  lua_replace(L, -3);
  lua_pop(L, 1);
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
  luaL_newmetatable(L, MANY_TYPE);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  set_function(L, "__gc", close_many);
  push_decoder(L);
  lua_pushcclosure(L, fetch_many, 1);
  lua_setfield(L, -2, "fetch_all");
  lua_newtable(L);
  set_function(L, "new", new_client);
  set_function(L, "many", new_many);
  return 1;
}
