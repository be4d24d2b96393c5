/* client.c - the client that scripts hold: its life, and what is done on it.
 * Every Lua call that may allocate may jump out of here. So a client is made zeroed, gets its
 * metatable next and its resources last, and one function frees it from every state; and the part
 * of a call that holds a transfer runs protected. */
#include "client.h"

#include <string.h>

#include "compat.h"
#include "credential.h"
#include "endpoint.h"
#include "exchange.h"
#include "options.h"
#include "pool.h"
#include "response.h"

/* The longest wait before a hook (Ctrl-C) gets its turn. */
enum { SLICE_MS = 250 };

/* In the client's own table, which otherwise has option names for keys. */
enum { SPARE_DETAILS = 1 };

struct counters {
  uint64_t requests, attempts, failures[FAILURE_COUNT];
};

struct client {
  bool open;
  bool busy;              /* in the middle of a call: the handle is in use */
  bool credential_is_own; /* the transfer carries the client's own, unchanging credential */
  struct settings settings;
  struct endpoint endpoint;
  struct pool pool;
  struct exchange exchange;
  struct jitter jitter;
  struct buffer own_url, request_url, line, scratch;
  struct counters counters;
};

/* One call on a client, while it lasts. */
struct call {
  struct client *client;
  const struct settings *settings; /* the client's, or the request's own */
  const char *url;
  struct secrets secrets;
  struct circumstances about;
};

static struct client *check_client(lua_State *L, int index) {
  return luaL_checkudata(L, index, CLIENT_TYPE);
}

/* Frees everything; right for a client in any state, a zeroed one too. */
static void free_client(struct client *client) {
  transfer_close(&client->exchange.transfer, &client->pool);
  pool_close(&client->pool);
  endpoint_free(&client->endpoint);
  buffer_free(&client->own_url);
  buffer_free(&client->request_url);
  buffer_free(&client->line);
  buffer_free(&client->scratch);
  client->open = false;
}

static int fail_no_memory(lua_State *L) {
  struct failure failure;
  failure_clear(&failure);
  failure_set_no_memory(&failure);
  return response_push_failure(L, &failure, NULL, 0);
}

/* Opens the resources of a client whose settings were read. False when memory is short. Raises for
 * an option that this libcurl does not know. */
static bool open_client(lua_State *L, struct client *client, int own, int argument) {
  char problem[ENDPOINT_PROBLEM_SIZE];
  struct transfer_problem refused = {CURLE_OK, NULL};
  enum endpoint_result result = endpoint_build(&client->endpoint, &client->settings, problem);
  if (result == ENDPOINT_WRONG) luaL_argerror(L, argument, problem);
  if (result != ENDPOINT_OK || !pool_open(&client->pool) ||
      !buffer_append_string(&client->own_url, client->endpoint.url.data) ||
      !options_append_query(L, 0, own, client->endpoint.has_query, &client->own_url))
    return false;
  if (transfer_open(&client->exchange.transfer, &client->pool, &client->endpoint, &client->settings,
                    &refused))
    return true;
  if (refused.code != CURLE_OUT_OF_MEMORY)
    luaL_error(L, "the installed libcurl %s refuses %s: %s",
               curl_version_info(CURLVERSION_NOW)->version, refused.option,
               curl_easy_strerror(refused.code));
  return false;
}

/* The details that are handed out when Lua has no memory left to make some. */
static void keep_spare_details(lua_State *L, int own) {
  lua_createtable(L, 0, 2);
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, "retryable");
  compat_pushwhole(L, 0);
  lua_setfield(L, -2, "attempts");
  lua_rawseti(L, own, SPARE_DETAILS);
}

int client_new(lua_State *L, int argument) {
  struct client *client = compat_newuserdata(L, sizeof *client);
  memset(client, 0, sizeof *client);
  int index = lua_gettop(L);
  luaL_getmetatable(L, CLIENT_TYPE);
  lua_setmetatable(L, index);
  options_read(L, argument, OPTIONS_CLIENT, &client->settings);
  int own = lua_gettop(L);
  keep_spare_details(L, own);
  lua_pushvalue(L, own);
  compat_setown(L, index);
  if (!open_client(L, client, own, argument)) {
    free_client(client);
    return fail_no_memory(L);
  }
  jitter_seed(&client->jitter);
  client->open = true;
  lua_settop(L, index);
  return 1;
}

/* The password in a proxy's URL: what stands between the first colon behind the scheme and the
 * last @. */
static struct span proxy_password(const char *proxy) {
  const struct span none = {NULL, 0};
  if (proxy == NULL) return none;
  const char *start = strstr(proxy, "://");
  const char *user = start != NULL ? start + 3 : proxy;
  const char *at = strrchr(user, '@'), *colon = strchr(user, ':');
  if (at == NULL || colon == NULL || colon > at) return none;
  return (struct span){colon + 1, (size_t)(at - colon - 1)};
}

