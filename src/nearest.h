/* nearest.h - finds the name that a misspelt one was probably meant to be. */
#ifndef ICPTOKEN_NEAREST_H
#define ICPTOKEN_NEAREST_H

#include <stddef.h>

#pragma GCC visibility push(hidden)

struct nearest {
  const char *written;
  const char *best; /* the nearest name so far; NULL while none is near enough */
  size_t changes;   /* the limit: a nearer name needs fewer changes */
};

/* Starts a search for the name that was meant. */
struct nearest nearest_begin(const char *written);

/* Compares one more name. */
void nearest_offer(struct nearest *nearest, const char *name);

#pragma GCC visibility pop

#endif
