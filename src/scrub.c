/* scrub.c - makes text from the network safe to show: short, printable and without secrets. The
 * whole text is searched for secrets before it is truncated, so no part of one is shown. */
#include "scrub.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ascii.h"
#include "bearer.h"
#include "escape.h"

enum {
  MIN_SECRET = 4,
  MIN_FRONT = 12, /* the minimum for a truncated secret that is followed by other text */
  MIN_JWT = 10,
  MAX_SCANNED = 16 * 1024, /* bytes of a text that a sample is made of */
  MAX_WORK = 1024 * 1024   /* limit of steps for one text; a step takes some nanoseconds */
};

static const char mask[] = "[hidden]";

void scrub_clear_secrets(struct secrets *secrets) { *secrets = (struct secrets){0}; }

void scrub_set_secret(struct secrets *secrets, enum secret which, const char *text, size_t length) {
  bool known = text != NULL && length >= MIN_SECRET;
  secrets->secret[which] = known ? (struct span){text, length} : (struct span){NULL, 0};
}

void scrub_set_headers(struct secrets *secrets, const struct string_list *of_client,
                       const struct string_list *of_request) {
  secrets->headers[0] = of_client;
  secrets->headers[1] = of_request;
}

static bool is_token_char(char c) { return bearer_is_token(&c, 1) || c == '='; }

/* The search for secrets in one text, and how many steps it may still take. A text can be crafted
 * so that the search takes minutes: when all steps are used up, the remaining text is hidden. */
struct search {
  const struct secrets *secrets;
  size_t steps;
};

/* escape_read, counting steps: a character that may start an escape costs far more than a plain
 * one. */
static struct character read_counted(struct search *search, const char *text, size_t length,
                                     int depth) {
  static const size_t costs[ESCAPE_DEPTH + 1] = {1, 16, 256};
  bool plain = text[0] != '%' && text[0] != '\\' && text[0] != '&';
  size_t cost = plain ? 1 : costs[depth];
  search->steps -= cost < search->steps ? cost : search->steps;
  return escape_read(text, length, depth);
}

static struct character resolve(struct search *search, const char *text, size_t length) {
  return read_counted(search, text, length, ESCAPE_DEPTH);
}

static bool is_one_of(const struct character *character, const char *set) {
  return character->size == 1 && character->bytes[0] != '\0' &&
         strchr(set, character->bytes[0]) != NULL;
}

/* Returns the length of the token characters at the start, escaped or not. */
static size_t token_run(struct search *search, const char *text, size_t length) {
  size_t run = 0;
  while (run < length) {
    struct character next = resolve(search, text + run, length - run);
    if (next.size != 1 || !is_token_char(next.bytes[0])) break;
    run += next.taken;
  }
  return run;
}

/* Returns how many bytes of the secret this character represents, 0 if it is another one. A space
 * is a plus sign in a form, base64 has two alphabets (RFC 4648 sections 4 and 5), and a byte beyond
 * ASCII may have been taken for a character of ISO 8859-1. */
static size_t match_character(const struct character *character, const char *secret, size_t left) {
  const char *bytes = character->bytes;
  if (character->size <= left && memcmp(bytes, secret, character->size) == 0)
    return character->size;
  if (*secret == ' ' && is_one_of(character, "+")) return 1;
  if (*secret == '+' && is_one_of(character, "-")) return 1;
  if (*secret == '/' && is_one_of(character, "_")) return 1;
  bool latin = character->size == 2 && (unsigned char)bytes[0] <= 0xC3;
  return latin && (char)((bytes[0] & 3) << 6 | (bytes[1] & 0x3F)) == *secret;
}

/* Returns how many bytes of the text are this secret, or a prefix of it that is long enough to be
 * revealing, with some of its characters escaped. A text that ends inside the secret counts too,
 * because it was truncated there. */
static size_t match_escaped(struct search *search, struct span secret, const char *text,
                            size_t length, int depth) {
  size_t at = 0, matched = 0;
  while (matched < secret.length && at < length) {
    struct character next = read_counted(search, text + at, length - at, depth);
    size_t same = match_character(&next, secret.start + matched, secret.length - matched);
    if (same == 0) return matched >= MIN_FRONT ? at : 0;
    at += next.taken;
    matched += same;
  }
  return matched >= MIN_SECRET ? at : 0;
}

