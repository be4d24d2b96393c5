/* batch.c - client:fetch_all: many tokens at once over one client's connections.
 * A fixed number of slots, each an exchange with a handle of its own, take the requests in their
 * order; what libcurl holds grows with the slots and not with the requests. */
#include "batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "clock.h"
#include "compat.h"
#include "files.h"
#include "request.h"
#include "session.h"

/* Behind the arguments of the protected half: the client's own table, and the lists it makes. */
enum { BATCH_OWN = CALL_REQUEST + 1, BATCH_TOKENS, BATCH_ERRORS };

struct batch {
  struct call *call;
  int next, last, done; /* numbers of requests */
};

/* Builds the URL of request number n. False when memory is short. */
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
  const struct failure *failure = &slot->exchange.failure;
  int errors = lua_gettop(L);
  if (lua_isnil(L, BATCH_ERRORS)) {
    lua_newtable(L);
    lua_replace(L, BATCH_ERRORS);
  }
  response_push_failure(L, failure, batch->call->shown_url, errors);
  lua_insert(L, -3); /* details below message and code */
  lua_setfield(L, -3, "code");
  lua_setfield(L, -2, "message");
  lua_rawseti(L, BATCH_ERRORS, slot->request);
  lua_pushboolean(L, 0);
  lua_rawseti(L, BATCH_TOKENS, slot->request);
  lua_settop(L, errors - 1);
  batch->call->client->counters.failures[failure->code]++;
}

static void end_request(struct batch *batch, struct slot *slot) {
  batch->call->attempts += slot->exchange.attempts;
  batch->done++;
  slot->request = 0;
}

static void fail_no_memory(lua_State *L, struct batch *batch, struct slot *slot) {
  failure_set_no_memory(&slot->exchange.failure);
  lua_pushnil(L);
  record_failure(L, batch, slot);
  end_request(batch, slot);
}

/* Begins the slot's request, again or for the first time, with the credential in use. */
static void begin_exchange(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  exchange_begin(&slot->exchange, slot->url.data, slot->deadline_ms, call->retries, call->hedge_ms);
  if (!session_lend(call->client, &slot->exchange.transfer)) fail_no_memory(L, batch, slot);
}

static void take_next(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  slot->request = batch->next++;
  slot->tried_again = false;
  slot->deadline_ms = clock_steady_ms() + call->timeout_ms;
  failure_clear(&slot->exchange.failure);
  slot->exchange.attempts = 0;
  call->client->counters.requests++;
  if (!build_url(L, call->client, slot->request, &slot->url)) {
    fail_no_memory(L, batch, slot);
  } else if (session_is_refused(L, call, &slot->exchange.failure)) { /* by an earlier request */
    record_failure(L, batch, slot);
    call->shown_url = call->client->endpoint.shown.data;
    end_request(batch, slot);
  } else {
    begin_exchange(L, batch, slot);
  }
}

/* After a 401: is there an ID token that this request has not tried? Logs in for it when need be.
 * The server's errors are at the top; when there is none, those of the failure that stands are. */
static bool has_new_token(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  if (slot->exchange.failure.code != FAILURE_UNAUTHORIZED || slot->tried_again) return false;
  slot->tried_again = true;
  if (slot->exchange.transfer.credential_serial != call->client->line_serial) {
    lua_pop(L, 1);
    return true;
  }
  if (call->settings->credential.login_username == NULL || call->logged_in) return false;
  call->deadline_ms = slot->deadline_ms;
  if (session_log_in_again(L, call)) return true;
  slot->exchange.failure = call->client->exchange.failure;
  return false;
}

static void settle_failure(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  if (has_new_token(L, batch, slot)) {
    call->attempts += slot->exchange.attempts;
    begin_exchange(L, batch, slot);
    return;
  }
  if (slot->exchange.transfer.credential_serial == call->client->line_serial)
    session_note_refusal(L, call, &slot->exchange.failure);
  record_failure(L, batch, slot);
  call->shown_url = call->client->endpoint.shown.data; /* a log-in's was for this one alone */
  end_request(batch, slot);
}

static void settle_slot(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  switch (call_settle(L, call, &slot->exchange, &call->about, response_read_token)) {
  case CALL_AGAIN:
    break;
  case CALL_READ:
    session_note_acceptance(call);
    lua_rawseti(L, BATCH_TOKENS, slot->request);
    end_request(batch, slot);
    break;
  case CALL_FAILED:
    settle_failure(L, batch, slot);
  }
}

/* Lets a slot do all that it can do now. */
static void turn_slot(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  for (;;) {
    if (slot->request == 0) {
      if (batch->next > batch->last) return;
      take_next(L, batch, slot);
    } else if (exchange_advance(&slot->exchange, &call->client->pool, &call->about)) {
      settle_slot(L, batch, slot);
    } else {
      return;
    }
  }
}

