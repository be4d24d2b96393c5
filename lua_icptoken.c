/* lua_icptoken.c - the door: luaopen_icptoken and the functions that a script calls.
 * icptoken requests a registry JWT from an IBM Cloud Private cluster and returns the answer as a
 * table.
 */
#include <curl/curl.h>
#include <dlfcn.h>
#include <lauxlib.h>
#include <lua.h>
#include <string.h>

#include "src/batch.h"
#include "src/call.h"
#include "src/client.h"
#include "src/clock.h"
#include "src/compat.h"
#include "src/failure.h"
#include "src/inspect.h"
#include "src/json.h"
#include "src/login.h"
#include "src/result.h"
#include "src/stats.h"
#include "src/token.h"
#include "src/version.h"

#define EXPORT __attribute__((visibility("default")))

/* icptoken.new(options) -> client. Raises on an invalid option; nil, message, code, details when
 * out of memory. */
static int door_new(lua_State *L) { return client_new(L, 1, OPTIONS_CLIENT); }

/* Creates a client for one call, makes the call and closes the client. */
static int call_once(lua_State *L, enum options_kind kind) {
  lua_settop(L, 1);
  int made = client_new(L, 1, kind);
  if (made != 1) return made;
  int results = kind == OPTIONS_LOGIN ? login_fetch(L, 2) : token_fetch(L, 2, 3);
  client_close(L, 2);
  return results;
}

/* icptoken.fetch(options) -> token, or nil, message, code, details. Requests one token and keeps no
 * client. */
static int door_fetch(lua_State *L) { return call_once(L, OPTIONS_CLIENT); }

/* icptoken.login(options) -> the identity provider's answer, or nil, message, code, details. */
static int door_login(lua_State *L) { return call_once(L, OPTIONS_LOGIN); }

/* icptoken.decode(jwt) -> { header=, claims=, signature= }, not verified; or nil, message, code,
 * details. The signature is left in base64url. */
static int door_decode(lua_State *L) {
  struct failure failure;
  size_t length;
  luaL_checktype(L, 1, LUA_TSTRING);
  const char *text = lua_tolstring(L, 1, &length);
  failure_clear(&failure);
  if (inspect_push_jwt(L, lua_upvalueindex(CLIENT_DECODE), text, length, &failure)) return 1;
  return result_push_failure(L, &failure, NULL, 0);
}

/* icptoken.challenge(value) -> { realm=, service=, scope=, error= } of the first Bearer challenge
 * in a WWW-Authenticate value; or nil, message, code, details. */
static int door_challenge(lua_State *L) {
  struct failure failure;
  size_t length;
  luaL_checktype(L, 1, LUA_TSTRING);
  const char *text = lua_tolstring(L, 1, &length);
  failure_clear(&failure);
  if (inspect_push_challenge(L, text, length, &failure)) return 1;
  return result_push_failure(L, &failure, NULL, 0);
}

/* client:fetch([request]) -> token, or nil, message, code, details. Always sends a token request.
 */
static int door_client_fetch(lua_State *L) {
  lua_settop(L, 2);
  return token_fetch(L, 1, 2);
}

/* client:token([request]) -> token, nil, "fresh" | "cached" | "stale"; or nil, message, code,
 * details. */
static int door_client_token(lua_State *L) { return token_get(L, 1, 2); }

/* client:fetch_all(requests) -> tokens, errors. Both have the indices of requests; a token is false
 * where its request failed, and errors is nil if none failed. */
static int door_client_fetch_all(lua_State *L) {
  lua_settop(L, 2);
  return batch_fetch(L, 1, 2);
}

/* client:invalidate(token) -> whether the cache contained an entry with this token, which is now
 * removed. */
static int door_client_invalidate(lua_State *L) { return token_invalidate(L, 1, 2); }

/* client:stats() -> table of counters and of the last transfer's timings in seconds. */
static int door_client_stats(lua_State *L) { return stats_push(L, 1); }

/* client:close(), also called when the client is collected or leaves its scope. Idempotent. */
static int door_client_close(lua_State *L) {
  client_close(L, 1);
  return 0;
}

static int door_client_tostring(lua_State *L) { return client_tostring(L, 1); }

static const luaL_Reg module_functions[] = {
    {"new", door_new},       {"fetch", door_fetch},         {"login", door_login},
    {"decode", door_decode}, {"challenge", door_challenge}, {NULL, NULL}};

static const luaL_Reg client_methods[] = {{"fetch", door_client_fetch},
                                          {"token", door_client_token},
                                          {"fetch_all", door_client_fetch_all},
                                          {"invalidate", door_client_invalidate},
                                          {"stats", door_client_stats},
                                          {"close", door_client_close},
                                          {NULL, NULL}};

static const luaL_Reg client_metamethods[] = {{"__gc", door_client_close},
                                              {"__close", door_client_close},
                                              {"__tostring", door_client_tostring},
                                              {NULL, NULL}};

/* A DNS lookup that timed out keeps running in a libcurl thread, so its code must stay mapped after
 * Lua unloads this module. Where the system supports it, the module, and with it libcurl, stays
 * loaded for the life of the process. */
static void pin_module(void) {
#if defined RTLD_NOLOAD && defined RTLD_NODELETE
  static const char own_address = 0;
  Dl_info self;
  if (dladdr(&own_address, &self) == 0 || self.dli_fname == NULL) return;
  void *handle = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  if (handle != NULL) dlclose(handle);
#endif
}

/* Without working clocks no time limit could be kept. */
static void check_clocks(lua_State *L) {
  int problem = clock_problem();
  if (problem != 0)
    luaL_error(L, "icptoken: the clocks of this machine cannot be read: %s", strerror(problem));
}

static int do_nothing(lua_State *L) {
  (void)L;
  return 0;
}

/* Pushes the upvalues that every function of this file needs, in the order of client.h. Protected
 * bodies have the first two. */
static void push_upvalues(lua_State *L) {
  json_push_decoder(L);
  lua_pushcfunction(L, do_nothing);
  lua_pushvalue(L, -2);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, call_trampoline, CLIENT_NOTHING);
  lua_pushstring(L, failure_name(FAILURE_NO_MEMORY));
  lua_pushliteral(L, "cached");
}

/* The upvalues are on the stack, from index first on. */
static void make_client_type(lua_State *L, int first) {
  luaL_newmetatable(L, CLIENT_TYPE);
  compat_setfuncs(L, client_metamethods, first, CLIENT_UPVALUES);
  lua_newtable(L);
  compat_setfuncs(L, client_methods, first, CLIENT_UPVALUES);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, CLIENT_TYPE);
  lua_setfield(L, -2, "__name");
  lua_pop(L, 1);
}

EXPORT int luaopen_icptoken(lua_State *L);

/* Reads no file of the user and does not use the network. May be called again in the same state. */
EXPORT int luaopen_icptoken(lua_State *L) {
  check_clocks(L);
  pin_module();
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
    return luaL_error(L, "icptoken: libcurl cannot be initialised");
  int first = lua_gettop(L) + 1;
  push_upvalues(L);
  make_client_type(L, first);
  lua_newtable(L);
  compat_setfuncs(L, module_functions, first, CLIENT_UPVALUES);
  lua_pushliteral(L, "icptoken");
  lua_setfield(L, -2, "_NAME");
  lua_pushliteral(L, ICPTOKEN_VERSION);
  lua_setfield(L, -2, "_VERSION");
  return 1;
}
