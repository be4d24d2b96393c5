/* bearer.h - the grammar of RFC 6750: the form of a bearer token, and the forms in which people
 * pass one. */
#ifndef ICPTOKEN_BEARER_H
#define ICPTOKEN_BEARER_H

#include <stdbool.h>
#include <stddef.h>

#include "span.h"

#pragma GCC visibility push(hidden)

/* The text before the token in a request. */
#define BEARER_HEADER "Authorization: Bearer "

/* Is this a b64token (section 2.1): one or more of A-Z a-z 0-9 - . _ ~ + / and then any number of
 * =? */
bool bearer_is_token(const char *text, size_t length);

/* Removes white space at both ends and a leading "Bearer " (in any case). */
struct span bearer_strip(const char *text, size_t length);

#pragma GCC visibility pop

#endif
