/* client.h - the client that scripts hold: its life, and what is done on it. */
#ifndef ICPTOKEN_CLIENT_H
#define ICPTOKEN_CLIENT_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* The registry's name of the metatable of clients. */
#define CLIENT_TYPE "icptoken.client"

/* What every function that ends up here has as upvalues. */
enum { CLIENT_DECODE = 1, CLIENT_NOTHING, CLIENT_CONVERSE, CLIENT_NO_MEMORY, CLIENT_UPVALUES = 4 };

/* Pushes the values of all upvalues, in their order. Raises when cjson cannot be loaded. */
void client_push_upvalues(lua_State *L);

/* Makes a client from the options table at argument and pushes it: returns 1. Pushes nil, message,
 * code, details when memory is short: returns 4. Raises on a wrong option. */
int client_new(lua_State *L, int argument);

/* Gets a token with the client at index, for the request at argument (a table, or nil or none for
 * the client's own). Pushes the token table and returns 1, or nil, message, code, details and 4. */
int client_fetch(lua_State *L, int index, int argument);

/* Pushes the counters and timings of the client at index. */
int client_stats(lua_State *L, int index);

/* Frees all that the client at index holds. Again does nothing. */
void client_close(lua_State *L, int index);

/* Pushes how the client at index is to be shown. */
int client_tostring(lua_State *L, int index);

#pragma GCC visibility pop

#endif
