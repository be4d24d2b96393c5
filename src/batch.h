/* batch.h - client:fetch_all: requests many tokens at once over one client's connections. */
#ifndef ICPTOKEN_BATCH_H
#define ICPTOKEN_BATCH_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* client:fetch_all with the client at index: requests a token for each element of the list at
 * argument, at most `parallel` (an option) at a time. Pushes the list of tokens (false where a
 * request failed) and the list of errors (nil if all succeeded) and returns 2; or pushes nil,
 * message, code, details and returns 4. */
int batch_fetch(lua_State *L, int index, int argument);

#pragma GCC visibility pop

#endif
