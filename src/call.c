/* call.c - one call on a client that may talk to the cluster, from its request to its result. */
#include "call.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "compat.h"
#include "credential.h"
#include "request.h"

/* The longest wait before a hook (Ctrl-C) gets its turn. */
enum { SLICE_MS = 250 };

/* Arguments of a protected half. */
enum { RUN_CALL = 1, RUN_CLIENT };

struct client *call_client(lua_State *L, int index) {
  struct client *client = client_check(L, index);
  if (!client->open) return NULL;
  client_refuse_busy(L, client);
  return client;
}

static const char *describe_credential(const struct settings *settings) {
  if (settings->username != NULL) return "user name and password";
  return settings->anonymous ? "a request without a credential" : "the ID token";
}

void call_describe(struct call *call) {
  struct client *client = call->client;
  call->about = (struct circumstances){call->settings,
                                       &client->endpoint,
                                       &call->secrets,
                                       &client->pool,
                                       describe_credential(call->settings),
                                       call->timeout_ms};
}

void call_begin(struct call *call) {
  struct client *client = call->client;
  call->settings = &client->settings;
  call->url = client->own_url.data;
  call->shown_url = client->endpoint.shown.data;
  call->timeout_ms = client->settings.timeout_ms;
  call->retries = client->settings.retries;
  call_describe(call);
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

static void add_secret_string(struct secrets *secrets, const char *text) {
  if (text != NULL) scrub_add_secret(secrets, text, strlen(text));
}

/* The value of an "Authorization: <scheme> <value>" line. */
static void add_secret_line(struct secrets *secrets, const struct buffer *line) {
  static const char name[] = "Authorization: ";
  if (line->length < sizeof name) return;
  const char *space = memchr(line->data + sizeof name - 1, ' ', line->length - sizeof name + 1);
  if (space != NULL)
    scrub_add_secret(secrets, space + 1, (size_t)(line->data + line->length - space - 1));
}

static void gather_secrets(struct call *call) {
  const struct settings *settings = call->settings;
  struct span password = proxy_password(settings->proxy);
  call->secrets.count = 0;
  scrub_add_secret(&call->secrets, password.start, password.length);
  add_secret_string(&call->secrets, settings->password);
  add_secret_string(&call->secrets, settings->login_password);
  add_secret_string(&call->secrets, settings->key_password);
  add_secret_line(&call->secrets, &call->client->line);
  add_secret_line(&call->secrets, &call->client->login_line);
}

/* Takes a failure of another exchange for the call's. */
static bool fail_with(struct call *call, const struct failure *failure) {
  call->client->exchange.failure = *failure;
  return false;
}

static bool fail_no_memory(struct call *call) {
  failure_set_no_memory(&call->client->exchange.failure);
  return false;
}

/* A process that was forked since must not use the connections it inherited. */
static bool ready_pool(struct call *call) {
  struct client *client = call->client;
  if (client->pool.multi == NULL) return pool_open(&client->pool) || fail_no_memory(call);
  if (!pool_is_foreign(&client->pool)) return true;
  jitter_seed(&client->jitter);
  return pool_adopt(&client->pool) || fail_no_memory(call);
}

/* Drives one exchange until it is answered, with a turn for a hook after each slice. */
static void drive(lua_State *L, struct call *call, struct exchange *exchange,
                  const struct circumstances *about) {
  struct pool *pool = &call->client->pool;
  while (!exchange_advance(exchange, pool, about)) {
    if (!transfer_step(pool, exchange_idle_ms(exchange, SLICE_MS))) {
      exchange_stop(exchange, pool);
      failure_set_no_memory(&exchange->failure);
      return;
    }
    compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
}

static enum call_outcome settle(lua_State *L, struct call *call, struct exchange *exchange,
                                const struct circumstances *about, response_reader *read) {
  struct client *client = call->client;
  const struct reader reader = {lua_upvalueindex(CLIENT_DECODE), about, &client->scratch,
                                &client->jitter};
  int top = lua_gettop(L);
  if (exchange->failure.code == FAILURE_NONE) {
    if (exchange->failure.status != 200)
      response_read_refusal(L, &reader, exchange);
    else if (read(L, &reader, exchange, &call->limits))
      return CALL_READ;
  }
  if (exchange_retry(exchange, &client->jitter)) {
    lua_settop(L, top);
    return CALL_AGAIN;
  }
  lua_settop(L, top + 1); /* the list of errors, or nil */
  return CALL_FAILED;
}

enum call_outcome call_settle(lua_State *L, struct call *call, struct exchange *exchange,
                              response_reader *read) {
  return settle(L, call, exchange, &call->about, read);
}

/* The attempts of one exchange. Leaves what it read at the top and returns true, or the server's
 * errors (or nil) and returns false. */
static bool converse(lua_State *L, struct call *call, struct exchange *exchange, const char *url,
                     const struct circumstances *about, response_reader *read) {
  enum call_outcome outcome;
  exchange_begin(exchange, url, call->deadline_ms, call->retries);
  do {
    drive(L, call, exchange, about);
    outcome = settle(L, call, exchange, about, read);
  } while (outcome == CALL_AGAIN);
  call->attempts += exchange->attempts;
  return outcome == CALL_READ;
}

static bool append_field(struct buffer *form, const char *name, const char *value) {
  return buffer_append_string(form, name) && buffer_append_encoded(form, value, strlen(value));
}

/* The form that the identity provider wants (RFC 6749 section 4.3.2). */
static bool write_form(const struct settings *settings, struct buffer *form) {
  return buffer_append_string(form, "grant_type=password") &&
         append_field(form, "&username=", settings->login_username) &&
         append_field(form, "&password=", settings->login_password) &&
         append_field(form, "&scope=", "openid");
}

/* Asks the identity provider. Leaves its answer at the top, or the server's errors (or nil). */
static bool ask_identity_provider(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct transfer *transfer = &client->login.transfer;
  struct circumstances about = call->about;
  struct buffer form = {0};
  about.endpoint = &client->login_endpoint;
  about.credential = "user name and password";
  call->logged_in = true;
  bool ready =
      write_form(&client->settings, &form) && transfer_set_form(transfer, &form) == CURLE_OK;
  buffer_free(&form);
  gather_secrets(call);
  bool read = false;
  if (ready) {
    read = converse(L, call, &client->login, client->login_endpoint.url.data, &about,
                    response_read_login);
  } else {
    failure_clear(&client->login.failure);
    failure_set_no_memory(&client->login.failure);
    lua_pushnil(L);
  }
  transfer_clear_form(transfer);
  if (!read) call->shown_url = client->login_endpoint.shown.data;
  return read || fail_with(call, &client->login.failure);
}

/* Logs in and keeps the ID token as the client's credential. On failure the server's errors (or
 * nil) are at the top. */
static bool log_in(lua_State *L, struct call *call) {
  struct client *client = call->client;
  buffer_clear(&client->login_line);
  client->line_is_own = false;
  if (!ask_identity_provider(L, call)) return false;
  lua_getfield(L, -1, "id_token");
  bool kept = credential_write_token(lua_tostring(L, -1), compat_rawlen(L, -1),
                                     "the identity provider's ID token", &client->login_line,
                                     &client->exchange.failure);
  transfer_forget_answer(&client->login.transfer);
  lua_pop(L, 2);
  if (!kept) lua_pushnil(L);
  return kept;
}

/* Calls the id_token function. Its time does not count, so the call's limit begins after it. */
static bool call_function(lua_State *L, struct call *call, int client) {
  struct failure *failure = &call->client->exchange.failure;
  char sample[SCRUB_SIZE];
  size_t length;
  int top = lua_gettop(L);
  compat_getown(L, client);
  lua_getfield(L, -1, "id_token");
  lua_call(L, 0, 2);
  bool ok = false;
  if (lua_type(L, -2) == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -2, &length);
    ok = credential_write_token(text, length, "what the id_token function returned",
                                &call->client->line, failure);
  } else if (lua_isnil(L, -2) && lua_type(L, -1) == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -1, &length);
    failure_set(failure, FAILURE_INVALID_CREDENTIAL, false, "the id_token function failed: %s",
                scrub_sample(&call->secrets, text, length, sample));
  } else {
    failure_set(failure, FAILURE_INVALID_CREDENTIAL, false,
                "the id_token function returned %s, not a string", luaL_typename(L, -2));
  }
  lua_settop(L, top);
  return ok;
}

