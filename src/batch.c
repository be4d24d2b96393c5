/* batch.c - client:fetch_all: requests many tokens at once over one client's connections. The
 * requests are distributed in order to a fixed number of slots, each an exchange with its own
 * handle, so memory in libcurl depends on the number of slots, not of requests. */
#include "batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "authorization.h"
#include "call.h"
#include "clock.h"
#include "compat.h"
#include "lockout.h"
#include "request.h"
#include "result.h"

/* Above the arguments of the protected body: the client's own table, and the lists that it makes.
 */
enum { BATCH_OWN = CALL_REQUEST + 1, BATCH_TOKENS, BATCH_ERRORS };

/* A request in progress, and what is reused for the next one. */
struct slot {
  struct exchange exchange;
  struct failure failure; /* of the request */
  struct buffer url;
  int request; /* its number; 0 when the slot is free */
  int64_t deadline_ms;
  bool tried_again; /* with the ID token of a new login */
};

struct batch {
  struct call call; /* first, because the body casts the call to the batch */
  struct slot *slots;
  size_t slot_count;
  int next, last, done; /* numbers of requests */
};

static struct batch *batch_of(struct call *call) { return (struct batch *)(void *)call; }

/* Builds the URL of request number n. False if out of memory. */
static bool build_url(lua_State *L, const struct client *client, int n, struct buffer *url) {
  buffer_clear(url);
  lua_rawgeti(L, CALL_REQUEST, n);
  bool ok = buffer_append_string(url, client->endpoint.url.data) &&
            request_append_query(L, lua_gettop(L), BATCH_OWN, client->endpoint.has_query, url);
  lua_pop(L, 1);
  return ok;
}

/* Records the failure of the slot's request; the server's errors, or nil, are at the top. */
static void record_failure(lua_State *L, struct batch *batch, struct slot *slot) {
  const struct failure *failure = &slot->failure;
  int errors = lua_gettop(L);
  if (lua_isnil(L, BATCH_ERRORS)) {
    lua_newtable(L);
    lua_replace(L, BATCH_ERRORS);
  }
  result_push_failure(L, failure, batch->call.shown_url, errors);
  lua_insert(L, -3); /* details below message and code */
  lua_setfield(L, -3, "code");
  lua_setfield(L, -2, "message");
  lua_rawseti(L, BATCH_ERRORS, slot->request);
  lua_pushboolean(L, 0);
  lua_rawseti(L, BATCH_TOKENS, slot->request);
  lua_settop(L, errors - 1);
  batch->call.client->counters.failures[failure->code]++;
}

static void end_request(struct batch *batch, struct slot *slot) {
  batch->call.attempts += slot->exchange.attempts;
  batch->done++;
  slot->request = 0;
}

static void fail_no_memory(lua_State *L, struct batch *batch, struct slot *slot) {
  failure_set_no_memory(&slot->failure);
  lua_pushnil(L);
  record_failure(L, batch, slot);
  end_request(batch, slot);
}

/* Starts the slot's request, for the first time or again, with the current credential. */
static void begin_exchange(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = &batch->call;
  exchange_begin(&slot->exchange, slot->url.data, slot->deadline_ms, call->retries,
                 call_hedge_ms(call));
  if (!session_authorize(&call->client->session, &slot->exchange.transfer))
    fail_no_memory(L, batch, slot);
}

static void take_next(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = &batch->call;
  slot->request = batch->next++;
  slot->tried_again = false;
  slot->deadline_ms = clock_steady_ms() + call->timeout_ms;
  failure_clear(&slot->failure);
  slot->exchange.attempts = 0;
  call->client->counters.requests++;
  if (!build_url(L, call->client, slot->request, &slot->url)) {
    fail_no_memory(L, batch, slot);
  } else if (lockout_holds(L, call, &slot->failure)) { /* by an earlier request */
    record_failure(L, batch, slot);
    call->shown_url = call->client->endpoint.shown.data;
    end_request(batch, slot);
  } else {
    begin_exchange(L, batch, slot);
  }
}

/* After a 401: returns whether there is an ID token that was not sent with this request yet; logs
 * in if necessary. The server's errors are at the top. They are popped if there is one, and
 * otherwise replaced by those of the final failure. */
static bool has_new_token(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = &batch->call;
  if (slot->failure.code != FAILURE_UNAUTHORIZED || slot->tried_again) return false;
  slot->tried_again = true;
  if (slot->exchange.transfer.credential_serial != call->client->session.serial) {
    lua_pop(L, 1);
    return true;
  }
  if (call->settings->credential.login_username == NULL || call->logged_in) return false;
  call->deadline_ms = slot->deadline_ms;
  return authorization_renew(L, call, &slot->failure);
}

static void settle_failure(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = &batch->call;
  if (has_new_token(L, batch, slot)) {
    call->attempts += slot->exchange.attempts;
    begin_exchange(L, batch, slot);
    return;
  }
  if (slot->exchange.transfer.credential_serial == call->client->session.serial)
    lockout_note_request(L, call, &slot->failure);
  record_failure(L, batch, slot);
  /* a failed login has set its own URL, for this request only */
  call->shown_url = call->client->endpoint.shown.data;
  end_request(batch, slot);
}

