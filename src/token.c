/* token.c - client:fetch and client:token: one token, from the endpoint or from the cache. A cached
 * token is returned until shortly before its expiry, and renewed ahead of that; renewal failures
 * are not reported while the old token is valid. */
#include "token.h"

#include "authorization.h"
#include "call.h"
#include "clock.h"
#include "compat.h"
#include "credential.h"
#include "lockout.h"
#include "request.h"

/* Returns the URL of the call's request, or NULL if out of memory. */
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

/* Returns the cache key of the call's request, which includes the credential if the client's
 * credential may change; or NULL if out of memory. */
static const struct buffer *request_key(lua_State *L, struct client *client) {
  bool own = lua_isnil(L, CALL_REQUEST),
       varies = credential_may_change(&client->settings.credential);
  if (own && !varies) return &client->own_key;
  buffer_clear(&client->key);
  if (varies && !request_append_part(&client->key, client->session.identity.data,
                                     client->session.identity.length))
    return NULL;
  if (own)
    return buffer_append(&client->key, client->own_key.data, client->own_key.length) ? &client->key
                                                                                     : NULL;
  compat_getown(L, CALL_CLIENT);
  bool ok = request_append_key(L, CALL_REQUEST, lua_gettop(L), &client->key);
  lua_pop(L, 1);
  return ok ? &client->key : NULL;
}

/* Pushes a new token and returns true; or pushes the server's errors, or nil, with the call's
 * failure set. If the ID token of an earlier login is refused, there is one new login. */
static bool request_token(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct exchange *exchange = &client->exchange;
  const char *url = request_url(L, client);
  client->counters.requests++;
  if (url == NULL) {
    lua_pushnil(L);
    return call_fail_no_memory(call);
  }
  if (!authorization_prepare(L, call)) return false;
  for (;;) {
    if (!session_authorize(&client->session, &exchange->transfer) ||
        !transfer_set_more_headers(&exchange->transfer, &call->request_headers)) {
      lua_pushnil(L);
      return call_fail_no_memory(call);
    }
    if (call_converse(L, call, exchange, url, &call->context, response_read_token)) {
      lockout_forget(call);
      return true;
    }
    if (call->failure.code != FAILURE_UNAUTHORIZED) return false;
    if (!authorization_renew(L, call, &call->failure)) return false;
  }
}

static int run_fetch(lua_State *L, struct call *call) {
  return request_token(L, call) ? 1 : call_push_failure(L, call);
}

int token_fetch(lua_State *L, int index, int argument) {
  struct call call = {.body = run_fetch, .client = client_check(L, index)};
  struct options_origin origin = {argument, argument, 0};
  struct settings settings;
  call_begin(&call);
  if (lua_isnoneornil(L, argument)) {
    lua_pushnil(L);
  } else {
    settings = call.client->settings;
    if (options_read_request(L, origin, &settings)) call.settings = &settings;
    call.timeout_ms = settings.timeout_ms;
    call.retries = settings.retries;
    call.hedge_ms = settings.hedge_after_ms;
    call.request_headers = settings.request_headers;
  }
  return call_run(L, &call, index);
}

/* Puts the token table at the top into the cache. If out of memory, it is not cached. */
static void keep_token(lua_State *L, struct call *call, const struct buffer *key) {
  struct cache *cache = &call->client->cache;
  compat_getown(L, CALL_CLIENT);
  int slot = cache_put(cache, key->data, key->length, clock_steady_ms());
  if (slot != CACHE_NONE) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2,
                CLIENT_TOKENS + slot); /* may raise: the entry counts as expired until then */
    cache_set_limits(cache, slot, call->limits.refresh_ms, call->limits.usable_ms);
    if (key == &call->client->own_key) cache->own_entry = slot + 1;
  }
  lua_pop(L, 1);
}

/* Pushes the cached token of a slot and nil, above the table that contains it. The client is the
 * value at index. */
static void push_kept(lua_State *L, int index, int slot) {
  compat_getown(L, index);
  lua_rawgeti(L, -1, CLIENT_TOKENS + slot);
  lua_pushnil(L);
}

/* Pushes the cached token if it may be returned without a token request: 3 results, else 0. */
static int push_cached(lua_State *L, struct client *client, int index, int slot) {
  if (slot == CACHE_NONE) return 0;
  switch (cache_judge(&client->cache.entries[slot], clock_steady_ms())) {
  case CACHE_GOOD:
    client->counters.cache_hits++;
    push_kept(L, index, slot);
    lua_pushliteral(L, "cached");
    return 3;
  case CACHE_PAUSED:
    client->counters.stale++;
    push_kept(L, index, slot);
    lua_pushliteral(L, "stale");
    return 3;
  default:
    return 0;
  }
}

/* Prepares one attempt to renew the entry, which must leave time to return the old token. The pause
 * is set beforehand, so that the next call does not try again, whatever happens to this attempt. */