/* The same for the secret as it is. */
static size_t match_plain(struct span secret, const char *text, size_t length) {
  size_t size = secret.length < length ? secret.length : length, matched = 0;
  while (matched < size && text[matched] == secret.start[matched])
    matched++;
  return matched >= (matched == size ? MIN_SECRET : MIN_FRONT) ? matched : 0;
}

/* Returns how many bytes at the start of the text are this secret, in any form. */
static size_t match_span(struct search *search, struct span secret, const char *text,
                         size_t length) {
  if (secret.length < MIN_SECRET) return 0;
  size_t longest = match_plain(secret, text, length);
  for (int depth = 1; depth <= ESCAPE_DEPTH; depth++) {
    size_t escaped = match_escaped(search, secret, text, length, depth);
    if (escaped > longest) longest = escaped;
  }
  return longest;
}

/* The same for the value of a header line, or its part after a scheme ("ApiKey 1234"). */
static size_t match_header(struct search *search, const char *line, const char *text,
                           size_t length) {
  const char *value = strchr(line, ':');
  if (value == NULL) return 0; /* libcurl's way of sending a header without a value */
  value += 1 + strspn(value + 1, " ");
  size_t whole = match_span(search, (struct span){value, strlen(value)}, text, length);
  const char *space = strchr(value, ' ');
  if (space == NULL) return whole;
  space += strspn(space, " ");
  size_t part = match_span(search, (struct span){space, strlen(space)}, text, length);
  return part > whole ? part : whole;
}

/* The same for all header lines. */
static size_t match_headers(struct search *search, const char *text, size_t length) {
  size_t longest = 0;
  for (size_t i = 0; i < SCRUB_HEADER_LISTS; i++) {
    const struct string_list *lines = search->secrets->headers[i];
    for (size_t k = 0; lines != NULL && k < lines->count; k++) {
      size_t matched = match_header(search, lines->item[k], text, length);
      if (matched > longest) longest = matched;
    }
  }
  return longest;
}

static size_t match_secret(struct search *search, const char *text, size_t length) {
  const struct secrets *secrets = search->secrets;
  if (search->steps == 0) return length;
  size_t longest = match_headers(search, text, length);
  for (size_t i = 0; i < SECRETS; i++) {
    size_t matched = match_span(search, secrets->secret[i], text, length);
    if (matched > longest) longest = matched;
  }
  while (longest > 0 && longest < length) { /* its padding, which may not be part of the secret */
    struct character next = resolve(search, text + longest, length - longest);
    if (!is_one_of(&next, "=")) break;
    longest += next.taken;
  }
  return search->steps == 0 ? length : longest;
}

/* Every JOSE header is a JSON object, so every JWT starts with the base64 of {" or of { and white
 * space: "eyJ", "eyA", "ewo", "ew0", "ewk". */
static size_t match_jwt(struct search *search, const char *text, size_t length) {
  static const char starts[][4] = {"eyJ", "eyA", "ewo", "ew0", "ewk"};
  char front[3];
  size_t at = 0;
  for (size_t i = 0; i < sizeof front; i++) {
    struct character next = {0};
    if (at < length) next = resolve(search, text + at, length - at);
    front[i] = next.bytes[0];
    at += next.taken;
  }
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    if (memcmp(front, starts[i], sizeof front) != 0) continue;
    size_t run = token_run(search, text, length);
    return run < MIN_JWT ? 0 : run;
  }
  return 0;
}

/* Returns the length of the name of an authentication scheme and the spaces after it. */
static size_t match_scheme(struct search *search, const char *text, size_t length) {
  static const char *const schemes[] = {"bearer", "basic"};
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    size_t name = strlen(schemes[i]), at = name;
    if (!ascii_begins(text, length, schemes[i])) continue;
    while (at < length) {
      struct character next = resolve(search, text + at, length - at);
      if (!is_one_of(&next, " +")) break;
      at += next.taken;
    }
    if (at > name) return at;
  }
  return 0;
}

