/* json.h - converts JSON text to a Lua table with lua-cjson. Its results are checked before they
 * are used, because another module may be installed under its name. */
#ifndef ICPTOKEN_JSON_H
#define ICPTOKEN_JSON_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

/* Pushes the decode function of a new cjson instance: no invalid numbers, shallow depth. Raises
 * what require raises, and when the module cjson is not lua-cjson. */
void json_push_decoder(lua_State *L);

/* Pushes the table of the JSON object in text and returns true, or pushes a string that says what
 * is wrong and returns false. decode is the (pseudo-)index of the function that json_push_decoder
 * pushed. The table contains no nulls, whole numbers below 2^53 are Lua integers if Lua has them,
 * and nothing has a metatable. The result does not depend on the locale. Raises only if out of
 * memory. */
bool json_push_object(lua_State *L, int decode, const char *text, size_t length);

#pragma GCC visibility pop

#endif
