/* escape.h - reads a text character by character and resolves the escapes of JSON, URLs and HTML.
 */
#ifndef ICPTOKEN_ESCAPE_H
#define ICPTOKEN_ESCAPE_H

#include <stddef.h>

#pragma GCC visibility push(hidden)

/* How many times an escape is resolved: escapes are nested, for instance in HTML inside JSON. */
enum { ESCAPE_DEPTH = 2 };

/* A character, possibly written as an escape: how many bytes of the text it takes (0: not found),
 * and its bytes. */
struct character {
  size_t taken, size;
  char bytes[4];
};

/* Reads the character at the start of the text, which is not empty, with escapes resolved depth
 * times. */
struct character escape_read(const char *text, size_t length, int depth);

#pragma GCC visibility pop

#endif
