/* client.c - the client that scripts hold: its making and its end, and what it tells of itself.
 * Every Lua call that may allocate may jump out of here. So a client is made zeroed, gets its
 * metatable next and its resources last, and one function frees it from every state. */
#include "client.h"

#include <stdio.h>
#include <string.h>

#include "compat.h"
#include "credential.h"
#include "request.h"
#include "response.h"

/* Its address stands in every client. */
static const char client_mark = 'c';

struct client *client_check(lua_State *L, int index) {
  struct client *client = lua_touserdata(L, index);
  /* size and mark tell a client as surely as its metatable does, and sooner */
  if (client == NULL || compat_rawlen(L, index) != sizeof *client || client->mark != &client_mark) {
    luaL_checkudata(L, index, CLIENT_TYPE);
    luaL_argerror(L, index, "a client of another copy of icptoken");
  }
  return client;
}

/* Frees everything; right for a client in any state, a zeroed one too. */
static void free_client(struct client *client) {
  exchange_close(&client->exchange, &client->pool);
  exchange_close(&client->login, &client->pool);
  pool_close(&client->pool);
  endpoint_free(&client->endpoint);
  endpoint_free(&client->login_endpoint);
  cache_free(&client->cache);
  buffer_free(&client->own_url);
  buffer_free(&client->own_key);
  buffer_free(&client->url);
  buffer_free(&client->key);
  buffer_free(&client->line);
  buffer_free(&client->login_line);
  for (int i = 0; i < CLIENT_FILES; i++)
    buffer_free(&client->files[i]);
  buffer_free(&client->pair);
  refusal_free(&client->refusal);
  buffer_free(&client->identity);
  buffer_free(&client->scratch);
  client->open = false;
}

/* For an errno of pool_open; 0 stands for memory as well. */
static int fail_resource(lua_State *L, int problem) {
  struct failure failure;
  const char *descriptors = failure_explain_descriptors(problem);
  failure_clear(&failure);
  if (descriptors == NULL)
    failure_set_no_memory(&failure);
  else
    failure_set(&failure, FAILURE_CONNECT, true, "cannot make a client: %s", descriptors);
  return response_push_failure(L, &failure, NULL, 0);
}

int client_fail_closed(lua_State *L) {
  struct failure failure;
  failure_clear(&failure);
  failure_set(&failure, FAILURE_CLOSED, false, "this client was closed");
  return response_push_failure(L, &failure, NULL, 0);
}

static bool open_endpoints(lua_State *L, struct client *client, int argument,
                           enum options_place place) {
  char problem[ENDPOINT_PROBLEM_SIZE];
  const struct settings *settings = &client->settings;
  enum endpoint_result result = endpoint_build(&client->endpoint, settings, problem);
  if (result == ENDPOINT_WRONG) luaL_argerror(L, argument, problem);
  if (result != ENDPOINT_OK) return false;
  if (place == OPTIONS_LOGIN)
    return endpoint_build(&client->login_endpoint, settings, problem) == ENDPOINT_OK;
  return settings->credential.login_username == NULL ||
         endpoint_build_sibling(&client->login_endpoint, &client->endpoint, OPTIONS_LOGIN_PATH);
}

static bool open_transfer(lua_State *L, struct client *client, struct transfer *transfer,
                          const struct endpoint *endpoint) {
  struct transfer_problem refused = {CURLE_OK, NULL};
  if (transfer_open(transfer, &client->pool, endpoint, &client->settings, &refused)) return true;
  if (refused.code != CURLE_OUT_OF_MEMORY)
    luaL_error(L, "the installed libcurl %s refuses %s: %s",
               curl_version_info(CURLVERSION_NOW)->version, refused.option,
               curl_easy_strerror(refused.code));
  return false;
}

/* Opens the resources of a client whose settings were read. False when memory is short, or
 * descriptors, as the errno at problem then says. Raises for an option that this libcurl does not
 * know. */
static bool open_client(lua_State *L, struct client *client, int own, int argument,
                        enum options_place place, int *problem) {
  client->pool.multiplexed = strcmp(client->settings.http_version, "2") == 0;
  client->pool.kept = (long)client->settings.parallel + 1; /* and one for log-ins */
  return open_endpoints(L, client, argument, place) && (*problem = pool_open(&client->pool)) == 0 &&
         buffer_append_string(&client->own_url, client->endpoint.url.data) &&
         request_append_query(L, 0, own, client->endpoint.has_query, &client->own_url) &&
         request_append_key(L, 0, own, &client->own_key) &&
         (client->settings.credential.login_username == NULL ||
          credential_append_pair(client->settings.credential.login_username,
                                 client->settings.credential.login_password, &client->pair)) &&
         open_transfer(L, client, &client->exchange.transfer, &client->endpoint) &&
         (client->settings.credential.login_username == NULL ||
          open_transfer(L, client, &client->login.transfer, &client->login_endpoint));
}

