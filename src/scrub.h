/* scrub.h - makes text from the network fit to be shown: short, printable and without secrets. */
#ifndef ICPTOKEN_SCRUB_H
#define ICPTOKEN_SCRUB_H

#include <stddef.h>

#include "jwt.h"

#pragma GCC visibility push(hidden)

enum {
  SCRUB_CHARACTERS = 200,                /* the longest sample */
  SCRUB_SIZE = SCRUB_CHARACTERS * 4 + 1, /* its bytes in UTF-8, with the NUL */
  SCRUB_SECRETS = 8
};

/* The secrets of one client: runs of bytes in memory that the caller owns. */
struct secrets {
  struct span secret[SCRUB_SECRETS];
  size_t count;
};

/* Adds a secret; NULL and texts too short to be told from ordinary words are passed over. */
void scrub_add_secret(struct secrets *secrets, const char *text, size_t length);

/* Writes a sample of text to out: control characters and broken UTF-8 as escapes, every known
 * secret, everything that looks like a JWT and every credential behind "Bearer" or "Basic" as
 * "[hidden]", and no more than SCRUB_CHARACTERS characters. Returns out. */
char *scrub_sample(const struct secrets *secrets, const char *text, size_t length,
                   char out[SCRUB_SIZE]);

#pragma GCC visibility pop

#endif
