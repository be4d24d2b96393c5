/* token.c - client:token: the cache before the endpoint. A token is handed out until shortly before
 * its end, and renewed ahead of that; what goes wrong meanwhile stays between us and the endpoint.
 */
#include "token.h"

#include "call.h"
#include "clock.h"
#include "compat.h"

/* The key of the request of a client:token; the client's own when there is none. */
static const struct buffer *request_key(const struct call *call) {
  const struct client *client = call->client;
  return call->url == client->own_url.data ? &client->own_key : &client->key;
}

/* Puts the token table at the top into the cache. */
static bool keep_token(lua_State *L, struct call *call, int index) {
  struct client *client = call->client;
  const struct buffer *key = request_key(call);
  int place = cache_put(&client->cache, key->data, key->length, INT64_MIN, INT64_MIN);
  if (place == CACHE_NONE) return false;
  compat_getown(L, index);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, CLIENT_TOKENS + place); /* may raise: the entry counts as ended until now */
  lua_pop(L, 1);
  struct cache_entry *entry = &client->cache.entries[place];
  if (key == &client->own_key) client->cache.favourite = place + 1;
  entry->refresh_ms = call->limits.refresh_ms;
  entry->usable_ms = call->limits.usable_ms;
  return true;
}

/* Pushes the token of a place in the cache, nil and its source, above the table that holds it. */
static int push_kept(lua_State *L, int index, int place, const char *source) {
  compat_getown(L, index);
  lua_rawgeti(L, -1, CLIENT_TOKENS + place);
  lua_pushnil(L);
  if (source == NULL)
    lua_pushvalue(L, lua_upvalueindex(CLIENT_CACHED));
  else
    lua_pushstring(L, source);
  return 3;
}

/* Asks for a new token and keeps it. Pushes the results of client:token. */
static int refresh_token(lua_State *L, struct call *call, int index) {
  int results = call_run(L, call, index, CLIENT_RUN_FETCH, 0);
  if (results != 1) return results;
  keep_token(L, call, index); /* where memory is short it is just not kept */
  lua_pushnil(L);
  lua_pushliteral(L, "fresh");
  return 3;
}

/* One attempt to renew, which must leave time to hand the old token out. Pushes the new one, or the
 * old one as stale. */
static int renew_token(lua_State *L, struct call *call, int index, int place, int64_t now) {
  struct client *client = call->client;
  int64_t spare = (client->cache.entries[place].usable_ms - now) / 2;
  int top = lua_gettop(L);
  if (call->timeout_ms > spare) call->timeout_ms = spare > 0 ? spare : 1;
  call->retries = 0;
  call_describe(call);
  client->counters.refreshes++;
  int results = refresh_token(L, call, index);
  if (results == 3) return results;
  lua_settop(L, top);
  client->counters.stale++;
  cache_rest(&client->cache.entries[place], clock_steady_ms(),
             client->exchange.failure.retry_after);
  return push_kept(L, index, place, "stale");
}

/* Answers from the cache where that can be done; 0 results where it cannot. */
static int push_cached(lua_State *L, struct client *client, int index, int place, int64_t now) {
  switch (cache_judge(&client->cache.entries[place], now)) {
  case CACHE_GOOD:
    client->counters.cache_hits++;
    return push_kept(L, index, place, NULL);
  case CACHE_RESTING:
    client->counters.stale++;
    return push_kept(L, index, place, "stale");
  default:
    return 0;
  }
}

/* Pushes the results of client:token for a call whose entry of the cache, if any, is at place. */
static int get(lua_State *L, struct call *call, int index, int place) {
  int64_t now = clock_steady_ms();
  if (place == CACHE_NONE) return refresh_token(L, call, index);
  int results = push_cached(L, call->client, index, place, now);
  if (results > 0) return results;
  bool usable = now < call->client->cache.entries[place].usable_ms;
  return usable ? renew_token(L, call, index, place, now) : refresh_token(L, call, index);
}

/* The same for a request, whose URL and key it prepares. */
static int get_for_request(lua_State *L, struct client *client, int index, int argument) {
  struct settings settings;
  struct call call = {.client = client};
  client_refuse_busy(L, client); /* the call in the middle needs the buffers */
  call_begin(&call);
  if (!call_prepare(L, &call, index, argument, OPTIONS_REQUEST, &settings))
    return client_fail_no_memory(L);
  return get(L, &call, index, cache_find(&client->cache, client->key.data, client->key.length));
}

int token_get(lua_State *L, int index, int argument) {
  struct client *client = client_check(L, index);
  if (!client->open) return client_fail_closed(L);
  if (!lua_isnoneornil(L, argument)) return get_for_request(L, client, index, argument);
  int place = cache_favourite(&client->cache);
  int results = place == CACHE_NONE ? 0 : push_cached(L, client, index, place, clock_steady_ms());
  if (results > 0) return results;
  struct call call = {.client = client};
  client_refuse_busy(L, client);
  call_begin(&call);
  return get(L, &call, index,
             cache_find(&client->cache, client->own_key.data, client->own_key.length));
}

int token_invalidate(lua_State *L, int index, int argument) {
  struct client *client = client_check(L, index);
  if (!client->open) return client_fail_closed(L);
  luaL_checktype(L, argument, LUA_TSTRING);
  bool found = false;
  compat_getown(L, index);
  int own = lua_gettop(L);
  for (int place = 0; place < (int)client->cache.capacity; place++) {
    if (client->cache.entries[place].key == NULL) continue;
    lua_rawgeti(L, own, CLIENT_TOKENS + place);
    lua_pushliteral(L, "token");
    if (lua_istable(L, -2)) lua_rawget(L, -2);
    bool same = lua_rawequal(L, -1, argument) != 0;
    lua_settop(L, own);
    if (!same) continue;
    cache_remove(&client->cache, place);
    lua_pushnil(L);
    lua_rawseti(L, own, CLIENT_TOKENS + place);
    found = true;
  }
  lua_pushboolean(L, found);
  return 1;
}
