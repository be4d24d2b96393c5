/* scrub.c - makes text from the network fit to be shown: short, printable and without secrets.
 * Secrets are looked for in the whole text before it is cut, so none is shown by half. */
#include "scrub.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "jwt.h"

enum {
  MIN_SECRET = 4,
  MIN_JWT = 10,
  MAX_SCANNED = 16 * 1024, /* bytes of a text that a sample is made of */
  ESCAPE_DEPTH = 2,        /* escapes of escapes, as in HTML inside JSON */
  ESCAPE_SIZE = 12         /* the longest escape: a surrogate pair of JSON */
};

static const char mask[] = "[hidden]";

void scrub_add_secret(struct secrets *secrets, const char *text, size_t length) {
  if (text == NULL || length < MIN_SECRET || secrets->count == SCRUB_SECRETS) return;
  secrets->secret[secrets->count++] = (struct span){text, length};
}

static bool is_token_char(char c) { return jwt_is_b64token(&c, 1) || c == '='; }

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

static size_t encode_utf8(long code, char out[4]) {
  static const unsigned char leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
  size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = size - 1; i > 0; i--, code >>= 6)
    out[i] = (char)(0x80 | (code & 0x3F));
  out[0] = (char)(leads[size] | code);
  return size;
}

/* A character that stands in a text, escaped or not: how much of the text it takes (0: it is not
 * there), and its bytes. */
struct character {
  size_t taken, size;
  char bytes[4];
};

static const struct character no_character = {0, 0, ""};

static struct character make_character(size_t taken, long code) {
  struct character character = {.taken = taken};
  if (code < 0 || code > 0x10FFFF) return no_character;
  character.size = encode_utf8(code, character.bytes);
  return character;
}

/* The backslash's escapes in JSON and in programming languages. */
static struct character resolve_backslash(const char *text, size_t length) {
  if (length < 2) return no_character;
  if (text[1] == 'x') {
    long byte = read_hex(text + 2, length - 2, 2);
    if (byte >= 0) return (struct character){4, 1, {(char)byte}};
  }
  if (text[1] != 'u') return (struct character){2, 1, {text[1]}};
  long code = read_hex(text + 2, length - 2, 4);
  if (code < 0) return (struct character){2, 1, {'u'}};
  bool is_high = code >= 0xD800 && code < 0xDC00;
  if (is_high && length >= ESCAPE_SIZE && text[6] == '\\' && text[7] == 'u') {
    long low = read_hex(text + 8, length - 8, 4);
    if (low >= 0xDC00 && low < 0xE000)
      return make_character(ESCAPE_SIZE, 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00));
  }
  return make_character(6, code);
}

/* HTML's names of the ASCII characters that have one. */
static const struct {
  const char *name;
  char character;
} entities[] = {{"amp", '&'},    {"lt", '<'},     {"gt", '>'},     {"quot", '"'},   {"apos", '\''},
                {"excl", '!'},   {"num", '#'},    {"dollar", '$'}, {"percnt", '%'}, {"lpar", '('},
                {"rpar", ')'},   {"ast", '*'},    {"plus", '+'},   {"comma", ','},  {"period", '.'},
                {"sol", '/'},    {"colon", ':'},  {"semi", ';'},   {"equals", '='}, {"quest", '?'},
                {"commat", '@'}, {"lsqb", '['},   {"lbrack", '['}, {"bsol", '\\'},  {"rsqb", ']'},
                {"rbrack", ']'}, {"hat", '^'},    {"lowbar", '_'}, {"grave", '`'},  {"lcub", '{'},
                {"lbrace", '{'}, {"verbar", '|'}, {"vert", '|'},   {"rcub", '}'},   {"rbrace", '}'},
                {"tilde", '~'}};

static bool has_word(const char *text, size_t length, const char *word) {
  size_t size = strlen(word);
  if (length < size) return false;
  for (size_t i = 0; i < size; i++)
    if ((text[i] | 0x20) != word[i]) return false;
  return true;
}

/* "&amp;": browsers take it without the semicolon too. */
static struct character resolve_named_entity(const char *text, size_t length) {
  for (size_t i = 0; i < sizeof entities / sizeof *entities; i++) {
    if (!has_word(text + 1, length - 1, entities[i].name)) continue;
    size_t at = 1 + strlen(entities[i].name);
    if (at < length && text[at] == ';') at++;
    return (struct character){at, 1, {entities[i].character}};
  }
  return no_character;
}

