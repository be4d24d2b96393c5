/* jwt.c - the little of RFC 7519 that a client needs: the three parts, and two numbers of the claims.
 * The claims are scanned rather than parsed: only top-level members matter, and a scan costs a
 * fifth of building the whole object. Every read is bounded by an end pointer. */
#include "jwt.h"

#include <stdint.h>
#include <string.h>

/* The six bits of a base64url character plus one, so that 0 marks all others. */
static const unsigned char digit_of[256] = {
    ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,  ['H'] = 8,
    ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
    ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
    ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
    ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
    ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['-'] = 63, ['_'] = 64};

static unsigned digit(char c) { return digit_of[(unsigned char)c]; }

bool jwt_is_b64token(const char *text, size_t length) {
  size_t i = 0;
  while (i < length && (digit(text[i]) != 0 || text[i] == '.' || text[i] == '~' ||
                        text[i] == '+' || text[i] == '/'))
    i++;
  if (i == 0) return false;
  while (i < length && text[i] == '=') i++;
  return i == length;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

struct span jwt_strip_bearer(const char *text, size_t length) {
  static const char scheme[] = "bearer";
  struct span token = {text, length};
  while (token.length > 0 && is_space(*token.start)) token.start++, token.length--;
  while (token.length > 0 && is_space(token.start[token.length - 1])) token.length--;
  size_t i = 0;
  while (i < sizeof scheme - 1 && i < token.length && (token.start[i] | 0x20) == scheme[i]) i++;
  if (i < sizeof scheme - 1 || i == token.length || !is_space(token.start[i])) return token;
  while (i < token.length && is_space(token.start[i])) i++;
  token.start += i;
  token.length -= i;
  return token;
}

/* The base64url run at text. A length of 4n + 1 stands for no whole byte and is refused. */
static bool take_part(const char **text, const char *end, struct span *part) {
  const char *p = *text;
  while (p < end && digit(*p) != 0) p++;
  part->start = *text;
  part->length = (size_t)(p - *text);
  *text = p;
  return part->length % 4 != 1;
}

bool jwt_split(const char *text, size_t length, struct jwt *jwt) {
  const char *p = text, *end = text + length;
  if (!take_part(&p, end, &jwt->header) || jwt->header.length == 0) return false;
  if (p == end || *p++ != '.') return false;
  if (!take_part(&p, end, &jwt->claims) || jwt->claims.length == 0) return false;
  if (p == end || *p++ != '.') return false;
  return take_part(&p, end, &jwt->signature) && p == end;
}

size_t jwt_decode_part(struct span part, char *out) {
  const char *in = part.start;
  char *p = out;
  for (size_t groups = part.length / 4; groups > 0; groups--, in += 4) {
    uint32_t bits = ((uint32_t)(digit(in[0]) - 1) << 18) | ((uint32_t)(digit(in[1]) - 1) << 12) |
                    ((uint32_t)(digit(in[2]) - 1) << 6) | (uint32_t)(digit(in[3]) - 1);
    *p++ = (char)(bits >> 16);
    *p++ = (char)(bits >> 8);
    *p++ = (char)bits;
  }
  size_t rest = part.length % 4;
  if (rest >= 2) *p++ = (char)(((digit(in[0]) - 1) << 2) | ((digit(in[1]) - 1) >> 4));
  if (rest == 3) *p++ = (char)(((digit(in[1]) - 1) << 4) | ((digit(in[2]) - 1) >> 2));
  return (size_t)(p - out);
}

static const char *skip_space(const char *p, const char *end) {
  while (p < end && is_space(*p)) p++;
  return p;
}

/* Behind the closing quote of the string whose opening quote p stands on; NULL when it has none. */
static const char *skip_string(const char *p, const char *end) {
  for (p++; p < end; p++) {
    if (*p == '"') return p + 1;
    if (*p == '\\') p++;
  }
  return NULL;
}

/* Behind the value at p, whatever it is; NULL when it does not end. */
static const char *skip_value(const char *p, const char *end) {
  size_t depth = 0;
  while (p < end) {
    char c = *p;
    if (c == '"') {
      p = skip_string(p, end);
      if (p == NULL) return NULL;
      if (depth == 0) return p;
      continue;
    }
    if (c == '{' || c == '[') {
      depth++;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return p;
      if (--depth == 0) return p + 1;
    } else if (c == ',' && depth == 0) {
      return p;
    }
    p++;
  }
  return NULL;
}

bool jwt_read_number(const char **text, const char *end, double *number) {
  const char *p = *text;
  bool negative = p < end && *p == '-';
  if (negative) p++;
  const char *digits = p;
  double value = 0;
  int scale = 0;
  while (p < end && *p >= '0' && *p <= '9') value = value * 10 + (*p++ - '0');
  if (p == digits || (p - digits > 1 && *digits == '0')) return false;
  if (p < end && *p == '.') {
    const char *fraction = ++p;
    while (p < end && *p >= '0' && *p <= '9') {
      if (scale > -300) value = value * 10 + (*p - '0'), scale--;
      p++;
    }
    if (p == fraction) return false;
  }
  if (p < end && (*p | 0x20) == 'e') {
    p++;
    bool shrink = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    const char *exponent_digits = p;
    int exponent = 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
      if (exponent < 10000) exponent = exponent * 10 + (*p - '0');
    if (p == exponent_digits) return false;
    scale += shrink ? -exponent : exponent;
  }
  for (; scale > 0 && value != 0 && value < 1e300; scale--) value *= 10;
  if (scale > 0 && value != 0) return false;
  for (; scale < 0 && value != 0; scale++) value /= 10;
  if (!(value < 1e300)) return false;
  *number = negative ? -value : value;
  *text = p;
  return true;
}

static bool is_number(const char *value, const char *end, double *number) {
  return jwt_read_number(&value, end, number) && skip_space(value, end) == end;
}

static void note_member(struct jwt_times *times, struct span name, const char *value,
                        const char *end) {
  if (name.length != 3) return;
  if (memcmp(name.start, "exp", 3) == 0)
    times->has_exp = is_number(value, end, &times->exp);
  else if (memcmp(name.start, "iat", 3) == 0)
    times->has_iat = is_number(value, end, &times->iat);
}

/* One pass over the members of the object at p; false when it is no object from { to }. */
static bool scan_members(const char *p, const char *end, struct jwt_times *times) {
  p = skip_space(p, end);
  if (p == end || *p != '{') return false;
  do {
    p = skip_space(p + 1, end);
    if (p == end || *p != '"') return false;
    struct span name = {p + 1, 0};
    p = skip_string(p, end);
    if (p == NULL) return false;
    name.length = (size_t)(p - 1 - name.start);
    p = skip_space(p, end);
    if (p == end || *p != ':') return false;
    p = skip_space(p + 1, end);
    const char *value = p;
    p = skip_value(p, end);
    if (p == NULL) return false;
    note_member(times, name, value, p);
    p = skip_space(p, end);
  } while (p < end && *p == ',');
  return p < end && *p == '}';
}

bool jwt_read_times(const char *token, size_t length, struct buffer *scratch,
                    struct jwt_times *times) {
  struct jwt jwt;
  *times = (struct jwt_times){0};
  if (!jwt_split(token, length, &jwt)) return true;
  buffer_clear(scratch);
  if (!buffer_reserve(scratch, JWT_ROOM(jwt.claims))) return false;
  scratch->length = jwt_decode_part(jwt.claims, scratch->data);
  if (!scan_members(scratch->data, scratch->data + scratch->length, times))
    *times = (struct jwt_times){0};
  return true;
}

bool jwt_has_ended(const struct jwt_times *times, double now) {
  if (!times->has_exp || (times->has_iat && times->exp <= times->iat)) return false;
  return times->exp <= now;
}
