/* scrub.c - makes text from the network fit to be shown: short, printable and without secrets.
 * Secrets are looked for in the whole text before it is cut, so none is shown by half. */
#include "scrub.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "jwt.h"

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

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The number of count hexadecimal digits, or -1. */
static long read_hex(const char *text, size_t length, size_t count) {
  long number = 0;
  if (length < count) return -1;
  for (size_t i = 0; i < count; i++) {
    int value = hex_value(text[i]);
    if (value < 0) return -1;
    number = number * 16 + value;
  }
  return number;
}

static size_t encode_utf8(long code, char out[3]) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  if (code < 0x800) {
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3F));
    return 2;
  }
  out[0] = (char)(0xE0 | code >> 12);
  out[1] = (char)(0x80 | (code >> 6 & 0x3F));
  out[2] = (char)(0x80 | (code & 0x3F));
  return 3;
}

/* What stands at the front of the text, with an escape of JSON or of URLs resolved: its bytes go to
 * out, their number to size. Returns how much of the text that was. */
static size_t resolve_escape(const char *text, size_t length, char out[3], size_t *size) {
  *size = 1;
  out[0] = text[0];
  if (text[0] == '%') {
    long byte = read_hex(text + 1, length - 1, 2);
    if (byte < 0) return 1;
    out[0] = (char)byte;
    return 3;
  }
  if (text[0] != '\\' || length < 2) return 1;
  out[0] = text[1];
  if (text[1] != 'u') return 2;
  long code = read_hex(text + 2, length - 2, 4);
  if (code < 0) return 2;
  *size = encode_utf8(code, out);
  return 6;
}

/* How much of the text is this secret with some of its characters escaped. A text that ends inside
 * the secret counts too: it was cut off there. */
static size_t match_escaped(struct span secret, const char *text, size_t length) {
  size_t at = 0, matched = 0, size;
  char bytes[3];
  while (matched < secret.length && at < length) {
    at += resolve_escape(text + at, length - at, bytes, &size);
    if (size > secret.length - matched || memcmp(bytes, secret.start + matched, size) != 0)
      return 0;
    matched += size;
  }
  return matched >= SHORTEST_SECRET ? at : 0;
}

/* The same for the secret as it is. */
static size_t match_plain(struct span secret, const char *text, size_t length) {
  size_t matched = secret.length < length ? secret.length : length;
  return matched >= SHORTEST_SECRET && memcmp(text, secret.start, matched) == 0 ? matched : 0;
}

static size_t match_secret(const struct secrets *secrets, const char *text, size_t length) {
  size_t longest = 0;
  for (size_t i = 0; i < secrets->count; i++) {
    size_t plain = match_plain(secrets->secret[i], text, length);
    size_t escaped = match_escaped(secrets->secret[i], text, length);
    if (plain > longest) longest = plain;
    if (escaped > longest) longest = escaped;
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

static bool has_word(const char *text, size_t length, const char *word) {
  size_t size = strlen(word);
  if (length < size) return false;
  for (size_t i = 0; i < size; i++)
    if ((text[i] | 0x20) != word[i]) return false;
  return true;
}

/* The name of an authentication scheme and the spaces behind it. */
static size_t match_scheme(const char *text, size_t length) {
  static const char *const schemes[] = {"bearer", "basic"};
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    size_t name = strlen(schemes[i]), at = name;
    if (!has_word(text, length, schemes[i])) continue;
    while (at < length && text[at] == ' ')
      at++;
    if (at > name) return at;
  }
  return 0;
}

/* The end of a name that says what follows is a secret ("id_token", "password") and the marks
 * between it and its value, in the manner of JSON, forms and logs. */
static size_t match_label(const char *text, size_t length) {
  static const char *const labels[] = {"token", "password", "passwd"};
  for (size_t i = 0; i < sizeof labels / sizeof *labels; i++) {
    size_t at = strlen(labels[i]);
    bool assigned = false;
    if (!has_word(text, length, labels[i])) continue;
    for (; at < length && text[at] != '\0' && strchr(" \t\r\n\"'\\:=", text[at]) != NULL; at++)
      if (text[at] == ':' || text[at] == '=') assigned = true;
    if (assigned) return at;
  }
  return 0;
}

/* Length of the value behind such a name. */
static size_t value_run(const char *text, size_t length) {
  size_t run = 0;
  while (run < length && (text[run] == '\0' || strchr(" \t\r\n\"',;&<>{}[]", text[run]) == NULL))
    run++;
  return run;
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

/* What is to be hidden of a text whose first run bytes are: more, when a secret begins in them and
 * ends behind them. */
static size_t whole_run(const struct secrets *secrets, const char *text, size_t length,
                        size_t run) {
  for (size_t i = 0; i < run; i++) {
    size_t secret = match_secret(secrets, text + i, length - i);
    if (secret > 0 && i + secret > run) run = i + secret;
  }
  return run >= SHORTEST_SECRET ? run : 0;
}

static void add_plain(struct sample *sample, const char *text, size_t length) {
  while (length > 0 && !sample->full) {
    size_t taken = printable(text, length);
    if (taken > 0)
      add(sample, text, taken, 1);
    else
      add_escaped(sample, (unsigned char)*text);
    text += taken > 0 ? taken : 1;
    length -= taken > 0 ? taken : 1;
  }
}

/* Adds what stands at the front of the text and returns how much of it that was. */
static size_t add_next(struct sample *sample, const struct secrets *secrets, const char *text,
                       size_t length) {
  size_t hidden = match_secret(secrets, text, length), shown = 0;
  if (hidden == 0) hidden = whole_run(secrets, text, length, match_jwt(text, length));
  if (hidden == 0 && (shown = match_scheme(text, length)) > 0)
    hidden =
        whole_run(secrets, text + shown, length - shown, token_run(text + shown, length - shown));
  if (hidden == 0 && (shown = match_label(text, length)) > 0)
    hidden =
        whole_run(secrets, text + shown, length - shown, value_run(text + shown, length - shown));
  if (hidden == 0) {
    shown = printable(text, length);
    if (shown == 0) shown = 1;
  }
  add_plain(sample, text, shown);
  if (hidden > 0) add(sample, mask, sizeof mask - 1, sizeof mask - 1);
  return shown + hidden;
}

char *scrub_sample(const struct secrets *secrets, const char *text, size_t length,
                   char out[SCRUB_SIZE]) {
  struct sample sample = {out, 0, 0, false};
  while (length > 0 && !sample.full) {
    size_t taken = add_next(&sample, secrets, text, length);
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

size_t scrub_mask(const struct secrets *secrets, char *text, size_t length) {
  size_t out = 0;
  for (size_t at = 0; at < length;) {
    size_t hidden = match_secret(secrets, text + at, length - at);
    size_t kept = hidden == 0 ? 1 : hidden < sizeof mask - 1 ? hidden : sizeof mask - 1;
    memmove(text + out, hidden == 0 ? text + at : mask, kept);
    out += kept;
    at += hidden == 0 ? 1 : hidden;
  }
  return out;
}
