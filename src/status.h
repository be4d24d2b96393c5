/* status.h - derives a failure, whose message says what to do, from an answer of another status
 * than 200. */
#ifndef ICPTOKEN_STATUS_H
#define ICPTOKEN_STATUS_H

#include <lua.h>

#include "exchange.h"
#include "reader.h"

#pragma GCC visibility push(hidden)

/* Sets the failure of the exchange from its answer, whose status is not 200, and pushes the list
 * for details.errors, or nil. */
void status_read_refusal(lua_State *L, const struct reader *reader, struct exchange *exchange);

#pragma GCC visibility pop

#endif