/* "&#46;" or "&#x2E;". */
static struct character resolve_entity(const char *text, size_t length) {
  long code = 0;
  if (length < 3 || text[1] != '#') return resolve_named_entity(text, length);
  int base = (text[2] | 0x20) == 'x' ? 16 : 10;
  size_t digits = base == 16 ? 3 : 2, at = digits;
  for (; at < length && code <= 0x10FFFF; at++) {
    int value = hex_value(text[at]);
    if (value < 0 || value >= base) break;
    code = code * base + value;
  }
  if (at == digits) return no_character;
  if (at < length && text[at] == ';') at++;
  return make_character(at, code);
}

static struct character resolve_escape(const char *text, size_t length) {
  long byte;
  switch (text[0]) {
  case '%':
    byte = read_hex(text + 1, length - 1, 2);
    return byte < 0 ? no_character : (struct character){3, 1, {(char)byte}};
  case '\\':
    return resolve_backslash(text, length);
  case '&':
    return resolve_entity(text, length);
  default:
    return no_character;
  }
}

/* What stands at the front of the text, which is not empty, with escapes resolved depth times. */
static struct character read_character(const char *text, size_t length, int depth) {
  const struct character plain = {1, 1, {text[0]}};
  char window[ESCAPE_SIZE] = {0};
  size_t ends[ESCAPE_SIZE] = {0}; /* of the text up to there, for each byte of the window */
  size_t filled = 0, at = 0;
  if (depth == 0 || (text[0] != '%' && text[0] != '\\' && text[0] != '&')) return plain;
  while (filled < ESCAPE_SIZE && at < length) {
    struct character next = read_character(text + at, length - at, depth - 1);
    at += next.taken;
    if (next.size > 1) { /* no part of an escape */
      if (filled == 0) return next;
      break;
    }
    window[filled] = next.bytes[0];
    ends[filled++] = at;
  }
  struct character resolved = resolve_escape(window, filled);
  if (resolved.taken == 0 || resolved.taken > filled)
    resolved = (struct character){1, 1, {window[0]}};
  resolved.taken = ends[resolved.taken - 1];
  return resolved;
}

static struct character resolve(const char *text, size_t length) {
  return read_character(text, length, ESCAPE_DEPTH);
}

static bool is_one_of(const struct character *character, const char *set) {
  return character->size == 1 && character->bytes[0] != '\0' &&
         strchr(set, character->bytes[0]) != NULL;
}

/* Length of the run of token characters at the front, escaped or not. */
static size_t token_run(const char *text, size_t length) {
  size_t run = 0;
  while (run < length) {
    struct character next = resolve(text + run, length - run);
    if (next.size != 1 || !is_token_char(next.bytes[0])) break;
    run += next.taken;
  }
  return run;
}

/* How many bytes of the secret this character is, 0 when it is another one. A space is a plus sign
 * in a form, and a byte beyond ASCII may have been taken for a character of ISO 8859-1. */
static size_t match_character(const struct character *character, const char *secret, size_t left) {
  const char *bytes = character->bytes;
  if (character->size <= left && memcmp(bytes, secret, character->size) == 0)
    return character->size;
  if (*secret == ' ' && is_one_of(character, "+")) return 1;
  bool latin = character->size == 2 && (unsigned char)bytes[0] <= 0xC3;
  return latin && (char)((bytes[0] & 3) << 6 | (bytes[1] & 0x3F)) == *secret;
}

/* How much of the text is this secret with some of its characters escaped. A text that ends inside
 * the secret counts too: it was cut off there. */
static size_t match_escaped(struct span secret, const char *text, size_t length, int depth) {
  size_t at = 0, matched = 0;
  while (matched < secret.length && at < length) {
    struct character next = read_character(text + at, length - at, depth);
    size_t same = match_character(&next, secret.start + matched, secret.length - matched);
    if (same == 0) return 0;
    at += next.taken;
    matched += same;
  }
  return matched >= MIN_SECRET ? at : 0;
}

/* The same for the secret as it is. */
static size_t match_plain(struct span secret, const char *text, size_t length) {
  size_t matched = secret.length < length ? secret.length : length;
  return matched >= MIN_SECRET && memcmp(text, secret.start, matched) == 0 ? matched : 0;
}

static size_t match_secret(const struct secrets *secrets, const char *text, size_t length) {
  size_t longest = 0;
  for (size_t i = 0; i < secrets->count; i++) {
    size_t plain = match_plain(secrets->secret[i], text, length);
    if (plain > longest) longest = plain;
    for (int depth = 1; depth <= ESCAPE_DEPTH; depth++) {
      size_t escaped = match_escaped(secrets->secret[i], text, length, depth);
      if (escaped > longest) longest = escaped;
    }
  }
  while (longest > 0 && longest < length) { /* its padding, which may not be part of the secret */
    struct character next = resolve(text + longest, length - longest);
    if (!is_one_of(&next, "=")) break;
    longest += next.taken;
  }
  return longest;
}