/* Brings the Authorization header of the call into client->line. On failure the server's errors
 * (or nil) are at the top. */
static bool ready_line(lua_State *L, struct call *call, int client_index) {
  struct client *client = call->client;
  const struct settings *settings = call->settings;
  bool own = settings == &client->settings;
  bool fixed = settings->id_token_file == NULL && !settings->id_token_function;
  bool ok;
  if (own && client->line_is_own) return true;
  if (settings->login_username != NULL && client->login_line.length == 0 && !log_in(L, call))
    return false;
  client->line_is_own = false;
  client->line_serial++;
  buffer_clear(&client->line);
  if (settings->login_username != NULL)
    ok = buffer_append(&client->line, client->login_line.data, client->login_line.length) ||
         fail_no_memory(call);
  else if (settings->id_token_function)
    ok = call_function(L, call, client_index);
  else
    ok = credential_write(settings, &client->line, &client->exchange.failure);
  client->line_is_own = ok && own && fixed;
  if (!ok) lua_pushnil(L);
  return ok;
}

bool call_lend_credential(struct client *client, struct transfer *transfer) {
  if (transfer->credential_serial == client->line_serial) return true;
  transfer->credential_serial = client->line_serial;
  if (transfer_set_credential(transfer, &client->line)) return true;
  transfer->credential_serial = 0;
  return false;
}

