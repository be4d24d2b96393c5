/* response.h - the tables that callers get: a token, the refusal of one, a decoded JWT, the details
 * of a failure. Everything that is made here passes cjson or comes from a struct failure. */
#ifndef ICPTOKEN_RESPONSE_H
#define ICPTOKEN_RESPONSE_H

#include <lua.h>
#include <stdbool.h>

#include "buffer.h"
#include "exchange.h"
#include "failure.h"
#include "jitter.h"
#include "scrub.h"

#pragma GCC visibility push(hidden)

/* What reading an answer needs besides the answer. */
struct reader {
  int decode; /* (pseudo-)index of the function that json_push_decoder made */
  const struct circumstances *about;
  struct buffer *scratch;
  struct jitter *jitter;
};

/* Limits of a token that was read, on the steady clock in milliseconds. */
struct token_limits {
  int64_t refresh_ms, usable_ms; /* renew from; hand out until */
};

/* Reads an answer of status 200: pushes the table and fills limits in, or sets the failure of the
 * exchange and pushes the list for details.errors, or nil. */
typedef bool response_reader(lua_State *L, const struct reader *reader, struct exchange *exchange,
                             struct token_limits *limits);

/* That of the token endpoint. */
bool response_read_token(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits);

/* That of the identity provider, which must bring an ID token. limits are not used. */
bool response_read_login(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits);

/* Reads an answer of any other status: sets the failure of the exchange and pushes the list for
 * details.errors, or nil. */
void response_read_refusal(lua_State *L, const struct reader *reader, struct exchange *exchange);

/* Pushes nil, message, code, details and returns 4. url may be NULL; errors is the stack index of
 * the list for details.errors, or 0. */
int response_push_failure(lua_State *L, const struct failure *failure, const char *url, int errors);

/* Pushes { header=, claims=, signature= } of a JWT, or nothing when it is none: failure then says
 * why. */
bool response_push_jwt(lua_State *L, int decode, const char *text, size_t length,
                       struct failure *failure);

/* Pushes { realm=, service=, scope=, error= } of the Bearer challenge in a WWW-Authenticate value,
 * or nothing when there is none: failure then says why. */
bool response_push_challenge(lua_State *L, const char *text, size_t length,
                             struct failure *failure);

#pragma GCC visibility pop

#endif