static bool is_word_char(char c) {
  return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' || c == '-';
}

/* Returns the length of the end of a name that announces a secret ("id_token", "password") and the
 * punctuation between it and its value, as in JSON, forms and logs. */
static size_t match_label(struct search *search, const char *text, size_t length) {
  static const char *const labels[] = {"token", "password", "passwd"};
  for (size_t i = 0; i < sizeof labels / sizeof *labels; i++) {
    size_t at = strlen(labels[i]);
    bool assigned = false;
    if (!ascii_begins(text, length, labels[i])) continue;
    while (at < length && is_word_char(text[at]))
      at++; /* the rest of the name */
    while (at < length) {
      struct character next = resolve(search, text + at, length - at);
      if (!is_one_of(&next, " \t\r\n\"'\\:=[{(")) break;
      if (is_one_of(&next, ":=")) assigned = true;
      at += next.taken;
    }
    if (assigned) return at;
  }
  return 0;
}

/* Returns the length of the value after such a name. */
static size_t value_run(struct search *search, const char *text, size_t length) {
  size_t run = 0;
  while (run < length) {
    struct character next = resolve(search, text + run, length - run);
    if (is_one_of(&next, " \t\r\n\"',;&<>{}[]")) break;
    run += next.taken;
  }
  return run;
}

/* Returns the bytes of the UTF-8 character at the start; 0 if it is invalid or a control character.
 */
static size_t count_printable(const char *text, size_t length) {
  const unsigned char *u = (const unsigned char *)text;
  if (u[0] < 0x80) return u[0] >= 0x20 && u[0] != 0x7F;
  size_t size = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
  if (u[0] < 0xC2 || u[0] > 0xF4 || size > length) return 0;
  for (size_t i = 1; i < size; i++)
    if ((u[i] & 0xC0) != 0x80) return 0;
  if (u[0] == 0xC2 && u[1] < 0xA0) return 0; /* C1 control characters */
  if (u[0] == 0xE0 && u[1] < 0xA0) return 0; /* overlong encoding */
  if (u[0] == 0xED && u[1] > 0x9F) return 0; /* surrogates */
  if (u[0] == 0xF0 && u[1] < 0x90) return 0; /* overlong encoding */
  if (u[0] == 0xF4 && u[1] > 0x8F) return 0; /* beyond U+10FFFF */
  if (u[0] == 0xE2 && u[1] == 0x80 && u[2] >= 0xA8 && u[2] <= 0xAE)
    return 0; /* line separators, changes of direction */
  return size;
}

struct sample {
  char *out;
  size_t bytes, characters;
  bool full;
};

/* Adds text that counts as this many characters, or marks the sample as full. One character is
 * reserved for the ellipsis. */
static void append_sample(struct sample *sample, const char *text, size_t bytes,
                          size_t characters) {
  if (sample->full || sample->characters + characters > SCRUB_CHARACTERS - 1) {
    sample->full = true;
    return;
  }
  memcpy(sample->out + sample->bytes, text, bytes);
  sample->bytes += bytes;
  sample->characters += characters;
}

static void append_escaped(struct sample *sample, unsigned char c) {
  char escape[5];
  int size = c == '\n'   ? snprintf(escape, sizeof escape, "\\n")
             : c == '\r' ? snprintf(escape, sizeof escape, "\\r")
             : c == '\t' ? snprintf(escape, sizeof escape, "\\t")
                         : snprintf(escape, sizeof escape, "\\x%02X", c);
  append_sample(sample, escape, (size_t)size, (size_t)size);
}

/* Returns how much to hide of a text whose first run bytes are hidden: more, if a secret starts
 * within them and ends after them. */
static size_t whole_run(struct search *search, const char *text, size_t length, size_t run) {
  for (size_t i = 0; i < run; i++) {
    size_t secret = match_secret(search, text + i, length - i);
    if (secret > 0 && i + secret > run) run = i + secret;
  }
  return run >= MIN_SECRET ? run : 0;
}

