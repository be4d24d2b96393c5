/* token.c - client:fetch and client:token: one token, from the endpoint or from the cache before
 * it. A cached token is handed out until shortly before its end, and renewed ahead of that; what
 * goes wrong meanwhile stays between us and the endpoint. */
#include "token.h"

#include "call.h"
#include "clock.h"
#include "compat.h"
#include "credential.h"
#include "request.h"
#include "session.h"

/* The URL of the call's request, or NULL when memory is short. */
static const char *request_url(lua_State *L, struct client *client) {
  if (lua_isnil(L, CALL_REQUEST)) return client->own_url.data;
  compat_getown(L, CALL_CLIENT);
  buffer_clear(&client->url);
  bool ok = buffer_append_string(&client->url, client->endpoint.url.data) &&
            request_append_query(L, CALL_REQUEST, lua_gettop(L), client->endpoint.has_query,
                                 &client->url);
  lua_pop(L, 1);
  return ok ? client->url.data : NULL;
}

/* The key by which the cache knows the call's request and, where the client's credential may
 * change, the credential; or NULL when memory is short. */
static const struct buffer *request_key(lua_State *L, struct client *client) {
  bool own = lua_isnil(L, CALL_REQUEST),
       varies = credential_may_change(&client->settings.credential);
  if (own && !varies) return &client->own_key;
  buffer_clear(&client->key);
  if (varies && !request_append_part(&client->key, client->identity.data, client->identity.length))
    return NULL;
  if (own)
    return buffer_append(&client->key, client->own_key.data, client->own_key.length) ? &client->key
                                                                                     : NULL;
  compat_getown(L, CALL_CLIENT);
  bool ok = request_append_key(L, CALL_REQUEST, lua_gettop(L), &client->key);
  lua_pop(L, 1);
  return ok ? &client->key : NULL;
}

/* Pushes a new token and returns true; or the server's errors, or nil, with the call's failure set.
 * When the ID token of an earlier log-in is refused there is one new log-in. */
static bool ask_endpoint(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct exchange *exchange = &client->exchange;
  const char *url = request_url(L, client);
  client->counters.requests++;
  if (url == NULL) {
    lua_pushnil(L);
    return call_fail_no_memory(call);
  }
  if (!session_ready(L, call)) return false;
  for (;;) {
    if (!session_lend(client, &exchange->transfer)) {
      lua_pushnil(L);
      return call_fail_no_memory(call);
    }
    if (call_converse(L, call, exchange, url, &call->about, response_read_token)) {
      session_note_acceptance(call);
      return true;
    }
    if (exchange->failure.code != FAILURE_UNAUTHORIZED) return false;
    if (!session_log_in_again(L, call)) return false;
  }
}

int token_run_fetch(lua_State *L) {
  struct call *call = lua_touserdata(L, CALL_ITSELF);
  return ask_endpoint(L, call) ? 1 : call_push_failure(L, call);
}

int token_fetch(lua_State *L, int index, int argument) {
  struct call call = {.client = client_check(L, index)};
  struct options_origin origin = {argument, argument, 0};
  struct settings settings;
  call_begin(&call);
  if (lua_isnoneornil(L, argument)) {
    lua_pushnil(L);
  } else {
    settings = call.client->settings;
    if (options_read(L, origin, OPTIONS_FETCH, &settings)) call.settings = &settings;
    call.timeout_ms = settings.timeout_ms;
    call.retries = settings.retries;
    call.hedge_ms = settings.hedge_after_ms;
  }
  return call_run(L, &call, index, CLIENT_RUN_FETCH);
}

/* Puts the token table at the top into the cache. Where memory is short it is just not kept. */
static void keep_token(lua_State *L, struct call *call, const struct buffer *key) {
  struct cache *cache = &call->client->cache;
  compat_getown(L, CALL_CLIENT);
  int place = cache_put(cache, key->data, key->length);
  if (place != CACHE_NONE) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, CLIENT_TOKENS + place); /* may raise: the entry counts as ended until now */
    cache->entries[place].refresh_ms = call->limits.refresh_ms;
    cache->entries[place].usable_ms = call->limits.usable_ms;
    if (key == &call->client->own_key) cache->favourite = place + 1;
  }
  lua_pop(L, 1);
}

/* Pushes, above the table that holds it, the token of a place in the cache and nil. The client is
 * the value at index. */
static void push_kept(lua_State *L, int index, int place) {
  compat_getown(L, index);
  lua_rawgeti(L, -1, CLIENT_TOKENS + place);
  lua_pushnil(L);
}

/* Answers from the cache at once where that can be done: 3 results, else 0. */
static int push_cached(lua_State *L, struct client *client, int index, int place) {
  if (place == CACHE_NONE) return 0;
  switch (cache_judge(&client->cache.entries[place], clock_steady_ms())) {
  case CACHE_GOOD:
    client->counters.cache_hits++;
    push_kept(L, index, place);
    lua_pushliteral(L, "cached");
    return 3;
  case CACHE_RESTING:
    client->counters.stale++;
    push_kept(L, index, place);
    lua_pushliteral(L, "stale");
    return 3;
  default:
    return 0;
  }
}