static void prepare_renewal(struct call *call, struct cache_entry *entry, int64_t now) {
  int64_t spare = (entry->usable_ms - now) / 2;
  if (call->timeout_ms > spare) call->timeout_ms = spare > 0 ? spare : 1;
  call->context.timeout_ms = call->timeout_ms;
  /* 0 unless the credential has already been read, within this deadline */
  if (call->deadline_ms > now + call->timeout_ms) call->deadline_ms = now + call->timeout_ms;
  call->retries = 0;
  call->client->counters.refreshes++;
  cache_pause(entry, now);
}

/* After a failed renewal: returns the old token if it is still valid. 3 results, or 0. */
static int push_stale(lua_State *L, struct call *call, const struct buffer *key) {
  struct client *client = call->client;
  int64_t now = clock_steady_ms();
  int slot = cache_find(&client->cache, key->data, key->length);
  if (slot == CACHE_NONE || cache_judge(&client->cache.entries[slot], now) == CACHE_EXPIRED)
    return 0;
  cache_pause_for(&client->cache.entries[slot], now, call->failure.retry_after);
  client->counters.stale++;
  push_kept(L, CALL_CLIENT, slot);
  lua_pushliteral(L, "stale");
  return 3;
}

/* Requests a token that is not cached, or must be replaced now: 3 results for a fresh one, or 0
 * with the server's errors, or nil, at the top. */
static int push_fresh(lua_State *L, struct call *call, const struct buffer *key) {
  if (!request_token(L, call)) return 0;
  keep_token(L, call, key);
  lua_pushnil(L);
  lua_pushliteral(L, "fresh");
  return 3;
}

/* Makes one attempt to renew the token. If it fails, returns the old token; if that has expired
 * meanwhile, returns 0. */
static int renew_token(lua_State *L, struct call *call, const struct buffer *key, int slot,
                       int64_t now) {
  const int64_t timeout_ms = call->timeout_ms, retries = call->retries,
                deadline_ms = call->deadline_ms;
  int top = lua_gettop(L);
  prepare_renewal(call, &call->client->cache.entries[slot], now);
  int results = push_fresh(L, call, key);
  if (results == 0) results = push_stale(L, call, key);
  if (results > 0) return results;
  lua_settop(L, top);
  call->timeout_ms = call->context.timeout_ms = timeout_ms;
  call->retries = retries;
  call->deadline_ms = deadline_ms;
  return 0;
}

static int run_get(lua_State *L, struct call *call) {
  struct client *client = call->client;
  if (!authorization_identify(L, call)) {
    lua_pushnil(L);
    return call_push_failure(L, call);
  }
  const struct buffer *key = request_key(L, client);
  if (key == NULL) {
    call_fail_no_memory(call);
    lua_pushnil(L);
    return call_push_failure(L, call);
  }
  int slot = cache_find(&client->cache, key->data, key->length);
  int results = push_cached(L, client, CALL_CLIENT, slot);
  if (results > 0) return results;
  int64_t now = clock_steady_ms();
  if (slot != CACHE_NONE && now < client->cache.entries[slot].usable_ms)
    results = renew_token(L, call, key, slot, now);
  if (results == 0) results = push_fresh(L, call, key);
  return results > 0 ? results : call_push_failure(L, call);
}

int token_get(lua_State *L, int index, int argument) {
  struct client *client = client_check(L, index);
  struct options_origin origin = {argument, argument, 0};
  bool own = lua_isnoneornil(L, argument);
  int slot = own ? cache_own_entry(&client->cache) : CACHE_NONE; /* none if it was closed */
  if (slot != CACHE_NONE && clock_steady_ms() < client->cache.entries[slot].refresh_ms) {
    client->counters.cache_hits++;
    push_kept(L, index, slot);
    lua_pushvalue(L, lua_upvalueindex(CLIENT_CACHED)); /* nothing here allocates */
    return 3;
  }
  struct call call = {.body = run_get, .client = client, .polls = true};
  call_begin(&call);
  if (own)
    lua_pushnil(L);
  else
    options_read_request(L, origin, NULL);
  return call_run(L, &call, index);
}

int token_invalidate(lua_State *L, int index, int argument) {
  struct client *client = client_check(L, index);
  bool found = false;
  if (!client->open) return client_fail_closed(L);
  luaL_checktype(L, argument, LUA_TSTRING);
  compat_getown(L, index);
  int own = lua_gettop(L);
  lua_pushliteral(L, "token"); /* nothing from here on allocates, so no finaliser can interfere */
  for (int slot = 0; slot < (int)client->cache.capacity; slot++) {
    if (client->cache.entries[slot].key == NULL) continue;
    lua_rawgeti(L, own, CLIENT_TOKENS + slot);
    lua_pushvalue(L, own + 1);
    if (lua_istable(L, -2)) lua_rawget(L, -2);
    bool same = lua_rawequal(L, -1, argument) != 0;
    lua_settop(L, own + 1);
    if (!same) continue;
    cache_remove(&client->cache, slot);
    lua_pushnil(L);
    lua_rawseti(L, own, CLIENT_TOKENS + slot);
    found = true;
  }
  lua_pushboolean(L, found);
  return 1;
}
