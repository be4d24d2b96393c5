/* request.h - what a request asks for, in two forms: the query of its URL, and the key by which the
 * cache knows it. Requests and defaults are the tables that options_read pushes. */
#ifndef ICPTOKEN_REQUEST_H
#define ICPTOKEN_REQUEST_H

#include <lua.h>
#include <stdbool.h>

#include "buffer.h"

#pragma GCC visibility push(hidden)

/* Appends the query ("?service=…&scope=…") of the request at a stack index (0 for none); what it
 * does not name comes from the defaults. has_query: the URL has one already. False when memory is
 * short. */
bool request_append_query(lua_State *L, int request, int defaults, bool has_query,
                          struct buffer *url);

/* Appends a part of a key with its length before it, so that no two lists of parts read the same.
 * False when memory is short. */
bool request_append_part(struct buffer *key, const char *text, size_t length);

/* Appends what makes a request the same as another, however it was written: a canonical form of
 * what request_append_query reads. False when memory is short. */
bool request_append_key(lua_State *L, int request, int defaults, struct buffer *key);

#pragma GCC visibility pop

#endif
