/* ascii.h - comparing names without regard to case, in every locale alike. strcasecmp follows the
 * locale: in Turkish ones "I" and "i" are different letters. */
#ifndef ICPTOKEN_ASCII_H
#define ICPTOKEN_ASCII_H

#include <stdbool.h>
#include <stddef.h>

static inline char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c; }

/* Does text begin with the first length characters of prefix, which has no fewer? */
static inline bool ascii_begins(const char *text, const char *prefix, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (ascii_lower(text[i]) != ascii_lower(prefix[i])) return false;
  return true;
}

static inline bool ascii_same(const char *a, const char *b) {
  while (*a != '\0' && ascii_lower(*a) == ascii_lower(*b))
    a++, b++;
  return *a == *b;
}

#endif
