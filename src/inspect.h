/* inspect.h - functions on text that a script has: the parts of a JWT, and the Bearer challenge of
 * a WWW-Authenticate value. Nothing here verifies a signature. */
#ifndef ICPTOKEN_INSPECT_H
#define ICPTOKEN_INSPECT_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#include "failure.h"

#pragma GCC visibility push(hidden)

/* Pushes { header=, claims=, signature= } of a JWT and returns true; or pushes nothing, sets the
 * failure and returns false. decode is the (pseudo-)index of the function that json_push_decoder
 * made. */
bool inspect_push_jwt(lua_State *L, int decode, const char *text, size_t length,
                      struct failure *failure);

/* Pushes { realm=, service=, scope=, error= } of the Bearer challenge in a WWW-Authenticate value
 * and returns true; or pushes nothing, sets the failure and returns false. */
bool inspect_push_challenge(lua_State *L, const char *text, size_t length, struct failure *failure);

#pragma GCC visibility pop

#endif