static void gather_secrets(struct call *call) {
  const struct settings *settings = call->settings;
  const struct buffer *line = &call->client->exchange.transfer.credential;
  struct span password = proxy_password(settings->proxy);
  call->secrets.count = 0;
  scrub_add_secret(&call->secrets, password.start, password.length);
  if (settings->password != NULL)
    scrub_add_secret(&call->secrets, settings->password, strlen(settings->password));
  if (settings->key_password != NULL)
    scrub_add_secret(&call->secrets, settings->key_password, strlen(settings->key_password));
  if (line->length == 0) return;
  const char *value = strrchr(line->data, ' ') + 1; /* "Authorization: <scheme> <value>" */
  scrub_add_secret(&call->secrets, value, strlen(value));
}

/* Puts the credential of the call in place, unless it is there already. */
static bool ready_credential(struct call *call) {
  struct client *client = call->client;
  bool own = call->settings == &client->settings && client->settings.id_token_file == NULL;
  if (own && client->credential_is_own) return true;
  client->credential_is_own = false;
  buffer_clear(&client->line);
  if (!credential_write(call->settings, &client->line, &client->exchange.failure)) return false;
  transfer_set_credential(&client->exchange.transfer, &client->line);
  client->credential_is_own = own;
  return true;
}

/* A process that was forked since must not use the connections it inherited. */
static bool ready_pool(struct client *client) {
  bool ready = true;
  if (client->pool.multi == NULL) {
    ready = pool_open(&client->pool);
  } else if (pool_is_foreign(&client->pool)) {
    jitter_seed(&client->jitter);
    ready = pool_adopt(&client->pool);
  }
  if (!ready) failure_set_no_memory(&client->exchange.failure);
  return ready;
}

/* Drives the exchange until it is answered, with a turn for a hook after each slice. */
static void drive(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct exchange *exchange = &client->exchange;
  while (!exchange_advance(exchange, &client->pool, &call->about)) {
    int wait = exchange_idle_ms(exchange, SLICE_MS);
    if (!transfer_step(&client->pool, wait)) {
      exchange_stop(exchange, &client->pool);
      failure_set_no_memory(&exchange->failure);
      return;
    }
    compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
}

/* The attempts of a call. Leaves the token table at the top and returns true, or the list of the
 * server's errors (or nil) and returns false. */
static bool converse(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct exchange *exchange = &client->exchange;
  const struct reader reader = {lua_upvalueindex(CLIENT_DECODE), &call->about, &client->scratch,
                                &client->jitter};
  struct token_limits limits;
  exchange_begin(exchange, call->url, call->settings->timeout_ms, call->settings->retries);
  for (int top = lua_gettop(L);; lua_settop(L, top)) {
    drive(L, call);
    if (exchange->failure.code == FAILURE_NONE) {
      if (exchange->failure.status != 200)
        response_read_refusal(L, &reader, exchange);
      else if (response_read_token(L, &reader, exchange, &limits))
        return true;
    }
    if (exchange_retry(exchange, &client->jitter)) continue;
    lua_settop(L, top + 1); /* the list of errors, or nil */
    return false;
  }
}

/* Runs protected, with a struct call as its argument. */
static int run_call(lua_State *L) {
  struct call *call = lua_touserdata(L, 1);
  struct client *client = call->client;
  failure_clear(&client->exchange.failure);
  if (!ready_pool(client) || !ready_credential(call)) {
    lua_pushnil(L);
  } else {
    gather_secrets(call);
    if (converse(L, call)) return 1;
  }
  return response_push_failure(L, &client->exchange.failure, client->endpoint.shown.data,
                               lua_gettop(L));
}

/* Fills the call in from the request at argument. settings is room for those of the request. */
static bool prepare_call(lua_State *L, struct client *client, int index, int argument,
                         struct settings *settings, struct call *call) {
  *call = (struct call){.client = client, .settings = &client->settings};
  call->url = client->own_url.data;
  if (!lua_isnoneornil(L, argument)) {
    *settings = client->settings;
    options_read(L, argument, OPTIONS_REQUEST, settings);
    int request = lua_gettop(L); /* stays on the stack: settings point to its strings */
    compat_getown(L, index);
    buffer_clear(&client->request_url);
    if (!buffer_append_string(&client->request_url, client->endpoint.url.data) ||
        !options_append_query(L, request, request + 1, client->endpoint.has_query,
                              &client->request_url))
      return false;
    call->settings = settings;
    call->url = client->request_url.data;
  }
  call->about = (struct circumstances){call->settings, &client->endpoint, &call->secrets,
                                       &client->pool, call->settings->timeout_ms};
  return true;
}

/* Pushes the failure for Lua's own memory running out, out of things that are there already. The
 * message, Lua's own, is at the top. */
static int push_lua_no_memory(lua_State *L, int index) {
  lua_pushnil(L);
  lua_insert(L, -2);
  lua_pushvalue(L, lua_upvalueindex(CLIENT_NO_MEMORY));
  compat_getown(L, index);
  lua_rawgeti(L, -1, SPARE_DETAILS);
  lua_remove(L, -2);
  return 4;
}

static int fail_closed(lua_State *L) {
  struct failure failure;
  failure_clear(&failure);
  failure_set(&failure, FAILURE_CLOSED, false, "this client was closed");
  return response_push_failure(L, &failure, NULL, 0);
}

static void refuse_busy(lua_State *L, const struct client *client) {
  if (client->busy)
    luaL_error(L, "this client is in the middle of a call; use another client here");
}

static void end_call(struct client *client) {
  struct exchange *exchange = &client->exchange;
  client->counters.requests++;
  client->counters.attempts += exchange->attempts;
  client->counters.failures[exchange->failure.code]++;
  exchange_stop(exchange, &client->pool);
  exchange->attempts = 0;
  transfer_forget_answer(&exchange->transfer);
  buffer_clear(&client->scratch);
  client->busy = false;
}

int client_fetch(lua_State *L, int index, int argument) {
  struct client *client = check_client(L, index);
  struct settings settings;
  struct call call;
  if (!client->open) return fail_closed(L);
  refuse_busy(L, client);
  if (!prepare_call(L, client, index, argument, &settings, &call)) return fail_no_memory(L);
  int top = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(CLIENT_CONVERSE));
  lua_pushlightuserdata(L, &call);
  client->busy = true;
  int status = lua_pcall(L, 1, LUA_MULTRET, 0);
  if (status == LUA_ERRMEM) client->exchange.failure.code = FAILURE_NO_MEMORY;
  end_call(client);
  if (status == LUA_ERRMEM) return push_lua_no_memory(L, index);
  if (status != 0) return lua_error(L);
  return lua_gettop(L) - top;
}

