/* request.h - converts a request to the query of its URL, and to the key of its cache entry.
 * Requests and defaults are the tables that options_read pushes. */
#ifndef ICPTOKEN_REQUEST_H
#define ICPTOKEN_REQUEST_H

#include <lua.h>
#include <stdbool.h>

#include "buffer.h"

#pragma GCC visibility push(hidden)

/* Appends the query ("?service=...&scope=...") of the request at a stack index (0 for none); absent
 * fields come from the defaults. has_query: the URL already has a query. False if out of memory. */
bool request_append_query(lua_State *L, int request, int defaults, bool has_query,
                          struct buffer *url);

/* Appends a part of a key with its length before it, so that no two lists of parts give the same
 * key. False if out of memory. */
bool request_append_part(struct buffer *key, const char *text, size_t length);

/* Appends a canonical form of what request_append_query reads, which is equal for equal requests,
 * however they were written. False if out of memory. */
bool request_append_key(lua_State *L, int request, int defaults, struct buffer *key);

#pragma GCC visibility pop

#endif
