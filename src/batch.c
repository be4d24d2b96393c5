/* batch.c - many tokens at once over one client's connections.
 * A fixed number of slots, each an exchange with a handle of its own, take the requests in their
 * order; what is in memory grows with the slots and not with the requests. */
#include "batch.h"

#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "clock.h"
#include "compat.h"
#include "request.h"

enum { SLICE_MS = 250 };

/* Arguments of the protected half, and the lists it makes. */
enum { BATCH_CALL = 1, BATCH_CLIENT, BATCH_REQUESTS, BATCH_OWN, BATCH_TOKENS, BATCH_ERRORS };

struct batch {
  struct call *call;
  struct slot {
    struct exchange *exchange;
    struct buffer *url;
    int request;      /* its number; 0 when the slot is free */
    bool tried_again; /* with the ID token of a new log-in */
  } * slots;
  size_t slot_count;
  int next, last, done; /* numbers of requests */
};

/* Reads request number n of the list at index, and pushes its copy. */
static void read_request(lua_State *L, int list, int n, int argument, struct settings *settings) {
  lua_rawgeti(L, list, n);
  struct options_origin origin = {lua_gettop(L), argument, n};
  options_read(L, origin, OPTIONS_REQUEST, settings);
  lua_remove(L, -2);
}

/* Builds the URL of a request. False when memory is short. */
static bool build_url(lua_State *L, struct client *client, int n, struct buffer *url) {
  struct settings settings = client->settings;
  read_request(L, BATCH_REQUESTS, n, 2, &settings);
  buffer_clear(url);
  bool ok = buffer_append_string(url, client->endpoint.url.data) &&
            request_append_query(L, lua_gettop(L), BATCH_OWN, client->endpoint.has_query, url);
  lua_pop(L, 1);
  return ok;
}

/* Records the failure of the slot's request; the server's errors, or nil, are at the top. */
static void record_failure(lua_State *L, struct batch *batch, struct slot *slot) {
  const struct failure *failure = &slot->exchange->failure;
  struct client *client = batch->call->client;
  int errors = lua_gettop(L);
  if (lua_isnil(L, BATCH_ERRORS)) {
    lua_newtable(L);
    lua_replace(L, BATCH_ERRORS);
  }
  response_push_failure(L, failure, client->endpoint.shown.data, errors);
  lua_insert(L, -3); /* details below message and code */
  lua_setfield(L, -3, "code");
  lua_setfield(L, -2, "message");
  lua_rawseti(L, BATCH_ERRORS, slot->request);
  lua_pushboolean(L, 0);
  lua_rawseti(L, BATCH_TOKENS, slot->request);
  lua_settop(L, errors - 1);
  client->counters.failures[failure->code]++;
}

static void end_request(struct batch *batch, struct slot *slot) {
  batch->call->attempts += slot->exchange->attempts;
  batch->done++;
  slot->request = 0;
}

static void fail_no_memory(lua_State *L, struct batch *batch, struct slot *slot) {
  failure_set_no_memory(&slot->exchange->failure);
  lua_pushnil(L);
  record_failure(L, batch, slot);
  end_request(batch, slot);
}

/* Begins the slot's request, again or for the first time, with the credential in use. */
static void begin_exchange(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  exchange_begin(slot->exchange, slot->url->data, clock_steady_ms() + call->timeout_ms,
                 call->retries);
  if (!call_lend_credential(call->client, &slot->exchange->transfer))
    fail_no_memory(L, batch, slot);
}

static void take_next(lua_State *L, struct batch *batch, struct slot *slot) {
  slot->request = batch->next++;
  slot->tried_again = false;
  failure_clear(&slot->exchange->failure);
  slot->exchange->attempts = 0;
  if (build_url(L, batch->call->client, slot->request, slot->url))
    begin_exchange(L, batch, slot);
  else
    fail_no_memory(L, batch, slot);
}

/* After a 401: is there an ID token that this request has not tried? Logs in for it when need be.
 * The server's errors are at the top, and stay there when there is none. */
static bool has_new_token(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  if (slot->exchange->failure.code != FAILURE_UNAUTHORIZED || slot->tried_again) return false;
  slot->tried_again = true;
  if (slot->exchange->transfer.credential_serial != call->client->line_serial) {
    lua_pop(L, 1);
    return true;
  }
  if (call->settings->login_username == NULL || call->logged_in) return false;
  if (call_log_in_again(L, call)) return true;
  slot->exchange->failure = call->client->exchange.failure;
  return false;
}

