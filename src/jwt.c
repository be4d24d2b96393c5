/* jwt.c - the little of RFC 7519 that a client needs: the three parts, and two numbers of the
 * claims. The claims are scanned rather than parsed: only top-level members matter, and a scan
 * costs a fifth of building the whole object. Every read is bounded by an end pointer. */
#include "jwt.h"

#include <stdint.h>
#include <string.h>

/* What a byte may be: part of a b64token, a base64url digit too, and the six bits it stands for. */
enum { TOKEN = 0x80, BASE64URL = 0x40, DIGIT = TOKEN | BASE64URL, BITS = 0x3F };

static const unsigned char class_of[256] = {
    ['A'] = DIGIT | 0,  ['B'] = DIGIT | 1,  ['C'] = DIGIT | 2,  ['D'] = DIGIT | 3,
    ['E'] = DIGIT | 4,  ['F'] = DIGIT | 5,  ['G'] = DIGIT | 6,  ['H'] = DIGIT | 7,
    ['I'] = DIGIT | 8,  ['J'] = DIGIT | 9,  ['K'] = DIGIT | 10, ['L'] = DIGIT | 11,
    ['M'] = DIGIT | 12, ['N'] = DIGIT | 13, ['O'] = DIGIT | 14, ['P'] = DIGIT | 15,
    ['Q'] = DIGIT | 16, ['R'] = DIGIT | 17, ['S'] = DIGIT | 18, ['T'] = DIGIT | 19,
    ['U'] = DIGIT | 20, ['V'] = DIGIT | 21, ['W'] = DIGIT | 22, ['X'] = DIGIT | 23,
    ['Y'] = DIGIT | 24, ['Z'] = DIGIT | 25, ['a'] = DIGIT | 26, ['b'] = DIGIT | 27,
    ['c'] = DIGIT | 28, ['d'] = DIGIT | 29, ['e'] = DIGIT | 30, ['f'] = DIGIT | 31,
    ['g'] = DIGIT | 32, ['h'] = DIGIT | 33, ['i'] = DIGIT | 34, ['j'] = DIGIT | 35,
    ['k'] = DIGIT | 36, ['l'] = DIGIT | 37, ['m'] = DIGIT | 38, ['n'] = DIGIT | 39,
    ['o'] = DIGIT | 40, ['p'] = DIGIT | 41, ['q'] = DIGIT | 42, ['r'] = DIGIT | 43,
    ['s'] = DIGIT | 44, ['t'] = DIGIT | 45, ['u'] = DIGIT | 46, ['v'] = DIGIT | 47,
    ['w'] = DIGIT | 48, ['x'] = DIGIT | 49, ['y'] = DIGIT | 50, ['z'] = DIGIT | 51,
    ['0'] = DIGIT | 52, ['1'] = DIGIT | 53, ['2'] = DIGIT | 54, ['3'] = DIGIT | 55,
    ['4'] = DIGIT | 56, ['5'] = DIGIT | 57, ['6'] = DIGIT | 58, ['7'] = DIGIT | 59,
    ['8'] = DIGIT | 60, ['9'] = DIGIT | 61, ['-'] = DIGIT | 62, ['_'] = DIGIT | 63,
    ['.'] = TOKEN,      ['~'] = TOKEN,      ['+'] = TOKEN,      ['/'] = TOKEN};

static unsigned class_at(const char *text) { return class_of[(unsigned char)*text]; }

/* Are all bytes of this class? Without a branch on what they are, eight at a time: the text is
 * long and nearly always right. */
static bool is_all(const char *text, size_t length, unsigned class) {
  unsigned common = class;
  for (; length >= 8; length -= 8, text += 8)
    common &= class_at(text) & class_at(text + 1) & class_at(text + 2) & class_at(text + 3) &
              class_at(text + 4) & class_at(text + 5) & class_at(text + 6) & class_at(text + 7);
  while (length > 0)
    common &= class_at(text + --length);
  return common == class;
}

bool jwt_is_b64token(const char *text, size_t length) {
  while (length > 0 && text[length - 1] == '=')
    length--;
  return length > 0 && is_all(text, length, TOKEN);
}