static void append_plain(struct sample *sample, const char *text, size_t length) {
  while (length > 0 && !sample->full) {
    size_t taken = count_printable(text, length);
    if (taken > 0)
      append_sample(sample, text, taken, 1);
    else
      append_escaped(sample, (unsigned char)*text);
    text += taken > 0 ? taken : 1;
    length -= taken > 0 ? taken : 1;
  }
}

/* Returns how much to hide of a text: a value of run bytes after front bytes, if it is long enough.
 * The front bytes are shown, but at most *shown of them if a secret starts there. */
static size_t hide_value(struct search *search, const char *text, size_t length, size_t front,
                         size_t run, size_t *shown) {
  size_t hidden = whole_run(search, text + front, length - front, run);
  if (hidden == 0) return 0;
  size_t at = 0;
  while (at < front && match_secret(search, text + at, length - at) == 0)
    at++;
  *shown = at;
  if (at == front) return hidden;
  return whole_run(search, text + at, length - at, front - at + hidden);
}

/* Adds the start of the text and returns how many bytes it has used. */
static size_t append_next(struct sample *sample, struct search *search, const char *text,
                          size_t length) {
  size_t hidden = match_secret(search, text, length), front, shown = 0;
  if (hidden == 0) hidden = whole_run(search, text, length, match_jwt(search, text, length));
  if (hidden == 0 && (front = match_scheme(search, text, length)) > 0)
    hidden = hide_value(search, text, length, front,
                        token_run(search, text + front, length - front), &shown);
  if (hidden == 0 && (front = match_label(search, text, length)) > 0)
    hidden = hide_value(search, text, length, front,
                        value_run(search, text + front, length - front), &shown);
  if (hidden == 0) {
    shown = count_printable(text, length);
    if (shown == 0) shown = 1;
  }
  append_plain(sample, text, shown);
  if (hidden > 0) append_sample(sample, mask, sizeof mask - 1, sizeof mask - 1);
  return shown + hidden;
}

/* Is this text, in UTF-8 or one of the ISO 8859 family, possibly with terminal colours? Compressed
 * data, or text with two bytes per character, is not. */
static bool is_text(const char *text, size_t length) {
  while (length > 0) {
    unsigned char c = (unsigned char)*text;
    size_t taken = count_printable(text, length);
    if (taken == 0 && c >= 0xC2 && length < 4) return true; /* a character that was cut off */
    if (taken == 0 && c < 0xA0 && (c < '\t' || c > '\r') && c != 0x1B) return false;
    text += taken > 0 ? taken : 1;
    length -= taken > 0 ? taken : 1;
  }
  return true;
}

char *scrub_sample(const struct secrets *secrets, const char *text, size_t length,
                   char out[SCRUB_SIZE]) {
  static const char omission[] = "\xE2\x80\xA6";
  struct sample sample = {out, 0, 0, false};
  struct search search = {secrets, MAX_WORK};
  if (!is_text(text, length)) {
    snprintf(out, SCRUB_SIZE, "[%zu bytes that are not text]", length);
    return out;
  }
  bool cut = length > MAX_SCANNED;
  if (cut) length = MAX_SCANNED;
  while (length > 0 && !sample.full) {
    size_t taken = append_next(&sample, &search, text, length);
    text += taken;
    length -= taken;
  }
  if (sample.full || cut) {
    memcpy(out + sample.bytes, omission, sizeof omission - 1);
    sample.bytes += sizeof omission - 1;
  }
  out[sample.bytes] = '\0';
  return out;
}

size_t scrub_mask(const struct secrets *secrets, char *text, size_t length) {
  struct search search = {secrets, MAX_WORK};
  size_t out = 0;
  for (size_t at = 0; at < length;) {
    size_t hidden = match_secret(&search, text + at, length - at);
    size_t kept = hidden == 0 ? 1 : hidden < sizeof mask - 1 ? hidden : sizeof mask - 1;
    memmove(text + out, hidden == 0 ? text + at : mask, kept);
    out += kept;
    at += hidden == 0 ? 1 : hidden;
  }
  return out;
}
