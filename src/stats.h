/* stats.h - client:stats: the counters of a client, and the timings of its last transfer. */
#ifndef ICPTOKEN_STATS_H
#define ICPTOKEN_STATS_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* Pushes the counters and timings (in seconds) of the client at index, and with option certificates
 * those that the server sent, and returns 1; or nil, message, code, details and 4 if it was closed.
 */
int stats_push(lua_State *L, int index);

#pragma GCC visibility pop

#endif