/* Starts the clock of the call. */
static void start_clock(struct call *call) {
  call->deadline_ms = clock_steady_ms() + call->timeout_ms;
}

bool call_ready(lua_State *L, struct call *call, int client) {
  failure_clear(&call->client->exchange.failure);
  start_clock(call);
  if (!ready_pool(call)) {
    lua_pushnil(L);
    return false;
  }
  if (!ready_line(L, call, client)) return false;
  if (call->settings->id_token_function) start_clock(call);
  gather_secrets(call);
  return true;
}

bool call_log_in_again(lua_State *L, struct call *call) {
  struct client *client = call->client;
  if (call->settings->login_username == NULL || call->logged_in) return false;
  lua_pop(L, 1); /* the errors of the refusal that led here */
  buffer_clear(&client->login_line);
  client->line_is_own = false;
  if (!ready_line(L, call, 0)) return false;
  gather_secrets(call);
  return true;
}

/* A token, or the failure, with one new log-in when the ID token of an earlier one is refused. */
static bool get_token(lua_State *L, struct call *call, int client_index) {
  struct client *client = call->client;
  struct exchange *exchange = &client->exchange;
  if (!call_ready(L, call, client_index)) return false;
  for (;;) {
    if (!call_lend_credential(client, &exchange->transfer)) {
      lua_pushnil(L);
      return fail_no_memory(call);
    }
    if (converse(L, call, exchange, call->url, &call->about, response_read_token)) return true;
    if (exchange->failure.code != FAILURE_UNAUTHORIZED || !call_log_in_again(L, call)) return false;
  }
}

/* The results of a call that failed; the server's errors, or nil, are at the top. */
static int push_failure(lua_State *L, struct call *call) {
  struct failure *failure = &call->client->exchange.failure;
  failure->attempts = call->attempts;
  return response_push_failure(L, failure, call->shown_url, lua_gettop(L));
}

int call_run_fetch(lua_State *L) {
  struct call *call = lua_touserdata(L, RUN_CALL);
  return get_token(L, call, RUN_CLIENT) ? 1 : push_failure(L, call);
}

int call_run_login(lua_State *L) {
  struct call *call = lua_touserdata(L, RUN_CALL);
  failure_clear(&call->client->exchange.failure);
  start_clock(call);
  return ask_identity_provider(L, call) ? 1 : push_failure(L, call);
}

