/* ascii.h - characters and words as protocols define them, independent of the locale. strcasecmp
 * follows the locale: in Turkish ones "I" and "i" are different letters. */
#ifndef ICPTOKEN_ASCII_H
#define ICPTOKEN_ASCII_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static inline char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c; }

/* Does a text of this length begin with the word, ignoring case? */
static inline bool ascii_begins(const char *text, size_t length, const char *word) {
  for (size_t i = 0; word[i] != '\0'; i++)
    if (i == length || (text[i] != word[i] && ascii_lower(text[i]) != ascii_lower(word[i])))
      return false;
  return true;
}

/* Is a text of this length equal to the word, ignoring case? */
static inline bool ascii_is(const char *text, size_t length, const char *word) {
  return strlen(word) == length && ascii_begins(text, length, word);
}

/* Are these two strings equal, ignoring case? */
static inline bool ascii_same(const char *a, const char *b) { return ascii_is(a, strlen(a), b); }

/* May this character occur in an HTTP token (RFC 9110 section 5.6.2)? */
static inline bool ascii_is_tchar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

#endif