/* Prepares one attempt to renew the entry, which must leave time to hand the old token out. The
 * pause is set beforehand: however the attempt ends, the next call is not the next attempt. */
static void prepare_renewal(struct call *call, struct cache_entry *entry, int64_t now) {
  int64_t spare = (entry->usable_ms - now) / 2;
  if (call->timeout_ms > spare) call->timeout_ms = spare > 0 ? spare : 1;
  call->about.timeout_ms = call->timeout_ms;
  call->retries = 0;
  call->client->counters.refreshes++;
  cache_rest(entry, now);
}

/* After a renewal that failed: hands the old token out if it is still good by now. 3 results, or 0.
 */
static int push_stale(lua_State *L, struct call *call, const struct buffer *key) {
  struct client *client = call->client;
  int64_t now = clock_steady_ms();
  int place = cache_find(&client->cache, key->data, key->length);
  if (place == CACHE_NONE || cache_judge(&client->cache.entries[place], now) == CACHE_ENDED)
    return 0;
  cache_rest_for(&client->cache.entries[place], now, client->exchange.failure.retry_after);
  client->counters.stale++;
  push_kept(L, CALL_CLIENT, place);
  lua_pushliteral(L, "stale");
  return 3;
}

/* Asks for a token that is not there, or that is to be replaced by now: a fresh one, or 0 results
 * with the server's errors, or nil, at the top. */
static int push_fresh(lua_State *L, struct call *call, const struct buffer *key) {
  if (!ask_endpoint(L, call)) return 0;
  keep_token(L, call, key);
  lua_pushnil(L);
  lua_pushliteral(L, "fresh");
  return 3;
}

/* One attempt to renew; the old token when it fails; and when that has ended meanwhile, 0. */
static int renew(lua_State *L, struct call *call, const struct buffer *key, int place,
                 int64_t now) {
  const int64_t timeout_ms = call->timeout_ms, retries = call->retries;
  int top = lua_gettop(L);
  prepare_renewal(call, &call->client->cache.entries[place], now);
  int results = push_fresh(L, call, key);
  if (results == 0) results = push_stale(L, call, key);
  if (results > 0) return results;
  lua_settop(L, top);
  call->timeout_ms = call->about.timeout_ms = timeout_ms;
  call->retries = retries;
  return 0;
}

int token_run_get(lua_State *L) {
  struct call *call = lua_touserdata(L, CALL_ITSELF);
  struct client *client = call->client;
  session_identify(L, call);
  const struct buffer *key = request_key(L, client);
  if (key == NULL) {
    call_fail_no_memory(call);
    lua_pushnil(L);
    return call_push_failure(L, call);
  }
  int place = cache_find(&client->cache, key->data, key->length);
  int results = push_cached(L, client, CALL_CLIENT, place);
  if (results > 0) return results;
  int64_t now = clock_steady_ms();
  if (place != CACHE_NONE && now < client->cache.entries[place].usable_ms)
    results = renew(L, call, key, place, now);
  if (results == 0) results = push_fresh(L, call, key);
  return results > 0 ? results : call_push_failure(L, call);
}

int token_get(lua_State *L, int index, int argument) {
  struct client *client = client_check(L, index);
  struct options_origin origin = {argument, argument, 0};
  struct settings settings;
  bool own = lua_isnoneornil(L, argument);
  int place = own ? cache_favourite(&client->cache) : CACHE_NONE; /* none when it was closed */
  if (place != CACHE_NONE && clock_steady_ms() < client->cache.entries[place].refresh_ms) {
    client->counters.cache_hits++;
    push_kept(L, index, place);
    lua_pushvalue(L, lua_upvalueindex(CLIENT_CACHED)); /* nothing here allocates */
    return 3;
  }
  struct call call = {.client = client, .polls = true};
  call_begin(&call);
  settings = client->settings;
  if (own)
    lua_pushnil(L);
  else
    options_read(L, origin, OPTIONS_REQUEST, &settings);
  return call_run(L, &call, index, CLIENT_RUN_GET);
}

int token_invalidate(lua_State *L, int index, int argument) {
  struct client *client = client_check(L, index);
  bool found = false;
  if (!client->open) return client_fail_closed(L);
  luaL_checktype(L, argument, LUA_TSTRING);
  compat_getown(L, index);
  int own = lua_gettop(L);
  lua_pushliteral(L, "token"); /* nothing behind this allocates, so nobody can interfere */
  for (int place = 0; place < (int)client->cache.capacity; place++) {
    if (client->cache.entries[place].key == NULL) continue;
    lua_rawgeti(L, own, CLIENT_TOKENS + place);
    lua_pushvalue(L, own + 1);
    if (lua_istable(L, -2)) lua_rawget(L, -2);
    bool same = lua_rawequal(L, -1, argument) != 0;
    lua_settop(L, own + 1);
    if (!same) continue;
    cache_remove(&client->cache, place);
    lua_pushnil(L);
    lua_rawseti(L, own, CLIENT_TOKENS + place);
    found = true;
  }
  lua_pushboolean(L, found);
  return 1;
}