bool jwt_is_base64url(struct span part) {
  return part.length % 4 != 1 && is_all(part.start, part.length, BASE64URL);
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

struct span jwt_strip_bearer(const char *text, size_t length) {
  static const char scheme[] = "bearer";
  struct span token = {text, length};
  while (token.length > 0 && is_space(*token.start))
    token.start++, token.length--;
  while (token.length > 0 && is_space(token.start[token.length - 1]))
    token.length--;
  size_t i = 0;
  while (i < sizeof scheme - 1 && i < token.length && (token.start[i] | 0x20) == scheme[i])
    i++;
  bool whole = i == token.length; /* the scheme with nothing behind it */
  if (i < sizeof scheme - 1 || (!whole && !is_space(token.start[i]))) return token;
  while (i < token.length && is_space(token.start[i]))
    i++;
  token.start += i;
  token.length -= i;
  return token;
}

/* Up to the next dot, which *text is moved behind; false when there is none. */
static bool take_part(const char **text, const char *end, struct span *part) {
  const char *dot = memchr(*text, '.', (size_t)(end - *text));
  if (dot == NULL) return false;
  *part = (struct span){*text, (size_t)(dot - *text)};
  *text = dot + 1;
  return part->length > 0;
}

bool jwt_split(const char *text, size_t length, struct jwt *jwt) {
  const char *end = text + length;
  if (!take_part(&text, end, &jwt->header) || !take_part(&text, end, &jwt->claims)) return false;
  jwt->signature = (struct span){text, (size_t)(end - text)};
  return memchr(text, '.', jwt->signature.length) == NULL;
}

bool jwt_decode_part(struct span part, char *out, size_t *length) {
  const char *in = part.start;
  char *p = out;
  unsigned common = BASE64URL;
  for (size_t groups = part.length / 4; groups > 0; groups--, in += 4) {
    unsigned a = class_at(in), b = class_at(in + 1), c = class_at(in + 2), d = class_at(in + 3);
    uint32_t bits = (a & BITS) << 18 | (b & BITS) << 12 | (c & BITS) << 6 | (d & BITS);
    common &= a & b & c & d;
    *p++ = (char)(bits >> 16);
    *p++ = (char)(bits >> 8);
    *p++ = (char)bits;
  }
  size_t rest = part.length % 4;
  if (rest >= 2) {
    unsigned a = class_at(in), b = class_at(in + 1), c = rest == 3 ? class_at(in + 2) : DIGIT;
    common &= a & b & c;
    *p++ = (char)((a & BITS) << 2 | (b & BITS) >> 4);
    if (rest == 3) *p++ = (char)((b & BITS) << 4 | (c & BITS) >> 2);
  }
  *length = (size_t)(p - out);
  return rest != 1 && common == BASE64URL; /* one digit stands for no whole byte */
}

static const char *skip_space(const char *p, const char *end) {
  while (p < end && is_space(*p))
    p++;
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
  while (p < end && *p >= '0' && *p <= '9')
    value = value * 10 + (*p++ - '0');
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
  for (; scale > 0 && value != 0 && value < 1e300; scale--)
    value *= 10;
  if (scale > 0 && value != 0) return false;
  for (; scale < 0 && value != 0; scale++)
    value /= 10;
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

/* One pass over the members of the object at p, until both times were seen or the object ends;
 * false when it does neither. */
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
    if (times->has_exp && times->has_iat) return true;
    p = skip_space(p, end);
  } while (p < end && *p == ',');
  return p < end && *p == '}';
}

/* Decodes a part of the claims and scans it. */
static bool scan_part(struct span part, struct buffer *scratch, struct jwt_times *times) {
  *times = (struct jwt_times){0};
  return jwt_decode_part(part, scratch->data, &scratch->length) &&
         scan_members(scratch->data, scratch->data + scratch->length, times);
}

/* The times stand at the front of the claims, the list of what the token allows at their end: so
 * the front is tried alone first. */
bool jwt_read_times(const char *token, size_t length, struct buffer *scratch,
                    struct jwt_times *times) {
  enum { FRONT = 160 }; /* whole groups of base64url */
  struct jwt jwt;
  *times = (struct jwt_times){0};
  if (!jwt_split(token, length, &jwt)) return true;
  buffer_clear(scratch);
  if (!buffer_reserve(scratch, JWT_ROOM(jwt.claims))) return false;
  struct span front = {jwt.claims.start, FRONT};
  if (jwt.claims.length > FRONT && scan_part(front, scratch, times)) return true;
  if (!scan_part(jwt.claims, scratch, times)) *times = (struct jwt_times){0};
  return true;
}

bool jwt_has_ended(const struct jwt_times *times, double now) {
  if (!times->has_exp || (times->has_iat && times->exp <= times->iat)) return false;
  return times->exp <= now;
}
