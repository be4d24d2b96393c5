/* request.c - converts a request to the query of its URL, and to the key of its cache entry. */
#include "request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compat.h"
#include "span.h"

/* The query parameters with a single value. */
static const char *const texts[] = {"service", "account", "client_id"};

/* Pushes a field of a request, or of the defaults if the request does not have it. */
static int push_field(lua_State *L, int request, int defaults, const char *name) {
  if (request != 0) {
    lua_getfield(L, request, name);
    if (!lua_isnil(L, -1)) return lua_type(L, -1);
    lua_pop(L, 1);
  }
  lua_getfield(L, defaults, name);
  return lua_type(L, -1);
}

/* Appends name=value, with the value at the top of the stack. */
static bool append_pair(lua_State *L, const char *name, bool *has_query, struct buffer *url) {
  size_t length;
  const char *value = lua_tolstring(L, -1, &length);
  if (length == 0) return true;
  bool ok = buffer_append_string(url, *has_query ? "&" : "?") && buffer_append_string(url, name) &&
            buffer_append_string(url, "=") && buffer_append_encoded(url, value, length);
  *has_query = true;
  return ok;
}

bool request_append_query(lua_State *L, int request, int defaults, bool has_query,
                          struct buffer *url) {
  bool ok = true;
  for (size_t i = 0; ok && i < sizeof texts / sizeof *texts; i++) {
    if (push_field(L, request, defaults, texts[i]) == LUA_TSTRING)
      ok = append_pair(L, texts[i], &has_query, url);
    lua_pop(L, 1);
  }
  if (push_field(L, request, defaults, "offline_token") == LUA_TBOOLEAN && lua_toboolean(L, -1)) {
    lua_pushliteral(L, "true");
    ok = ok && append_pair(L, "offline_token", &has_query, url);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (push_field(L, request, defaults, "scope") == LUA_TTABLE) {
    for (int i = 1; ok && i <= (int)compat_rawlen(L, -1); i++) {
      lua_rawgeti(L, -1, i);
      ok = append_pair(L, "scope", &has_query, url);
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
  return ok;
}

static int compare_spans(const void *one, const void *other) {
  const struct span *a = one, *b = other;
  size_t length = a->length < b->length ? a->length : b->length;
  int order = memcmp(a->start, b->start, length);
  if (order != 0) return order;
  return (a->length > b->length) - (a->length < b->length);
}

bool request_append_part(struct buffer *key, const char *text, size_t length) {
  char head[32];
  int size = snprintf(head, sizeof head, "%zu:", length);
  return buffer_append(key, head, (size_t)size) && buffer_append(key, text, length);
}

/* Appends the distinct scopes of the list at the top, in sorted order. */
static bool append_scopes(lua_State *L, struct buffer *key) {
  enum { FEW = 16 };
  struct span room[FEW], *scopes = room;
  size_t count = compat_rawlen(L, -1);
  int list = lua_gettop(L);
  if (count > FEW) scopes = lua_newuserdata(L, count * sizeof *scopes);
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, list, (int)i + 1);
    scopes[i].start = lua_tolstring(L, -1, &scopes[i].length); /* the list keeps it */
    lua_pop(L, 1);
  }
  qsort(scopes, count, sizeof *scopes, compare_spans);
  bool ok = true;
  for (size_t i = 0; ok && i < count; i++)
    if (i == 0 || compare_spans(&scopes[i - 1], &scopes[i]) != 0)
      ok = request_append_part(key, scopes[i].start, scopes[i].length);
  lua_settop(L, list);
  return ok;
}

bool request_append_key(lua_State *L, int request, int defaults, struct buffer *key) {
  bool ok = true;
  for (size_t i = 0; ok && i < sizeof texts / sizeof *texts; i++) {
    size_t length = 0;
    const char *text = "";
    if (push_field(L, request, defaults, texts[i]) == LUA_TSTRING)
      text = lua_tolstring(L, -1, &length);
    ok = request_append_part(key, text, length);
    lua_pop(L, 1);
  }
  push_field(L, request, defaults, "offline_token");
  ok = ok && request_append_part(key, "1", lua_toboolean(L, -1) ? 1 : 0);
  lua_pop(L, 1);
  if (push_field(L, request, defaults, "scope") == LUA_TTABLE) ok = ok && append_scopes(L, key);
  lua_pop(L, 1);
  return ok;
}