static void settle_slot(lua_State *L, struct batch *batch, struct slot *slot) {
  switch (call_settle(L, batch->call, slot->exchange, response_read_token)) {
  case CALL_AGAIN:
    return;
  case CALL_READ:
    lua_rawseti(L, BATCH_TOKENS, slot->request);
    break;
  case CALL_FAILED:
    if (has_new_token(L, batch, slot)) {
      batch->call->attempts += slot->exchange->attempts;
      begin_exchange(L, batch, slot);
      return;
    }
    record_failure(L, batch, slot);
  }
  end_request(batch, slot);
}

/* Lets a slot do all that it can do now. */
static void turn_slot(lua_State *L, struct batch *batch, struct slot *slot) {
  struct call *call = batch->call;
  for (;;) {
    if (slot->request == 0) {
      if (batch->next > batch->last) return;
      take_next(L, batch, slot);
    } else if (exchange_advance(slot->exchange, &call->client->pool, &call->about)) {
      settle_slot(L, batch, slot);
    } else {
      return;
    }
  }
}

static void run_slots(lua_State *L, struct batch *batch) {
  struct pool *pool = &batch->call->client->pool;
  while (batch->done < batch->last) {
    int wait = SLICE_MS;
    for (size_t i = 0; i < batch->slot_count; i++) {
      struct slot *slot = &batch->slots[i];
      turn_slot(L, batch, slot);
      if (slot->request != 0) wait = exchange_idle_ms(slot->exchange, wait);
    }
    if (batch->done == batch->last) return;
    if (!transfer_step(pool, wait)) luaL_error(L, "libcurl has run out of memory");
    compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
}

/* Makes the slots: their exchanges are the client's to free, the rest is a userdata's. False when
 * memory is short. */
static bool open_slots(lua_State *L, struct batch *batch) {
  struct client *client = batch->call->client;
  struct transfer_problem problem = {CURLE_OK, NULL};
  size_t count = (size_t)client->settings.parallel;
  if (count > (size_t)batch->last) count = (size_t)batch->last;
  batch->slots = lua_newuserdata(L, count * sizeof *batch->slots);
  memset(batch->slots, 0, count * sizeof *batch->slots);
  client->slots = calloc(count, sizeof *client->slots);
  client->slot_urls = calloc(count, sizeof *client->slot_urls);
  if (client->slots == NULL || client->slot_urls == NULL) return false;
  client->slot_count = batch->slot_count = count;
  for (size_t i = 0; i < count; i++) {
    batch->slots[i].exchange = &client->slots[i];
    batch->slots[i].url = &client->slot_urls[i];
    if (!transfer_open(&client->slots[i].transfer, &client->pool, &client->endpoint,
                       &client->settings, &problem))
      return false;
  }
  return true;
}

int batch_run(lua_State *L) {
  struct call *call = lua_touserdata(L, BATCH_CALL);
  struct failure *failure = &call->client->exchange.failure;
  struct batch batch = {.call = call, .next = 1};
  batch.last = (int)compat_rawlen(L, BATCH_REQUESTS);
  compat_getown(L, BATCH_CLIENT);
  lua_createtable(L, batch.last, 0);
  lua_pushnil(L);
  if (batch.last > 0) {
    call->client->counters.requests += (uint64_t)batch.last - 1; /* the call itself counts as one */
    if (!call_ready(L, call, BATCH_CLIENT))
      return response_push_failure(L, failure, call->shown_url, lua_gettop(L));
    if (!open_slots(L, &batch)) {
      failure_set_no_memory(failure);
      return response_push_failure(L, failure, call->shown_url, 0);
    }
    run_slots(L, &batch);
  }
  failure_clear(failure);
  lua_settop(L, BATCH_ERRORS);
  return 2;
}

int batch_fetch(lua_State *L, int index, int argument) {
  struct client *client = call_client(L, index);
  struct settings settings;
  struct call call = {.client = client};
  if (client == NULL) return client_fail_closed(L);
  luaL_checktype(L, argument, LUA_TTABLE);
  size_t count = compat_rawlen(L, argument);
  luaL_argcheck(L, count < INT32_MAX, argument, "too many requests");
  for (size_t n = 1; n <= count; n++) {
    settings = client->settings;
    read_request(L, argument, (int)n, argument, &settings);
    lua_pop(L, 1);
  }
  call_begin(&call);
  lua_pushvalue(L, argument);
  return call_run(L, &call, index, CLIENT_RUN_FETCH_ALL, 1);
}
