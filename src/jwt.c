/* jwt.c - the parts of RFC 7519 that a client needs: splitting a token, and two numbers of its
 * claims. The claims are scanned rather than parsed: only top-level members matter, and a scan
 * costs a fifth of building the whole object. Every read is bounded by an end pointer. */
#include "jwt.h"

#include <stdint.h>
#include <string.h>

#include "alphabet.h"

bool jwt_is_base64url(struct span part) {
  return part.length % 4 != 1 && alphabet_has_all(part.start, part.length, ALPHABET_BASE64URL);
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Returns the part up to the next dot and moves *text after the dot; false if there is no dot or
 * the part is empty. */
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
  unsigned common = ALPHABET_BASE64URL;
  for (size_t groups = part.length / 4; groups > 0; groups--, in += 4) {
    unsigned a = alphabet_at(in), b = alphabet_at(in + 1), c = alphabet_at(in + 2),
             d = alphabet_at(in + 3);
    uint32_t bits = (a & ALPHABET_BITS) << 18 | (b & ALPHABET_BITS) << 12 |
                    (c & ALPHABET_BITS) << 6 | (d & ALPHABET_BITS);
    common &= a & b & c & d;
    *p++ = (char)(bits >> 16);
    *p++ = (char)(bits >> 8);
    *p++ = (char)bits;
  }
  size_t rest = part.length % 4;
  if (rest >= 2) {
    unsigned a = alphabet_at(in), b = alphabet_at(in + 1),
             c = rest == 3 ? alphabet_at(in + 2) : ALPHABET_DIGIT;
    common &= a & b & c;
    *p++ = (char)((a & ALPHABET_BITS) << 2 | (b & ALPHABET_BITS) >> 4);
    if (rest == 3) *p++ = (char)((b & ALPHABET_BITS) << 4 | (c & ALPHABET_BITS) >> 2);
  }
  *length = (size_t)(p - out);
  return rest != 1 && common == ALPHABET_BASE64URL; /* one digit stands for no whole byte */
}

static const char *skip_space(const char *p, const char *end) {
  while (p < end && is_space(*p))
    p++;
  return p;
}

/* Returns the position after the closing quote of the string that starts at p; NULL if it is not
 * closed. */
static const char *skip_string(const char *p, const char *end) {
  for (p++; p < end; p++) {
    if (*p == '"') return p + 1;
    if (*p == '\\') p++;
  }
  return NULL;
}

/* Returns the position after the value at p, of any type; NULL if it is incomplete. */
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

/* Scans the members of the object at p until both times were found or the object ends; false if it
 * is malformed before that. */
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

bool jwt_read_times(const char *token, size_t length, struct buffer *scratch,
                    struct jwt_times *times) {
  struct jwt jwt;
  *times = (struct jwt_times){0};
  if (!jwt_split(token, length, &jwt)) return true;
  buffer_clear(scratch);
  if (!buffer_reserve(scratch, JWT_ROOM(jwt.claims))) return false;
  if (!scan_part(jwt.claims, scratch, times)) *times = (struct jwt_times){0};
  return true;
}

bool jwt_exp_counts(const struct jwt_times *times) {
  return times->has_exp && (!times->has_iat || times->exp > times->iat);
}