static void free_slots(struct client *client) {
  for (size_t i = 0; i < client->slot_count; i++) {
    transfer_close(&client->slots[i].transfer, &client->pool);
    buffer_free(&client->slot_urls[i]);
  }
  free(client->slots);
  free(client->slot_urls);
  client->slots = NULL;
  client->slot_urls = NULL;
  client->slot_count = 0;
}

/* Leaves the client as it is between calls, whatever has happened. */
static void end_call(struct call *call) {
  struct client *client = call->client;
  exchange_stop(&client->exchange, &client->pool);
  exchange_stop(&client->login, &client->pool);
  free_slots(client);
  transfer_forget_answer(&client->exchange.transfer);
  transfer_forget_answer(&client->login.transfer);
  transfer_clear_form(&client->login.transfer);
  buffer_clear(&client->scratch);
  client->counters.attempts += call->attempts;
  client->busy = false;
}

/* Pushes the failure for Lua's own memory running out, out of things that are there already. The
 * message, Lua's own, is at the top. */
static int push_lua_no_memory(lua_State *L, int index) {
  lua_pushnil(L);
  lua_insert(L, -2);
  lua_pushvalue(L, lua_upvalueindex(CLIENT_NO_MEMORY));
  compat_getown(L, index);
  lua_rawgeti(L, -1, CLIENT_SPARE_DETAILS);
  lua_remove(L, -2);
  return 4;
}

int call_run(lua_State *L, struct call *call, int index, int run, int arguments) {
  struct client *client = call->client;
  int base = lua_gettop(L) - arguments;
  lua_pushvalue(L, lua_upvalueindex(run));
  lua_insert(L, base + 1);
  lua_pushlightuserdata(L, call);
  lua_insert(L, base + 2);
  lua_pushvalue(L, index);
  lua_insert(L, base + 3);
  client->busy = true;
  client->counters.requests++;
  failure_clear(&client->exchange.failure);
  int status = lua_pcall(L, arguments + 2, LUA_MULTRET, 0);
  if (status == LUA_ERRMEM) client->exchange.failure.code = FAILURE_NO_MEMORY;
  client->counters.failures[client->exchange.failure.code]++;
  end_call(call);
  if (status == LUA_ERRMEM) return push_lua_no_memory(L, index);
  if (status != 0) lua_error(L);
  return lua_gettop(L) - base;
}

bool call_prepare(lua_State *L, struct call *call, int index, int argument,
                  enum options_place place, struct settings *settings) {
  struct client *client = call->client;
  struct options_origin origin = {argument, argument, 0};
  *settings = client->settings;
  options_read(L, origin, place, settings);
  int request = lua_gettop(L);
  compat_getown(L, index);
  buffer_clear(&client->url);
  buffer_clear(&client->key);
  bool ok =
      buffer_append_string(&client->url, client->endpoint.url.data) &&
      request_append_query(L, request, request + 1, client->endpoint.has_query, &client->url) &&
      (place != OPTIONS_REQUEST || request_append_key(L, request, request + 1, &client->key));
  lua_pop(L, 1);
  call->url = client->url.data;
  return ok;
}

static bool same_credential(const struct settings *a, const struct settings *b) {
  return a->id_token == b->id_token && a->username == b->username;
}

int call_fetch(lua_State *L, int index, int argument) {
  struct client *client = call_client(L, index);
  struct settings settings;
  struct call call = {.client = client};
  if (client == NULL) return client_fail_closed(L);
  call_begin(&call);
  if (!lua_isnoneornil(L, argument)) {
    if (!call_prepare(L, &call, index, argument, OPTIONS_FETCH, &settings))
      return client_fail_no_memory(L);
    if (!same_credential(&settings, &client->settings)) call.settings = &settings;
    call.timeout_ms = settings.timeout_ms;
    call.retries = settings.retries;
    call_describe(&call);
  }
  return call_run(L, &call, index, CLIENT_RUN_FETCH, 0);
}

int call_login(lua_State *L, int index) {
  struct call call = {.client = call_client(L, index)};
  if (call.client == NULL) return client_fail_closed(L);
  call_begin(&call);
  return call_run(L, &call, index, CLIENT_RUN_LOGIN, 0);
}
