/* challenge.c - fuzzes the reader of WWW-Authenticate: each value that it finds lies inside the
 * text, contains no control character, and does not become longer when it is unescaped. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "../src/challenge.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  const char *text = (const char *)data;
  struct challenge challenge;
  if (challenge_read(text, size, &challenge) != NULL) return 0;
  for (size_t i = 0; i < CHALLENGE_FIELDS; i++) {
    const struct span *value = &challenge.value[i];
    if (value->start == NULL) continue;
    assert(value->start >= text && value->start + value->length <= text + size);
    char *room = malloc(value->length + 1);
    if (room == NULL) abort();
    size_t length = challenge_unescape(*value, room);
    assert(length <= value->length);
    for (size_t j = 0; j < length; j++)
      assert((unsigned char)room[j] >= 0x20 && room[j] != 0x7F);
    free(room);
  }
  return 0;
}
