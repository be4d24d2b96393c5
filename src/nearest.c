/* nearest.c - finds the name that a misspelt one was probably meant to be. */
#include "nearest.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { MAX_CHANGES = 3 };

/* Returns how many letters must be inserted, removed, replaced or swapped to turn one name into the
 * other. */
static size_t count_changes(const char *a, const char *b) {
  enum { MAX_LENGTH = 24 };
  size_t row[3][MAX_LENGTH + 1];
  size_t a_length = strlen(a), b_length = strlen(b);
  if (a_length > MAX_LENGTH || b_length > MAX_LENGTH) return SIZE_MAX;
  for (size_t j = 0; j <= b_length; j++)
    row[0][j] = j;
  for (size_t i = 1; i <= a_length; i++) {
    size_t *now = row[i % 3], *before = row[(i + 2) % 3], *earlier = row[(i + 1) % 3];
    now[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      size_t best = before[j - 1] + (a[i - 1] != b[j - 1]);
      if (before[j] + 1 < best) best = before[j] + 1;
      if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && earlier[j - 2] + 1 < best) best = earlier[j - 2] + 1;
      now[j] = best;
    }
  }
  return row[a_length % 3][b_length];
}

struct nearest nearest_begin(const char *written) {
  size_t most = strlen(written) / 2 + 1;
  return (struct nearest){written, NULL, (most < MAX_CHANGES ? most : MAX_CHANGES) + 1};
}

void nearest_offer(struct nearest *nearest, const char *name) {
  size_t changes = count_changes(nearest->written, name);
  bool same_start = strncmp(nearest->written, name, 3) == 0;
  if (changes > 0 && same_start) changes--; /* most mistakes are made after the first letters */
  if (changes >= nearest->changes) return;
  nearest->changes = changes;
  nearest->best = name;
}