static void set_seconds(lua_State *L, CURL *easy, const char *name, CURLINFO what) {
  curl_off_t microseconds = 0;
  curl_easy_getinfo(easy, what, &microseconds);
  lua_pushnumber(L, (lua_Number)microseconds / 1000000);
  lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
  compat_pushwhole(L, (int64_t)count);
  lua_setfield(L, -2, name);
}

static void push_timings(lua_State *L, CURL *easy) {
  long connects = 0;
  lua_createtable(L, 0, 7);
  set_seconds(L, easy, "namelookup", CURLINFO_NAMELOOKUP_TIME_T);
  set_seconds(L, easy, "connect", CURLINFO_CONNECT_TIME_T);
  set_seconds(L, easy, "appconnect", CURLINFO_APPCONNECT_TIME_T);
  set_seconds(L, easy, "pretransfer", CURLINFO_PRETRANSFER_TIME_T);
  set_seconds(L, easy, "starttransfer", CURLINFO_STARTTRANSFER_TIME_T);
  set_seconds(L, easy, "total", CURLINFO_TOTAL_TIME_T);
  curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects);
  set_count(L, "connections", (uint64_t)connects);
}

int client_stats(lua_State *L, int index) {
  const struct client *client = check_client(L, index);
  if (!client->open) return fail_closed(L);
  lua_createtable(L, 0, 4);
  set_count(L, "requests", client->counters.requests);
  set_count(L, "attempts", client->counters.attempts);
  lua_newtable(L);
  for (unsigned code = FAILURE_NONE + 1; code < FAILURE_COUNT; code++)
    if (client->counters.failures[code] > 0)
      set_count(L, failure_name((enum failure_code)code), client->counters.failures[code]);
  lua_setfield(L, -2, "failures");
  push_timings(L, client->exchange.transfer.easy);
  lua_setfield(L, -2, "timings");
  return 1;
}

void client_close(lua_State *L, int index) {
  struct client *client = check_client(L, index);
  refuse_busy(L, client);
  free_client(client);
}

int client_tostring(lua_State *L, int index) {
  const struct client *client = check_client(L, index);
  if (client->open)
    lua_pushfstring(L, "%s (%s)", CLIENT_TYPE, client->endpoint.authority.data);
  else
    lua_pushfstring(L, "%s (closed)", CLIENT_TYPE);
  return 1;
}

static int do_nothing(lua_State *L) {
  (void)L;
  return 0;
}

void client_push_upvalues(lua_State *L) {
  response_push_decoder(L);
  lua_pushcfunction(L, do_nothing);
  lua_pushvalue(L, -2);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, run_call, 2);
  lua_pushstring(L, failure_name(FAILURE_NO_MEMORY));
}
