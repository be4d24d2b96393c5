/* batch.h - client:fetch_all: many tokens at once over one client's connections. */
#ifndef ICPTOKEN_BATCH_H
#define ICPTOKEN_BATCH_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* client:fetch_all with the client at index: a token for each request of the list at argument, with
 * no more than option parallel under way. Pushes the list of tokens (false where there is none) and
 * that of errors, or nil when all succeeded, and returns 2; or nil, message, code, details and 4.
 */
int batch_fetch(lua_State *L, int index, int argument);

/* Its protected half. */
int batch_run(lua_State *L);

#pragma GCC visibility pop

#endif