/* The details that are handed out when Lua has no memory left to make some. */
static void keep_spare_details(lua_State *L, int own) {
  lua_createtable(L, 0, 2);
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, "retryable");
  compat_pushwhole(L, 0);
  lua_setfield(L, -2, "attempts");
  lua_rawseti(L, own, CLIENT_SPARE_DETAILS);
  lua_pushboolean(L, 0); /* so that the place is there */
  lua_rawseti(L, own, CLIENT_REFUSAL_ERRORS);
}

int client_new(lua_State *L, int argument, enum options_place place) {
  struct options_origin origin = {argument, argument, 0};
  struct client *client = compat_newuserdata(L, sizeof *client);
  memset(client, 0, sizeof *client);
  client->mark = &client_mark;
  int index = lua_gettop(L);
  luaL_getmetatable(L, CLIENT_TYPE);
  lua_setmetatable(L, index);
  options_read(L, origin, place, &client->settings);
  int own = lua_gettop(L);
  keep_spare_details(L, own);
  lua_pushvalue(L, own);
  compat_setown(L, index);
  int problem = 0;
  if (!open_client(L, client, own, argument, place, &problem)) {
    free_client(client);
    return fail_resource(L, problem);
  }
  jitter_seed(&client->jitter);
  client->login.is_login = true;
  client->open = true;
  lua_settop(L, index);
  return 1;
}

void client_refuse_busy(lua_State *L, const struct client *client) {
  if (client->busy)
    luaL_error(L, "this client is in the middle of a call; use another client here");
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
  compat_pushwhole(L, (int64_t)count);
  lua_setfield(L, -2, name);
}

/* The stages of a transfer, in microseconds from its start. */
static const struct {
  const char *name;
  CURLINFO what;
} stages[] = {
    {"namelookup", CURLINFO_NAMELOOKUP_TIME_T},       {"connect", CURLINFO_CONNECT_TIME_T},
    {"appconnect", CURLINFO_APPCONNECT_TIME_T},       {"pretransfer", CURLINFO_PRETRANSFER_TIME_T},
    {"starttransfer", CURLINFO_STARTTRANSFER_TIME_T}, {"total", CURLINFO_TOTAL_TIME_T}};

enum { STAGES = sizeof stages / sizeof *stages };

static void push_timings(lua_State *L, const curl_off_t *reached, long connections) {
  lua_createtable(L, 0, STAGES + 1);
  for (size_t i = 0; i < STAGES; i++) {
    lua_pushnumber(L, (lua_Number)reached[i] / 1000000);
    lua_setfield(L, -2, stages[i].name);
  }
  set_count(L, "connections", (uint64_t)connections);
}

int client_stats(lua_State *L, int index) {
  const struct client *client = client_check(L, index);
  if (!client->open) return client_fail_closed(L);
  /* all is read before anything is pushed, which may run a finaliser that closes the client */
  const struct counters counters = client->counters;
  curl_off_t reached[STAGES] = {0};
  long connections = 0;
  CURL *easy = client->exchange.transfer.easy;
  for (size_t i = 0; i < STAGES; i++)
    curl_easy_getinfo(easy, stages[i].what, &reached[i]);
  curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections);
  lua_createtable(L, 0, 7);
  set_count(L, "requests", counters.requests);
  set_count(L, "attempts", counters.attempts);
  set_count(L, "cache_hits", counters.cache_hits);
  set_count(L, "refreshes", counters.refreshes);
  set_count(L, "stale", counters.stale);
  lua_newtable(L);
  for (unsigned code = FAILURE_NONE + 1; code < FAILURE_COUNT; code++)
    if (counters.failures[code] > 0)
      set_count(L, failure_name((enum failure_code)code), counters.failures[code]);
  lua_setfield(L, -2, "failures");
  push_timings(L, reached, connections);
  lua_setfield(L, -2, "timings");
  return 1;
}

void client_close(lua_State *L, int index) {
  struct client *client = client_check(L, index);
  client_refuse_busy(L, client);
  free_client(client);
}

int client_tostring(lua_State *L, int index) {
  const struct client *client = client_check(L, index);
  char where[300] = "closed";
  if (client->open) snprintf(where, sizeof where, "%s", client->endpoint.authority.data);
  lua_pushfstring(L, "%s (%s)", CLIENT_TYPE, where);
  return 1;
}
