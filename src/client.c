/* client.c - the client object that scripts hold: how it is created and freed. Every Lua call that
 * may allocate may longjmp out of these functions. So a client is zeroed first, then gets its
 * metatable and its resources last, and one function frees it in any state. */
#include "client.h"

#include <stdio.h>
#include <string.h>

#include "compat.h"
#include "credential.h"
#include "request.h"
#include "result.h"
#include "route.h"
#include "table.h"

/* Every client contains its address. */
static const char client_mark = 'c';

struct client *client_check(lua_State *L, int index) {
  struct client *client = lua_touserdata(L, index);
  /* size and mark identify a client as reliably as its metatable does, and faster */
  if (client == NULL || compat_rawlen(L, index) != sizeof *client || client->mark != &client_mark) {
    luaL_checkudata(L, index, CLIENT_TYPE);
    luaL_argerror(L, index, "this client belongs to another copy of icptoken");
  }
  return client;
}

/* Frees everything; valid for a client in any state, even a zeroed one. */
static void free_client(struct client *client) {
  exchange_close(&client->exchange, &client->pool);
  session_close(&client->session, &client->pool);
  pool_close(&client->pool);
  endpoint_free(&client->endpoint);
  cache_free(&client->cache);
  buffer_free(&client->own_url);
  buffer_free(&client->own_key);
  buffer_free(&client->url);
  buffer_free(&client->key);
  tls_files_free(&client->files);
  buffer_free(&client->scratch);
  client->open = false;
}

/* Sets the failure for an errno of pool_open; 0 also means out of memory. */
static int fail_resource(lua_State *L, int problem) {
  struct failure failure;
  const char *descriptors = failure_explain_descriptors(problem);
  failure_clear(&failure);
  if (descriptors == NULL)
    failure_set_no_memory(&failure);
  else
    failure_set(&failure, FAILURE_CONNECT, true, "cannot create a client: %s", descriptors);
  return result_push_failure(L, &failure, NULL, 0);
}

int client_fail_closed(lua_State *L) {
  struct failure failure;
  failure_clear(&failure);
  failure_set(&failure, FAILURE_CLOSED, false, "this client was closed");
  return result_push_failure(L, &failure, NULL, 0);
}

/* Fills in the endpoint of the options, which is the token endpoint, or for icptoken.login the
 * identity provider. */
static bool open_endpoints(lua_State *L, struct client *client, int argument,
                           enum options_kind kind) {
  char problem[ENDPOINT_PROBLEM_SIZE];
  const struct settings *settings = &client->settings;
  struct endpoint *endpoint = kind == OPTIONS_LOGIN ? &client->session.endpoint : &client->endpoint;
  enum endpoint_result result = endpoint_build(endpoint, settings, problem);
  if (result == ENDPOINT_WRONG) luaL_argerror(L, argument, problem);
  if (result != ENDPOINT_OK) return false;
  return kind == OPTIONS_LOGIN || settings->credential.login_username == NULL ||
         endpoint_build_sibling(&client->session.endpoint, &client->endpoint, OPTIONS_LOGIN_PATH);
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

/* Sets up what token requests need. False if out of memory. */
static bool open_tokens(lua_State *L, struct client *client, int own) {
  return buffer_append_string(&client->own_url, client->endpoint.url.data) &&
         request_append_query(L, 0, own, client->endpoint.has_query, &client->own_url) &&
         request_append_key(L, 0, own, &client->own_key) &&
         open_transfer(L, client, &client->exchange.transfer, &client->endpoint);
}

/* Sets up what logins need, if the client logs in. False if out of memory. */
static bool open_login(lua_State *L, struct client *client) {
  const struct credential *credential = &client->settings.credential;
  struct session *session = &client->session;
  session->login.is_login = true;
  return credential->login_username == NULL ||
         (credential_append_pair(credential->login_username, credential->login_password,
                                 &session->pair) &&
          open_transfer(L, client, &session->login.transfer, &session->endpoint));
}

/* Opens the resources of a client whose settings were read. On failure returns false, and *problem
 * is the errno of pool_open, or 0 if out of memory. Raises for an option that this libcurl does not
 * support. */
static bool open_client(lua_State *L, struct client *client, int own, int argument,
                        enum options_kind kind, int *problem) {
  client->pool.multiplexed = strcmp(client->settings.http_version, "2") == 0;
  client->cache.max_entries = (size_t)client->settings.cache_size;
  client->pool.kept = (long)client->settings.parallel + 1; /* and one for logins */
  client->proxy_password = route_find_password(client->settings.proxy);
  return open_endpoints(L, client, argument, kind) && (*problem = pool_open(&client->pool)) == 0 &&
         (kind == OPTIONS_LOGIN || open_tokens(L, client, own)) && open_login(L, client);
}

/* The details that are returned when Lua is out of memory. */
static void keep_spare_details(lua_State *L, int own) {
  lua_createtable(L, 0, 2);
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, "retryable");
  table_set_number(L, -1, "attempts", 0);
  lua_rawseti(L, own, CLIENT_SPARE_DETAILS);
  lua_pushboolean(L, 0); /* so that a later write needs no memory */
  lua_rawseti(L, own, CLIENT_REFUSAL_ERRORS);
}

int client_new(lua_State *L, int argument, enum options_kind kind) {
  struct client *client = compat_newuserdata(L, sizeof *client);
  memset(client, 0, sizeof *client);
  client->mark = &client_mark;
  int index = lua_gettop(L);
  luaL_getmetatable(L, CLIENT_TYPE);
  lua_setmetatable(L, index);
  options_read_client(L, argument, kind, &client->settings);
  int own = lua_gettop(L);
  keep_spare_details(L, own);
  lua_pushvalue(L, own);
  compat_setown(L, index);
  int problem = 0;
  if (!open_client(L, client, own, argument, kind, &problem)) {
    free_client(client);
    return fail_resource(L, problem);
  }
  jitter_seed(&client->jitter);
  client->open = true;
  lua_settop(L, index);
  return 1;
}

void client_refuse_busy(lua_State *L, const struct client *client) {
  if (client->busy)
    luaL_error(L, "this client is in the middle of a call; use another client here");
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
