/* alphabet.h - the character sets of bearer tokens and of base64url. */
#ifndef ICPTOKEN_ALPHABET_H
#define ICPTOKEN_ALPHABET_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

/* The classes of a byte: part of a b64token (RFC 6750 section 2.1), also a digit of base64url (RFC
 * 4648 section 5), and the six bits that the digit represents. */
enum {
  ALPHABET_TOKEN = 0x80,
  ALPHABET_BASE64URL = 0x40,
  ALPHABET_DIGIT = ALPHABET_TOKEN | ALPHABET_BASE64URL,
  ALPHABET_BITS = 0x3F
};

extern const unsigned char alphabet_of[256];

static inline unsigned alphabet_at(const char *text) { return alphabet_of[(unsigned char)*text]; }

/* Do all bytes belong to this alphabet? */
bool alphabet_has_all(const char *text, size_t length, unsigned alphabet);

#pragma GCC visibility pop

#endif
