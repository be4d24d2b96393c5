/* bearer.c - the grammar of RFC 6750: the form of a bearer token, and the forms in which people
 * pass one. */
#include "bearer.h"

#include "alphabet.h"
#include "ascii.h"

bool bearer_is_token(const char *text, size_t length) {
  while (length > 0 && text[length - 1] == '=')
    length--;
  return length > 0 && alphabet_has_all(text, length, ALPHABET_TOKEN);
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static struct span skip_front(struct span text) {
  while (text.length > 0 && is_space(*text.start))
    text.start++, text.length--;
  return text;
}

struct span bearer_strip(const char *text, size_t length) {
  static const char scheme[] = "bearer";
  struct span token = skip_front((struct span){text, length});
  while (token.length > 0 && is_space(token.start[token.length - 1]))
    token.length--;
  if (!ascii_begins(token.start, token.length, scheme)) return token;
  struct span rest = {token.start + sizeof scheme - 1, token.length - (sizeof scheme - 1)};
  bool is_word = rest.length == 0 || is_space(*rest.start); /* also with nothing behind it */
  return is_word ? skip_front(rest) : token;
}