/* How many slots may be in use. A password that was never accepted is sent once before it is sent
 * again: many wrong ones at a time lock an account. Until a server has said how many streams it
 * takes, libcurl counts on 100 (the least, says RFC 9113 section 6.5.2) and opens a connection for
 * each one more. */
static size_t count_usable(const struct batch *batch) {
  const struct client *client = batch->call->client;
  const size_t untold = 100;
  bool may_be_wrong = client->settings.credential.username != NULL && !client->accepted;
  if (may_be_wrong && batch->done == 0) return 1;
  bool told = batch->done > 0 || strcmp(client->settings.http_version, "2") != 0;
  return told || client->slot_count < untold ? client->slot_count : untold;
}

/* False when libcurl has run out of memory. */
static bool run_slots(lua_State *L, struct batch *batch) {
  struct client *client = batch->call->client;
  for (;;) {
    int wait = CALL_SLICE_MS;
    for (size_t i = 0, count = count_usable(batch); i < count; i++) {
      struct slot *slot = &client->slots[i];
      turn_slot(L, batch, slot);
      if (slot->request != 0) wait = exchange_idle_ms(&slot->exchange, wait);
    }
    if (batch->done == batch->last) return true;
    if (!transfer_step(&client->pool, wait)) return false;
    compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
}

/* Makes the slots, which are the client's until the call ends. False when memory is short. */
static bool open_slots(struct client *client, int requests) {
  struct transfer_problem problem = {CURLE_OK, NULL};
  size_t count = (size_t)client->settings.parallel;
  if (count > (size_t)requests) count = (size_t)requests;
  client->slots = calloc(count, sizeof *client->slots);
  if (client->slots == NULL) return false;
  client->slot_count = count;
  for (size_t i = 0; i < count; i++)
    if (!transfer_open(&client->slots[i].exchange.transfer, &client->pool, &client->endpoint,
                       &client->settings, &problem) ||
        !files_lend(client, &client->slots[i].exchange.transfer))
      return false;
  return true;
}

int batch_run(lua_State *L) {
  struct call *call = lua_touserdata(L, CALL_ITSELF);
  struct batch batch = {.call = call, .next = 1};
  batch.last = (int)compat_rawlen(L, CALL_REQUEST);
  call->about.shared = true;
  compat_getown(L, CALL_CLIENT);
  lua_createtable(L, batch.last, 0);
  lua_pushnil(L);
  if (batch.last == 0) return 2;
  if (!session_ready(L, call)) return call_push_failure(L, call);
  if (!open_slots(call->client, batch.last) || !run_slots(L, &batch)) {
    call_fail_no_memory(call);
    lua_pushnil(L);
    return call_push_failure(L, call);
  }
  failure_clear(&call->client->exchange.failure); /* a log-in's was counted with its request */
  lua_settop(L, BATCH_ERRORS);
  return 2;
}

/* Raises when the table at argument has other keys than those of a list, as a single request has.
 * Returns the greatest key: where a list has gaps, its length may be any of their borders. */
static int check_list(lua_State *L, int argument) {
  lua_Number length = 0;
  luaL_checktype(L, argument, LUA_TTABLE);
  bool inherits = luaL_getmetafield(L, argument, "__index") != 0;
  luaL_argcheck(
      L, !inherits, argument,
      "the list must hold its requests itself, not inherit them by a metatable's __index");
  for (lua_pushnil(L); lua_next(L, argument) != 0; lua_pop(L, 1)) {
    lua_Number key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
    luaL_argcheck(L, key >= 1 && key == floor(key), argument, "a list of requests is expected");
    if (key > length) length = key;
  }
  luaL_argcheck(L, length < INT32_MAX, argument, "too many requests");
  return (int)length;
}

int batch_fetch(lua_State *L, int index, int argument) {
  struct call call = {.client = client_check(L, index)};
  struct settings settings = call.client->settings;
  if (!call.client->open) return client_fail_closed(L);
  int count = check_list(L, argument); /* with gaps far more than there are, and an error below */
  lua_newtable(L);
  int copies = lua_gettop(L);
  for (int n = 1; n <= count; n++) {
    lua_rawgeti(L, argument, n);
    struct options_origin origin = {copies + 1, argument, n};
    options_read(L, origin, OPTIONS_REQUEST, &settings);
    lua_rawseti(L, copies, n);
    lua_settop(L, copies);
  }
  call_begin(&call);
  return call_run(L, &call, index, CLIENT_RUN_FETCH_ALL);
}
