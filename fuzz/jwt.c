/* jwt.c - fuzzes the JWT splitter and the scanner of claims. Where cjson reads the claims as an
 * object too, and no name in them is written with an escape, both must have seen the same exp. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../src/bearer.h"
#include "../src/buffer.h"
#include "../src/jwt.h"
#include "decoder.h"

/* The exp that cjson finds in the JSON text; NAN when it finds none. */
static double find_exp(const char *text, size_t length) {
  static lua_State *L;
  double exp = NAN;
  if (L == NULL) L = decoder_open();
  lua_settop(L, 1);
  lua_pushvalue(L, 1);
  lua_pushlstring(L, text, length);
  if (lua_pcall(L, 1, 1, 0) == 0 && lua_istable(L, -1)) {
    lua_getfield(L, -1, "exp");
    if (lua_type(L, -1) == LUA_TNUMBER) exp = lua_tonumber(L, -1);
  }
  lua_settop(L, 1);
  lua_gc(L, LUA_GCCOLLECT, 0); /* or libFuzzer reports garbage as a leak */
  return exp;
}

/* How often the text contains the word. */
static int count_word(const struct buffer *text, const char *word) {
  int count = 0;
  size_t length = strlen(word);
  for (size_t i = 0; i + length <= text->length; i++)
    if (memcmp(text->data + i, word, length) == 0) count++;
  return count;
}

/* cjson reads more than JSON allows (leading zeros, hexadecimal digits), and takes the last of two
 * members of one name where the scanner takes the first. */
static void compare(const struct buffer *claims, const struct jwt_times *times) {
  if (memchr(claims->data, '\\', claims->length) != NULL) return;
  if (count_word(claims, "\"exp\"") != 1 || !times->has_exp) return;
  double exp = find_exp(claims->data, claims->length);
  /* below DBL_MIN a number has fewer digits, the fewer the smaller it is */
  if (isfinite(exp)) assert(fabs(exp - times->exp) <= fabs(exp) * 1e-12 + DBL_MIN);
}

/* Reads a number from the input itself, of which there is no byte more; decoded claims are in a
 * buffer with room. */
static void read_number(const char *text, size_t size) {
  const char *end = text;
  double number;
  if (jwt_read_number(&end, text + size, &number)) assert(end > text && end <= text + size);
}

/* A JWT with these claims, in base64url. */
static void wrap(const unsigned char *data, size_t size, struct buffer *token) {
  if (!buffer_append_string(token, "e30.") ||
      !buffer_append_base64(token, (const char *)data, size))
    abort();
  while (token->length > 0 && token->data[token->length - 1] == '=')
    buffer_truncate(token, token->length - 1);
  for (size_t i = 0; i < token->length; i++) {
    if (token->data[i] == '+') token->data[i] = '-';
    if (token->data[i] == '/') token->data[i] = '_';
  }
  if (!buffer_append_string(token, ".c2ln")) abort();
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct buffer scratch = {0}, token = {0};
  struct jwt jwt;
  struct jwt_times times;
  const char *text = (const char *)data;
  struct span bare = bearer_strip(text, size);
  assert(bare.start >= text && bare.start + bare.length <= text + size);
  if (jwt_split(bare.start, bare.length, &jwt)) {
    assert(jwt.header.length + jwt.claims.length + jwt.signature.length + 2 == bare.length);
  }
  if (!jwt_read_times(text, size, &scratch, &times)) abort();
  read_number(text, size);
  wrap(data, size, &token);
  if (!jwt_read_times(token.data, token.length, &scratch, &times)) abort();
  if (size > 0) {
    struct buffer claims = {0};
    if (!buffer_append(&claims, data, size)) abort();
    assert(scratch.length <= size && memcmp(scratch.data, data, scratch.length) == 0);
    compare(&claims, &times);
    buffer_free(&claims);
  }
  (void)jwt_exp_counts(&times);
  buffer_free(&scratch);
  buffer_free(&token);
  return 0;
}
