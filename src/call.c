/* call.c - one call on a client that may talk to the cluster: its beginning, its attempts, its end.
 */
#include "call.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "compat.h"

static const char *describe_credential(const struct settings *settings) {
  if (settings->credential.username != NULL) return "user name and password";
  return settings->credential.anonymous ? "a request without a credential" : "the ID token";
}

void call_begin(struct call *call) {
  call->settings = &call->client->settings;
  call->timeout_ms = call->settings->timeout_ms;
  call->retries = call->settings->retries;
  call->hedge_ms = call->settings->hedge_after_ms;
}

void call_start_clock(struct call *call) {
  call->deadline_ms = clock_steady_ms() + call->timeout_ms;
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

/* A credential in base64, which others may write without its padding. */
static void add_secret_base64(struct secrets *secrets, const char *text, size_t length) {
  while (length > 0 && text[length - 1] == '=')
    length--;
  scrub_add_secret(secrets, text, length);
}

/* The value of an "Authorization: <scheme> <value>" line. */
static void add_secret_line(struct secrets *secrets, const struct buffer *line) {
  static const char name[] = "Authorization: ";
  if (line->length < sizeof name) return;
  const char *space = memchr(line->data + sizeof name - 1, ' ', line->length - sizeof name + 1);
  if (space != NULL)
    add_secret_base64(secrets, space + 1, (size_t)(line->data + line->length - space - 1));
}

void call_gather_secrets(struct call *call) {
  const struct settings *settings = call->settings;
  struct span password = proxy_password(settings->proxy);
  call->secrets.count = 0;
  scrub_add_secret(&call->secrets, password.start, password.length);
  add_secret_string(&call->secrets, settings->credential.password);
  add_secret_string(&call->secrets, settings->credential.login_password);
  add_secret_string(&call->secrets, settings->key_password);
  add_secret_line(&call->secrets, &call->client->line);
  add_secret_line(&call->secrets, &call->client->login_line);
  add_secret_base64(&call->secrets, call->client->pair.data, call->client->pair.length);
}

bool call_fail_resource(struct call *call, int problem) {
  const char *descriptors = failure_explain_descriptors(problem);
  if (descriptors == NULL) return call_fail_no_memory(call);
  failure_set(&call->client->exchange.failure, FAILURE_CONNECT, true, "cannot call %s: %s",
              call->client->endpoint.authority.data, descriptors);
  return false;
}

bool call_fail_no_memory(struct call *call) {
  failure_set_no_memory(&call->client->exchange.failure);
  return false;
}

static void close_at_end(int *opened) {
  if (*opened > 0) close(*opened - 1);
  *opened = 0;
}

/* Reads what is there. Returns an errno, EAGAIN when there is more to wait for, 0 at the end. */
static int read_some(int fd, size_t limit, struct buffer *content) {
  enum { PIECE = 4096 };
  for (;;) {
    if (content->length > limit) return EFBIG;
    if (!buffer_reserve(content, PIECE)) return ENOMEM;
    ssize_t got = read(fd, content->data + content->length, PIECE);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : 0;
    content->length += (size_t)got;
  }
}

/* A pipe without a writer is at its end for read, but for poll only once a writer has gone. */
int call_read_file(lua_State *L, struct call *call, const char *path, size_t limit,
                   struct buffer *content) {
  int *opened = &call->client->reading;
  int problem = EAGAIN;
  *opened = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) + 1;
  if (*opened == 0) return errno;
  while (problem == EAGAIN) {
    struct pollfd waiting = {.fd = *opened - 1, .events = POLLIN};
    int64_t left = call->deadline_ms - clock_steady_ms();
    int ready = poll(&waiting, 1, left > CALL_SLICE_MS ? CALL_SLICE_MS : left > 0 ? (int)left : 0);
    if (ready > 0)
      problem = read_some(waiting.fd, limit, content);
    else if (left <= 0)
      problem = ETIMEDOUT;
    else
      compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
  close_at_end(opened);
  return problem;
}

/* Drives one exchange until it is answered, with a turn for a hook after each slice. */
static void drive(lua_State *L, struct call *call, struct exchange *exchange,
                  const struct circumstances *about) {
  struct pool *pool = &call->client->pool;
  while (!exchange_advance(exchange, pool, about)) {
    if (!transfer_step(pool, exchange_idle_ms(exchange, CALL_SLICE_MS))) {
      exchange_stop(exchange, pool);
      failure_set_no_memory(&exchange->failure);
      return;
    }
    compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
}

enum call_outcome call_settle(lua_State *L, struct call *call, struct exchange *exchange,
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

bool call_converse(lua_State *L, struct call *call, struct exchange *exchange, const char *url,
                   const struct circumstances *about, response_reader *read) {
  enum call_outcome outcome;
  bool may_hedge = exchange == &call->client->exchange; /* a login may count against an account */
  exchange_begin(exchange, url, call->deadline_ms, call->retries, may_hedge ? call->hedge_ms : 0);
  do {
    drive(L, call, exchange, about);
    outcome = call_settle(L, call, exchange, about, read);
  } while (outcome == CALL_AGAIN);
  call->attempts += exchange->attempts;
  return outcome == CALL_READ;
}

int call_push_failure(lua_State *L, struct call *call) {
  struct failure *failure = &call->client->exchange.failure;
  failure->attempts = call->attempts;
  return response_push_failure(L, failure, call->shown_url, lua_gettop(L));
}

static void start_call(struct call *call) {
  struct client *client = call->client;
  client->busy = true;
  failure_clear(&client->exchange.failure);
  call->shown_url = client->endpoint.shown.data;
  call->about = (struct circumstances){.settings = call->settings,
                                       .endpoint = &client->endpoint,
                                       .secrets = &call->secrets,
                                       .credential = describe_credential(call->settings),
                                       .timeout_ms = call->timeout_ms};
}

static void free_slots(struct client *client) {
  for (size_t i = 0; i < client->slot_count; i++) {
    exchange_close(&client->slots[i].exchange, &client->pool);
    buffer_free(&client->slots[i].url);
  }
  free(client->slots);
  client->slots = NULL;
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
  close_at_end(&client->reading);
  close_at_end(&client->pin);
  client->counters.attempts += call->attempts;
  client->counters.failures[client->exchange.failure.code]++;
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

int call_run(lua_State *L, struct call *call, int index, int run) {
  struct client *client = call->client;
  int request = lua_gettop(L);
  if (!client->open) return client_fail_closed(L);
  client_refuse_busy(L, client);
  lua_pushvalue(L, lua_upvalueindex(run));
  lua_pushlightuserdata(L, call);
  lua_pushvalue(L, index);
  lua_pushvalue(L, request);
  start_call(call);
  int status = lua_pcall(L, 3, LUA_MULTRET, 0);
  if (status == LUA_ERRMEM) client->exchange.failure.code = FAILURE_NO_MEMORY;
  end_call(call);
  lua_remove(L, request);
  if (status == LUA_ERRMEM) return push_lua_no_memory(L, index);
  if (status != 0) lua_error(L);
  return lua_gettop(L) - request + 1;
}
