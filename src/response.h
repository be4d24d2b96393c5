/* response.h - reads answers of status 200: a token, and the ID token of a login. */
#ifndef ICPTOKEN_RESPONSE_H
#define ICPTOKEN_RESPONSE_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "exchange.h"
#include "reader.h"

#pragma GCC visibility push(hidden)

/* Limits of a token that was read, in milliseconds of the steady clock. */
struct token_limits {
  int64_t refresh_ms, usable_ms; /* renew from; return until */
};

/* Reads an answer of status 200: pushes the table and fills in limits, or sets the failure of the
 * exchange and pushes the list for details.errors, or nil. */
typedef bool response_reader(lua_State *L, const struct reader *reader, struct exchange *exchange,
                             struct token_limits *limits);

/* Reads the token endpoint's answer. */
bool response_read_token(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits);

/* Reads the identity provider's answer, which must contain an ID token. limits are not used. */
bool response_read_login(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits);

#pragma GCC visibility pop

#endif
