/* scrub.c - fuzzes the sample of a text from the network: never a secret, a control character or
 * more than 200 characters. The first 8 bytes are the secret. */
#include <assert.h>
#include <string.h>

#include "../src/scrub.h"

enum { SECRET = 8 };

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct secrets secrets = {0};
  char sample[SCRUB_SIZE];
  size_t characters = 0;
  if (size < SECRET) return 0;
  scrub_set_secret(&secrets, SECRET_PASSWORD, (const char *)data, SECRET);
  scrub_sample(&secrets, (const char *)data + SECRET, size - SECRET, sample);
  size_t length = strlen(sample);
  assert(length < SCRUB_SIZE);
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)sample[i];
    assert(c >= 0x20 && c != 0x7F);
    if ((c & 0xC0) != 0x80) characters++;
  }
  assert(characters <= SCRUB_CHARACTERS);
  return 0;
}
