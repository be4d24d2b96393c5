/* scrub.h - makes text from the network fit to be shown: short, printable and without secrets. */
#ifndef ICPTOKEN_SCRUB_H
#define ICPTOKEN_SCRUB_H

#include <stddef.h>

#include "span.h"

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

/* Writes a sample of text to out: control characters and broken UTF-8 as escapes, no more than
 * SCRUB_CHARACTERS characters, and "[hidden]" for every known secret, be it escaped as in JSON,
 * URLs, forms or HTML, twice over, or cut off at the end, for everything that looks like a JWT, and
 * for what stands behind "Bearer", "Basic" or a name like "token" or "password". Of what is not
 * text, such as compressed data, only the length is told. Returns out. */
char *scrub_sample(const struct secrets *secrets, const char *text, size_t length,
                   char out[SCRUB_SIZE]);

/* Puts "[hidden]", or the front of it, in the place of every known secret, and returns the new
 * length. For a text that is to be cut to pieces before it is shown. */
size_t scrub_mask(const struct secrets *secrets, char *text, size_t length);

#pragma GCC visibility pop

#endif
