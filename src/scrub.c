/* scrub.c - makes text from the network fit to be shown: short, printable and without secrets.
 * Secrets are looked for in the whole text before it is cut, so none is shown by half. */
#include "scrub.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { SHORTEST_SECRET = 4, SHORTEST_JWT = 10 };

static const char mask[] = "[hidden]";

void scrub_add_secret(struct secrets *secrets, const char *text, size_t length) {
  if (text == NULL || length < SHORTEST_SECRET || secrets->count == SCRUB_SECRETS) return;
  secrets->secret[secrets->count++] = (struct span){text, length};
}

static bool is_token_char(char c) { return jwt_is_b64token(&c, 1) || c == '='; }

/* Length of the run of token characters at the front. */
static size_t token_run(const char *text, size_t length) {
  size_t run = 0;
  while (run < length && is_token_char(text[run]))
    run++;
  return run;
}

static size_t match_secret(const struct secrets *secrets, const char *text, size_t length) {
  size_t longest = 0;
  for (size_t i = 0; i < secrets->count; i++) {
    const struct span *secret = &secrets->secret[i];
    if (secret->length <= length && secret->length > longest &&
        memcmp(text, secret->start, secret->length) == 0)
      longest = secret->length;
  }
  return longest;
}

/* Every JOSE header is a JSON object, so every JWT begins with the base64 of {" or of { and white
 * space: "eyJ", "eyA", "ewo", "ew0", "ewk". */
static size_t match_jwt(const char *text, size_t length) {
  static const char starts[][4] = {"eyJ", "eyA", "ewo", "ew0", "ewk"};
  if (length < SHORTEST_JWT || text[0] != 'e') return 0;
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    if (memcmp(text, starts[i], 3) != 0) continue;
    size_t run = token_run(text, length);
    return run < SHORTEST_JWT ? 0 : run;
  }
  return 0;
}

/* The name of an authentication scheme and the space behind it. */
static size_t match_scheme(const char *text, size_t length) {
  static const char *const schemes[] = {"bearer", "basic"};
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    size_t name = strlen(schemes[i]), at = 0;
    if (length <= name) continue;
    while (at < name && (text[at] | 0x20) == schemes[i][at])
      at++;
    if (at < name) continue;
    while (at < length && text[at] == ' ')
      at++;
    if (at > name) return at;
  }
  return 0;
}

/* Bytes of the UTF-8 character at the front; 0 when it is broken or a control character. */
static size_t printable(const char *text, size_t length) {
  const unsigned char *u = (const unsigned char *)text;
  if (u[0] < 0x80) return u[0] >= 0x20 && u[0] != 0x7F;
  size_t size = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
  if (u[0] < 0xC2 || u[0] > 0xF4 || size > length) return 0;
  for (size_t i = 1; i < size; i++)
    if ((u[i] & 0xC0) != 0x80) return 0;
  if (u[0] == 0xC2 && u[1] < 0xA0) return 0; /* C1 control characters */
  if (u[0] == 0xE0 && u[1] < 0xA0) return 0; /* longer than it need be */
  if (u[0] == 0xED && u[1] > 0x9F) return 0; /* surrogates */
  if (u[0] == 0xF0 && u[1] < 0x90) return 0; /* longer than it need be */
  if (u[0] == 0xF4 && u[1] > 0x8F) return 0; /* beyond U+10FFFF */
  if (u[0] == 0xE2 && u[1] == 0x80 && u[2] >= 0xA8 && u[2] <= 0xAE)
    return 0; /* lines, directions */
  return size;
}

struct sample {
  char *out;
  size_t bytes, characters;
  bool full;
};

/* Adds text that counts as so many characters, or marks the sample full. One character is kept
 * back for the mark of omission. */
static void add(struct sample *sample, const char *text, size_t bytes, size_t characters) {
  if (sample->full || sample->characters + characters > SCRUB_CHARACTERS - 1) {
    sample->full = true;
    return;
  }
  memcpy(sample->out + sample->bytes, text, bytes);
  sample->bytes += bytes;
  sample->characters += characters;
}

static void add_escaped(struct sample *sample, unsigned char c) {
  char escape[5];
  int size = c == '\n'   ? snprintf(escape, sizeof escape, "\\n")
             : c == '\r' ? snprintf(escape, sizeof escape, "\\r")
             : c == '\t' ? snprintf(escape, sizeof escape, "\\t")
                         : snprintf(escape, sizeof escape, "\\x%02X", c);
  add(sample, escape, (size_t)size, (size_t)size);
}

char *scrub_sample(const struct secrets *secrets, const char *text, size_t length,
                   char out[SCRUB_SIZE]) {
  struct sample sample = {out, 0, 0, false};
  while (length > 0 && !sample.full) {
    size_t taken = match_secret(secrets, text, length);
    if (taken == 0) taken = match_jwt(text, length);
    if (taken > 0) {
      add(&sample, mask, sizeof mask - 1, sizeof mask - 1);
    } else if ((taken = match_scheme(text, length)) > 0) {
      size_t credential = token_run(text + taken, length - taken);
      add(&sample, text, taken, taken);
      if (credential >= SHORTEST_SECRET) {
        add(&sample, mask, sizeof mask - 1, sizeof mask - 1);
        taken += credential;
      }
    } else if ((taken = printable(text, length)) > 0) {
      add(&sample, text, taken, 1);
    } else {
      taken = 1;
      add_escaped(&sample, (unsigned char)*text);
    }
    text += taken;
    length -= taken;
  }
  if (sample.full) {
    static const char omission[] = "\xE2\x80\xA6";
    memcpy(out + sample.bytes, omission, sizeof omission - 1);
    sample.bytes += sizeof omission - 1;
  }
  out[sample.bytes] = '\0';
  return out;
}