static void settle_slot(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = &batch->call;
  switch (call_settle(L, call, &slot->exchange, &call->context, response_read_token)) {
  case CALL_AGAIN:
    break;
  case CALL_READ:
    lockout_forget(call);
    lua_rawseti(L, BATCH_TOKENS, slot->request);
    end_request(batch, slot);
    break;
  case CALL_FAILED:
    settle_failure(L, batch, slot);
  }
}

/* Advances a slot as far as it can go without waiting. */
static void advance_slot(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = &batch->call;
  for (;;) {
    if (slot->request == 0) {
      if (batch->next > batch->last) return;
      take_next(L, batch, slot);
    } else if (exchange_advance(&slot->exchange, &call->client->pool, &call->context)) {
      settle_slot(L, batch, slot);
    } else {
      return;
    }
  }
}

/* Returns how many slots may be in use. A password that may be wrong is not sent again before the
 * first answer. Until the server's SETTINGS have arrived, libcurl assumes a limit of 100 streams
 * (the minimum that RFC 9113 section 6.5.2 recommends) and opens a connection for each request
 * beyond it. */
static size_t count_usable(const struct batch *batch) {
  const size_t assumed = 100;
  if (call_has_doubtful_password(&batch->call) && batch->done == 0) return 1;
  bool is_limit_known =
      batch->done > 0 || strcmp(batch->call.client->settings.http_version, "2") != 0;
  return is_limit_known || batch->slot_count < assumed ? batch->slot_count : assumed;
}

/* Returns false if libcurl is out of memory. */
static bool run_slots(lua_State *L, struct batch *batch) {
  struct client *client = batch->call.client;
  for (;;) {
    int wait = CALL_SLICE_MS;
    for (size_t i = 0, count = count_usable(batch); i < count; i++) {
      struct slot *slot = &batch->slots[i];
      advance_slot(L, batch, slot);
      if (slot->request != 0) wait = exchange_idle_ms(&slot->exchange, wait);
    }
    if (batch->done == batch->last) return true;
    if (!transfer_step(&client->pool, wait)) return false;
    compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
}

/* Creates the slots. False if out of memory. */
static bool open_slots(struct batch *batch) {
  struct client *client = batch->call.client;
  struct transfer_problem problem = {CURLE_OK, NULL};
  size_t count = (size_t)client->settings.parallel;
  if (count > (size_t)batch->last) count = (size_t)batch->last;
  batch->slots = calloc(count, sizeof *batch->slots);
  if (batch->slots == NULL) return false;
  batch->slot_count = count;
  for (size_t i = 0; i < count; i++) {
    struct slot *slot = &batch->slots[i];
    slot->exchange.failure = &slot->failure;
    if (!transfer_open(&slot->exchange.transfer, &client->pool, &client->endpoint,
                       &client->settings, &problem) ||
        !tls_files_lend(&client->files, &slot->exchange.transfer))
      return false;
  }
  return true;
}

static void free_slots(struct call *call) {
  struct batch *batch = batch_of(call);
  for (size_t i = 0; i < batch->slot_count; i++) {
    exchange_close(&batch->slots[i].exchange, &call->client->pool);
    buffer_free(&batch->slots[i].url);
  }
  free(batch->slots);
}

static int run_batch(lua_State *L, struct call *call) {
  struct batch *batch = batch_of(call);
  batch->last = (int)compat_rawlen(L, CALL_REQUEST);
  call->context.shared = true;
  compat_getown(L, CALL_CLIENT);
  lua_createtable(L, batch->last, 0);
  lua_pushnil(L);
  if (batch->last == 0) return 2;
  if (!authorization_prepare(L, call)) return call_push_failure(L, call);
  if (!open_slots(batch) || !run_slots(L, batch)) {
    call_fail_no_memory(call);
    lua_pushnil(L);
    return call_push_failure(L, call);
  }
  lua_settop(L, BATCH_ERRORS);
  return 2;
}

/* Raises if the table at argument has keys that a list cannot have, as a single request has.
 * Returns the greatest key: the length of a list with gaps may be any of its borders. */
static int check_list(lua_State *L, int argument) {
  lua_Number length = 0;
  luaL_checktype(L, argument, LUA_TTABLE);
  bool inherits = luaL_getmetafield(L, argument, "__index") != 0;
  luaL_argcheck(
      L, !inherits, argument,
      "the list must contain its requests itself, not inherit them through a metatable's __index");
  for (lua_pushnil(L); lua_next(L, argument) != 0; lua_pop(L, 1)) {
    lua_Number key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
    luaL_argcheck(L, key >= 1 && key == floor(key), argument, "a list of requests is expected");
    if (key > length) length = key;
  }
  luaL_argcheck(L, length < INT32_MAX, argument, "too many requests");
  return (int)length;
}

int batch_fetch(lua_State *L, int index, int argument) {
  struct client *client = client_check(L, index);
  struct batch batch = {.call = {.body = run_batch, .clean_up = free_slots, .client = client},
                        .next = 1};
  if (!client->open) return client_fail_closed(L);
  int count = check_list(L, argument); /* a gap raises an error below */
  lua_newtable(L);
  int copies = lua_gettop(L);
  for (int n = 1; n <= count; n++) {
    lua_rawgeti(L, argument, n);
    struct options_origin origin = {copies + 1, argument, n};
    options_read_request(L, origin, NULL);
    lua_rawseti(L, copies, n);
    lua_settop(L, copies);
  }
  call_begin(&batch.call);
  return call_run(L, &batch.call, index);
}
