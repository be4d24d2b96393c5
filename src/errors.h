/* errors.h - the errors that a server reports with a refusal: the list for details.errors, and the
 * text for a message. Every string is scrubbed. */
#ifndef ICPTOKEN_ERRORS_H
#define ICPTOKEN_ERRORS_H

#include <lua.h>

#include "reader.h"
#include "scrub.h"

#pragma GCC visibility push(hidden)

/* Pushes the list of { code=, message= } from the object at index, or nil if it has none. Four
 * forms are known: the distribution project's { "errors": [{ "code", "message" }] }, OAuth 2's
 * error and error_description, details, and message. */
void errors_push_object(lua_State *L, const struct reader *reader, int object);

/* The same for the body of an answer, which need not be JSON. */
void errors_push_body(lua_State *L, const struct reader *reader, const struct buffer *body);

/* Pushes the list for the Bearer challenge of a WWW-Authenticate value (RFC 6750 section 3.1), or
 * nil if it reports no error. value is shorter than ANSWER_VALUE_SIZE. */
void errors_push_challenge(lua_State *L, const struct reader *reader, const char *value);

/* Writes the server's text for a message: that of the first error of the list at the top, or a
 * sample of the body if there is no list. */
void errors_write_words(lua_State *L, const struct reader *reader, const struct buffer *body,
                        char words[SCRUB_SIZE]);

#pragma GCC visibility pop

#endif
