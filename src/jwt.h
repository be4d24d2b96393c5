/* jwt.h - the parts of RFC 7519 that a client needs: splitting a token, and two numbers of its
 * claims. Nothing here verifies a signature, and nothing allocates memory that the caller must
 * free. */
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

/* The times in a token's claims, in seconds since the epoch. */
struct jwt_times {
  bool has_exp, has_iat;
  double exp, iat;
};

/* Splits at the two dots (RFC 7515 compact form). False if there are not exactly two, or if header
 * or claims are empty. The contents of the parts are not checked. */
bool jwt_split(const char *text, size_t length, struct jwt *jwt);

/* Is a part valid base64url, of a length that represents whole bytes? */
bool jwt_is_base64url(struct span part);

/* Returns the size of the buffer that a part needs for decoding. */
#define JWT_ROOM(part) ((part).length / 4 * 3 + 3)

/* Decodes a part. False if it is not base64url; then the contents of the buffer are undefined. */
bool jwt_decode_part(struct span part, char *out, size_t *length);

/* Reads exp and iat of a token into times. What cannot be read counts as absent; nothing after the
 * position where both were found is read. scratch holds the claims afterwards. False only if out of
 * memory. */
bool jwt_read_times(const char *token, size_t length, struct buffer *scratch,
                    struct jwt_times *times);

/* Does exp limit the lifetime of this token? ICP issues tokens whose exp equals their iat, so exp
 * counts only if it is later than iat. */
bool jwt_exp_counts(const struct jwt_times *times);

/* Reads a JSON number at *text, not beyond end, and moves *text after it. Independent of the
 * locale. False if there is none or if it is not finite. */
bool jwt_read_number(const char **text, const char *end, double *number);

#pragma GCC visibility pop

#endif
