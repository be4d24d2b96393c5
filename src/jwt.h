/* jwt.h - the little of RFC 7519 that a client needs: the three parts, and two numbers of the
 * claims. Nothing here verifies a signature. No memory is kept. */
#ifndef ICPTOKEN_JWT_H
#define ICPTOKEN_JWT_H

#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"
#include "span.h"

#pragma GCC visibility push(hidden)

struct jwt {
  struct span header, claims, signature; /* still in base64url */
};

/* What a token says of its own life, in seconds since the epoch. */
struct jwt_times {
  bool has_exp, has_iat;
  double exp, iat;
};

/* Is this an RFC 6750 b64token: one or more of A-Z a-z 0-9 - . _ ~ + / and then any number of =? */
bool jwt_is_b64token(const char *text, size_t length);

/* Takes white space from both ends and a leading "Bearer " (in any case) from the front. */
struct span jwt_strip_bearer(const char *text, size_t length);

/* Splits at the two dots (RFC 7515 compact form). False when there are not two, or when header or
 * claims are empty. What the parts hold is not looked at. */
bool jwt_split(const char *text, size_t length, struct jwt *jwt);

/* Does a part hold nothing but base64url, of a length that stands for whole bytes? */
bool jwt_is_base64url(struct span part);

/* Bytes of room that a part needs to be decoded into. */
#define JWT_ROOM(part) ((part).length / 4 * 3 + 3)

/* Writes the bytes that a part stands for. False when it is no base64url; what was written then
 * means nothing. */
bool jwt_decode_part(struct span part, char *out, size_t *length);

/* Reads exp and iat of a token into times. What cannot be read counts as not there; nothing behind
 * the place where both were found is looked at. scratch is left holding claims. False only when
 * memory is short. */
bool jwt_read_times(const char *token, size_t length, struct buffer *scratch,
                    struct jwt_times *times);

/* Does exp say that this token has ended at the epoch second now? ICP issues tokens whose exp
 * equals their iat, so exp is believed only where it is later than iat. */
bool jwt_has_ended(const struct jwt_times *times, double now);

/* Reads a JSON number at *text, which may not go past end, and moves *text behind it.
 * Independent of the locale. False when none is there or when it is not finite. */
bool jwt_read_number(const char **text, const char *end, double *number);

#pragma GCC visibility pop

#endif
