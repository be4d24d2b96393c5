/* scrub.h - makes text from the network safe to show: short, printable and without secrets. */
#ifndef ICPTOKEN_SCRUB_H
#define ICPTOKEN_SCRUB_H

#include <stddef.h>

#include "settings.h"
#include "span.h"

#pragma GCC visibility push(hidden)

enum {
  SCRUB_CHARACTERS = 200,                /* the longest sample */
  SCRUB_SIZE = SCRUB_CHARACTERS * 4 + 1, /* its bytes in UTF-8, with the NUL */
};

/* The secrets that a call may know. Each has its own index, so there cannot be too many. */
enum secret {
  SECRET_PROXY_PASSWORD,
  SECRET_PASSWORD,
  SECRET_LOGIN_PASSWORD,
  SECRET_KEY_PASSWORD,
  SECRET_LINE,       /* the value of the current Authorization header */
  SECRET_LOGIN_LINE, /* the value of the header with the ID token of the last login */
  SECRET_LOGIN_PAIR, /* base64 of the login's user name and password */
  SECRETS
};

/* Lists of header lines: those of the client, and those of the request. */
enum { SCRUB_HEADER_LISTS = 2 };

/* Spans of memory that the caller owns. A zeroed struct secrets contains none. */
struct secrets {
  struct span secret[SECRETS];
  /* lines "name: value" of all requests, and of this one, any of which may be an API key; or NULL
   */
  const struct string_list *headers[SCRUB_HEADER_LISTS];
};

void scrub_clear_secrets(struct secrets *secrets);

/* Registers a secret. NULL, and texts too short to be distinguished from ordinary words, are
 * ignored. */
void scrub_set_secret(struct secrets *secrets, enum secret which, const char *text, size_t length);

/* Notes the header lines whose values are secrets. */
void scrub_set_headers(struct secrets *secrets, const struct string_list *of_client,
                       const struct string_list *of_request);

/* Writes a sample of text to out, at most SCRUB_CHARACTERS characters. Control characters and
 * broken UTF-8 become escapes. "[hidden]" replaces every known secret, everything that looks like a
 * JWT, and each value after "Bearer", "Basic" or a name such as "token" or "password". A secret is
 * found even if it is escaped once or twice as in JSON, URLs, forms or HTML, or truncated. For data
 * that is not text, for example because it is compressed, the sample is only the length. Returns
 * out. */
char *scrub_sample(const struct secrets *secrets, const char *text, size_t length,
                   char out[SCRUB_SIZE]);

/* Replaces every known secret with "[hidden]" or its first characters, and returns the new length.
 * For a text that is split before it is shown. */
size_t scrub_mask(const struct secrets *secrets, char *text, size_t length);

#pragma GCC visibility pop

#endif
