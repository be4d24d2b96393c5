/* result.h - the results of a failed call for the script: nil, message, code, details. */
#ifndef ICPTOKEN_RESULT_H
#define ICPTOKEN_RESULT_H

#include <lua.h>

#include "failure.h"

#pragma GCC visibility push(hidden)

/* Pushes nil, message, code, details and returns 4. url may be NULL; errors is the stack index of
 * the list for details.errors, or 0. */
int result_push_failure(lua_State *L, const struct failure *failure, const char *url, int errors);

#pragma GCC visibility pop

#endif
