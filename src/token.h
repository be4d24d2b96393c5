/* token.h - client:fetch and client:token: one token, from the endpoint or from the cache. */
#ifndef ICPTOKEN_TOKEN_H
#define ICPTOKEN_TOKEN_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* client:fetch with the client at index: a new token for the request at argument (a table, or nil
 * or none for the client's own). Pushes the token and returns 1, or nil, message, code, details and
 * 4. */
int token_fetch(lua_State *L, int index, int argument);

/* client:token: a token that is still valid, from the cache if possible. Arguments as for
 * token_fetch. Pushes token, nil, source and returns 3; or nil, message, code, details and 4. */
int token_get(lua_State *L, int index, int argument);

/* client:invalidate: forgets the entry that holds exactly the token at argument, and pushes whether
 * there was one. */
int token_invalidate(lua_State *L, int index, int argument);

#pragma GCC visibility pop

#endif
