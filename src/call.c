/* call.c - one call on a client that may contact the cluster: its start, its attempts, and cleaning
 * up. */
#include "call.h"

#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "compat.h"
#include "result.h"
#include "status.h"

static const char *describe_credential(const struct settings *settings) {
  if (settings->credential.username != NULL) return "user name and password";
  return settings->credential.anonymous ? "a request without a credential" : "the ID token";
}

void call_begin(struct call *call) {
  call->settings = &call->client->settings;
  call->endpoint = &call->client->endpoint;
  call->timeout_ms = call->settings->timeout_ms;
  call->retries = call->settings->retries;
  call->hedge_ms = call->settings->hedge_after_ms;
}

void call_start_clock(struct call *call) {
  call->deadline_ms = clock_steady_ms() + call->timeout_ms;
}

static void add_secret_string(struct secrets *secrets, enum secret which, const char *text) {
  if (text != NULL) scrub_set_secret(secrets, which, text, strlen(text));
}

void call_gather_secrets(struct call *call) {
  const struct client *client = call->client;
  const struct settings *settings = call->settings;
  struct secrets *secrets = &call->secrets;
  scrub_clear_secrets(secrets);
  scrub_set_secret(secrets, SECRET_PROXY_PASSWORD, client->proxy_password.start,
                   client->proxy_password.length);
  add_secret_string(secrets, SECRET_PASSWORD, settings->credential.password);
  add_secret_string(secrets, SECRET_LOGIN_PASSWORD, settings->credential.login_password);
  add_secret_string(secrets, SECRET_KEY_PASSWORD, settings->key_password);
  scrub_set_headers(secrets, &settings->headers, &call->request_headers);
  session_add_secrets(&client->session, secrets);
}

bool call_fail_resource(struct call *call, int problem) {
  const char *descriptors = failure_explain_descriptors(problem);
  if (descriptors == NULL) return call_fail_no_memory(call);
  failure_set(&call->failure, FAILURE_CONNECT, true, "cannot call %s: %s",
              call->endpoint->authority.data, descriptors);
  return false;
}

bool call_fail_no_memory(struct call *call) {
  failure_set_no_memory(&call->failure);
  return false;
}

void call_close_file(int *opened) {
  if (*opened > 0) close(*opened - 1);
  *opened = 0;
}

/* Drives one exchange until it is answered, and runs a pending hook after each slice. */
static void drive_exchange(lua_State *L, struct call *call, struct exchange *exchange,
                           const struct context *context) {
  struct pool *pool = &call->client->pool;
  while (!exchange_advance(exchange, pool, context)) {
    if (!transfer_step(pool, exchange_idle_ms(exchange, CALL_SLICE_MS))) {
      exchange_stop(exchange, pool);
      failure_set_no_memory(exchange->failure);
      return;
    }
    compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
}

enum call_outcome call_settle(lua_State *L, struct call *call, struct exchange *exchange,
                              const struct context *context, response_reader *read) {
  struct client *client = call->client;
  const struct reader reader = {lua_upvalueindex(CLIENT_DECODE), context, &client->scratch,
                                &client->jitter};
  int top = lua_gettop(L);
  if (exchange->failure->code == FAILURE_NONE) {
    if (exchange->failure->status != 200)
      status_read_refusal(L, &reader, exchange);
    else if (read(L, &reader, exchange, &call->limits))
      return CALL_READ;
  }
  if (exchange_retry(exchange, &client->jitter)) {
    lua_settop(L, top);
    return CALL_AGAIN;
  }
  lua_settop(L, top + 1); /* the server's errors, or nil */
  return CALL_FAILED;
}

bool call_has_doubtful_password(const struct call *call) {
  const struct client *client = call->client;
  bool own = call->settings == &client->settings;
  return own && client->settings.credential.username != NULL && !client->session.accepted;
}

int64_t call_hedge_ms(const struct call *call) {
  return call_has_doubtful_password(call) ? 0 : call->hedge_ms;
}

bool call_converse(lua_State *L, struct call *call, struct exchange *exchange, const char *url,
                   const struct context *context, response_reader *read) {
  enum call_outcome outcome;
  bool may_hedge = exchange == &call->client->exchange; /* two failed logins may lock an account */
  exchange_begin(exchange, url, call->deadline_ms, call->retries,
                 may_hedge ? call_hedge_ms(call) : 0);
  do {
    drive_exchange(L, call, exchange, context);
    outcome = call_settle(L, call, exchange, context, read);
  } while (outcome == CALL_AGAIN);
  call->attempts += exchange->attempts;
  return outcome == CALL_READ;
}

int call_push_failure(lua_State *L, struct call *call) {
  struct failure *failure = &call->failure;
  failure->attempts = call->attempts;
  return result_push_failure(L, failure, call->shown_url, lua_gettop(L));
}

static void start_call(struct call *call) {
  struct client *client = call->client;
  client->busy = true;
  failure_clear(&call->failure);
  client->exchange.failure = &call->failure;
  call->shown_url = call->endpoint->shown.data;
  call->context = (struct context){.files = &client->files,
                                   .settings = call->settings,
                                   .endpoint = call->endpoint,
                                   .secrets = &call->secrets,
                                   .request_headers = call->request_headers,
                                   .credential = describe_credential(call->settings),
                                   .timeout_ms = call->timeout_ms};
}

/* Resets the client to its state between calls, however the call ended. */
static void end_call(struct call *call) {
  struct client *client = call->client;
  exchange_stop(&client->exchange, &client->pool);
  transfer_forget_answer(&client->exchange.transfer);
  client->exchange.failure = NULL;
  session_stop(&client->session, &client->pool);
  if (call->clean_up != NULL) call->clean_up(call);
  buffer_clear(&client->scratch);
  call_close_file(&client->reading);
  tls_files_close_pin(&client->files);
  client->counters.attempts += call->attempts;
  client->counters.failures[call->failure.code]++;
  client->busy = false;
}

/* Pushes the failure for lack of memory in Lua, using only values that already exist. Lua's own
 * message is at the top. */
static int push_lua_no_memory(lua_State *L, int index) {
  lua_pushnil(L);
  lua_insert(L, -2);
  lua_pushvalue(L, lua_upvalueindex(CLIENT_NO_MEMORY));
  compat_getown(L, index);
  lua_rawgeti(L, -1, CLIENT_SPARE_DETAILS);
  lua_remove(L, -2);
  return 4;
}

int call_trampoline(lua_State *L) {
  struct call *call = lua_touserdata(L, CALL_ITSELF);
  return call->body(L, call);
}

int call_run(lua_State *L, struct call *call, int index) {
  struct client *client = call->client;
  int request = lua_gettop(L);
  if (!client->open) return client_fail_closed(L);
  client_refuse_busy(L, client);
  lua_pushvalue(L, lua_upvalueindex(CLIENT_BODY));
  lua_pushlightuserdata(L, call);
  lua_pushvalue(L, index);
  lua_pushvalue(L, request);
  start_call(call);
  int status = lua_pcall(L, 3, LUA_MULTRET, 0);
  if (status == LUA_ERRMEM) call->failure.code = FAILURE_NO_MEMORY;
  end_call(call);
  lua_remove(L, request);
  if (status == LUA_ERRMEM) return push_lua_no_memory(L, index);
  if (status != 0) lua_error(L);
  return lua_gettop(L) - request + 1;
}
