/* escape.c - reads a text character by character and resolves the escapes of JSON, URLs and HTML.
 */
#include "escape.h"

#include <stdbool.h>
#include <string.h>

#include "ascii.h"

enum { MAX_ESCAPE = 12 }; /* the longest one: a surrogate pair of JSON */

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Returns the value of count hexadecimal digits, or -1. */
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

static const struct character no_character = {0, 0, ""};

static struct character make_character(size_t taken, long code) {
  struct character character = {.taken = taken};
  if (code < 0 || code > 0x10FFFF) return no_character;
  character.size = encode_utf8(code, character.bytes);
  return character;
}

/* Reads a backslash escape of JSON and of programming languages. */
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
  if (is_high && length >= MAX_ESCAPE && text[6] == '\\' && text[7] == 'u') {
    long low = read_hex(text + 8, length - 8, 4);
    if (low >= 0xDC00 && low < 0xE000)
      return make_character(MAX_ESCAPE, 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00));
  }
  return make_character(6, code);
}

/* HTML's names of ASCII characters. */
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

/* "&amp;": browsers accept it without the semicolon, too. */
static struct character resolve_named_entity(const char *text, size_t length) {
  for (size_t i = 0; i < sizeof entities / sizeof *entities; i++) {
    if (!ascii_begins(text + 1, length - 1, entities[i].name)) continue;
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

struct character escape_read(const char *text, size_t length, int depth) {
  const struct character plain = {1, 1, {text[0]}};
  char window[MAX_ESCAPE] = {0};
  size_t ends[MAX_ESCAPE] = {0}; /* of the text up to there, for each byte of the window */
  size_t filled = 0, at = 0;
  if (depth == 0 || (text[0] != '%' && text[0] != '\\' && text[0] != '&')) return plain;
  while (filled < MAX_ESCAPE && at < length) {
    struct character next = escape_read(text + at, length - at, depth - 1);
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
