/* challenge.h - the Bearer challenge of a WWW-Authenticate value (RFC 7235, RFC 6750). */
#ifndef ICPTOKEN_CHALLENGE_H
#define ICPTOKEN_CHALLENGE_H

#include <stdbool.h>
#include <stddef.h>

#include "span.h"

#pragma GCC visibility push(hidden)

enum challenge_field {
  CHALLENGE_REALM,
  CHALLENGE_SERVICE,
  CHALLENGE_SCOPE,
  CHALLENGE_ERROR,
  CHALLENGE_DESCRIPTION, /* error_description, for people */
  CHALLENGE_FIELDS
};

/* The values as the header contains them: pointers into the text that was read. Absent ones have a
 * NULL start. */
struct challenge {
  struct span value[CHALLENGE_FIELDS];
};

extern const char *const challenge_names[CHALLENGE_FIELDS];

/* Reads a whole header value, which may contain several challenges, and stores the first one of
 * scheme Bearer. Returns NULL, or a description of what is wrong. */
const char *challenge_read(const char *text, size_t length, struct challenge *challenge);

/* Writes a value with the escapes of a quoted string resolved, and returns its length, which is at
 * most that of the value. */
size_t challenge_unescape(struct span value, char *out);

#pragma GCC visibility pop

#endif