/* Every JOSE header is a JSON object, so every JWT begins with the base64 of {" or of { and white
 * space: "eyJ", "eyA", "ewo", "ew0", "ewk". */
static size_t match_jwt(const char *text, size_t length) {
  static const char starts[][4] = {"eyJ", "eyA", "ewo", "ew0", "ewk"};
  char front[3];
  size_t at = 0;
  for (size_t i = 0; i < sizeof front; i++) {
    struct character next = no_character;
    if (at < length) next = resolve(text + at, length - at);
    front[i] = next.bytes[0];
    at += next.taken;
  }
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    if (memcmp(front, starts[i], sizeof front) != 0) continue;
    size_t run = token_run(text, length);
    return run < MIN_JWT ? 0 : run;
  }
  return 0;
}

/* The name of an authentication scheme and the spaces behind it. */
static size_t match_scheme(const char *text, size_t length) {
  static const char *const schemes[] = {"bearer", "basic"};
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    size_t name = strlen(schemes[i]), at = name;
    if (!has_word(text, length, schemes[i])) continue;
    while (at < length) {
      struct character next = resolve(text + at, length - at);
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

/* The end of a name that says what follows is a secret ("id_token", "password") and the marks
 * between it and its value, in the manner of JSON, forms and logs. */
static size_t match_label(const char *text, size_t length) {
  static const char *const labels[] = {"token", "password", "passwd"};
  for (size_t i = 0; i < sizeof labels / sizeof *labels; i++) {
    size_t at = strlen(labels[i]);
    bool assigned = false;
    if (!has_word(text, length, labels[i])) continue;
    while (at < length && is_word_char(text[at]))
      at++; /* the rest of the name */
    while (at < length) {
      struct character next = resolve(text + at, length - at);
      if (!is_one_of(&next, " \t\r\n\"'\\:=[{(")) break;
      if (is_one_of(&next, ":=")) assigned = true;
      at += next.taken;
    }
    if (assigned) return at;
  }
  return 0;
}

/* Length of the value behind such a name. */
static size_t value_run(const char *text, size_t length) {
  size_t run = 0;
  while (run < length) {
    struct character next = resolve(text + run, length - run);
    if (is_one_of(&next, " \t\r\n\"',;&<>{}[]")) break;
    run += next.taken;
  }
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
  return run >= MIN_SECRET ? run : 0;
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

/* What is to be hidden of a text: a value of run bytes that stands behind front bytes, if it is
 * long enough. Those are shown, but no more than *shown of them when a secret begins there. */
static size_t hide_value(const struct secrets *secrets, const char *text, size_t length,
                         size_t front, size_t run, size_t *shown) {
  size_t hidden = whole_run(secrets, text + front, length - front, run);
  if (hidden == 0) return 0;
  size_t at = 0;
  while (at < front && match_secret(secrets, text + at, length - at) == 0)
    at++;
  *shown = at;
  if (at == front) return hidden;
  return whole_run(secrets, text + at, length - at, front - at + hidden);
}

/* Adds what stands at the front of the text and returns how much of it that was. */
static size_t add_next(struct sample *sample, const struct secrets *secrets, const char *text,
                       size_t length) {
  size_t hidden = match_secret(secrets, text, length), front, shown = 0;
  if (hidden == 0) hidden = whole_run(secrets, text, length, match_jwt(text, length));
  if (hidden == 0 && (front = match_scheme(text, length)) > 0)
    hidden =
        hide_value(secrets, text, length, front, token_run(text + front, length - front), &shown);
  if (hidden == 0 && (front = match_label(text, length)) > 0)
    hidden =
        hide_value(secrets, text, length, front, value_run(text + front, length - front), &shown);
  if (hidden == 0) {
    shown = printable(text, length);
    if (shown == 0) shown = 1;
  }
  add_plain(sample, text, shown);
  if (hidden > 0) add(sample, mask, sizeof mask - 1, sizeof mask - 1);
  return shown + hidden;
}

/* Is this text, in UTF-8 or one of the ISO 8859 family, with colours for a terminal perhaps? What
 * is compressed, or has two bytes for each character, is not. */
static bool is_text(const char *text, size_t length) {
  while (length > 0) {
    unsigned char c = (unsigned char)*text;
    size_t taken = printable(text, length);
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
  if (!is_text(text, length)) {
    snprintf(out, SCRUB_SIZE, "[%zu bytes that are not text]", length);
    return out;
  }
  bool cut = length > MAX_SCANNED;
  if (cut) length = MAX_SCANNED;
  while (length > 0 && !sample.full) {
    size_t taken = add_next(&sample, secrets, text, length);
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
