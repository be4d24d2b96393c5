/* challenge.c - the Bearer challenge of a WWW-Authenticate value (RFC 7235, RFC 6750).
 * The grammar is ambiguous at a comma, which divides both challenges and their parameters: a token
 * with "=" behind it is a parameter, any other token begins a challenge. */
#include "challenge.h"

#include <string.h>

const char *const challenge_names[CHALLENGE_FIELDS] = {"realm", "service", "scope", "error",
                                                       "error_description"};

struct cursor {
  const char *at, *end;
};

static bool is_tchar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static void skip_spaces(struct cursor *cursor) {
  while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\t'))
    cursor->at++;
}

static bool take(struct cursor *cursor, char c) {
  if (cursor->at == cursor->end || *cursor->at != c) return false;
  cursor->at++;
  return true;
}

static struct span take_token(struct cursor *cursor) {
  struct span token = {cursor->at, 0};
  while (cursor->at < cursor->end && is_tchar(*cursor->at))
    cursor->at++;
  token.length = (size_t)(cursor->at - token.start);
  return token;
}

/* What stands between two quotes, the first of which was taken. Control characters but tabs are
 * refused. */
static bool take_quoted(struct cursor *cursor, struct span *value) {
  value->start = cursor->at;
  for (; cursor->at < cursor->end; cursor->at++) {
    unsigned char c = (unsigned char)*cursor->at;
    if (c == '"') {
      value->length = (size_t)(cursor->at++ - value->start);
      return true;
    }
    if (c == '\\' && ++cursor->at < cursor->end) c = (unsigned char)*cursor->at;
    if ((c < 0x20 && c != '\t') || c == 0x7F) return false;
  }
  return false;
}

/* At the end of an element of the list: a comma or the end of all. */
static bool at_boundary(struct cursor *cursor) {
  skip_spaces(cursor);
  return cursor->at == cursor->end || *cursor->at == ',';
}

/* The same behind a value. Some servers leave the commas out, so another parameter, or a scheme and
 * a parameter of it, may follow a space. */
static bool at_loose_boundary(struct cursor *cursor) {
  const char *behind = cursor->at;
  if (at_boundary(cursor)) return true;
  struct cursor ahead = *cursor;
  if (ahead.at == behind || take_token(&ahead).length == 0) return false;
  skip_spaces(&ahead);
  take_token(&ahead);
  skip_spaces(&ahead);
  return take(&ahead, '=');
}

/* A name, "=" and a value. Leaves the cursor where it was when there is none. */
static bool take_parameter(struct cursor *cursor, struct span *name, struct span *value) {
  struct cursor ahead = *cursor;
  *name = take_token(&ahead);
  if (name->length == 0) return false;
  skip_spaces(&ahead);
  if (!take(&ahead, '=')) return false;
  skip_spaces(&ahead);
  if (take(&ahead, '"')) {
    if (!take_quoted(&ahead, value)) return false;
  } else {
    *value = take_token(&ahead);
    if (value->length == 0) return false;
  }
  if (!at_loose_boundary(&ahead)) return false;
  *cursor = ahead;
  return true;
}

/* The other form of a credential: token68, as "Negotiate" has it. */
static bool take_token68(struct cursor *cursor) {
  struct cursor ahead = *cursor;
  while (ahead.at < ahead.end && (is_tchar(*ahead.at) || *ahead.at == '/'))
    ahead.at++;
  if (ahead.at == cursor->at) return false;
  while (take(&ahead, '=')) {
  }
  if (!at_boundary(&ahead)) return false;
  *cursor = ahead;
  return true;
}

static bool same_word(struct span word, const char *other) {
  if (word.length != strlen(other)) return false;
  for (size_t i = 0; i < word.length; i++) {
    char c = word.start[i];
    if (c >= 'A' && c <= 'Z') c = (char)(c | 0x20);
    if (c != other[i]) return false;
  }
  return true;
}

/* False when the parameter was there already. */
static bool keep(struct challenge *challenge, struct span name, struct span value) {
  for (size_t i = 0; i < CHALLENGE_FIELDS; i++) {
    if (!same_word(name, challenge_names[i])) continue;
    if (challenge->value[i].start != NULL) return false;
    challenge->value[i] = value;
  }
  return true;
}

/* Where the reading stands: before any challenge, in another one, in the Bearer one that counts. */
enum place { PLACE_NONE, PLACE_OTHER, PLACE_BEARER };

static const char *const malformed = "it is not of the form that RFC 7235 asks for";

/* Moves behind the rest of an element that is malformed: to a comma that is not between quotes. */
static void skip_element(struct cursor *cursor) {
  struct span ignored;
  while (cursor->at < cursor->end && *cursor->at != ',') {
    struct cursor ahead = *cursor;
    if (take(&ahead, '"') && take_quoted(&ahead, &ignored))
      *cursor = ahead;
    else
      cursor->at++;
  }
}

/* Reads a scheme and the first thing behind it. */
static const char *begin_challenge(struct cursor *cursor, struct challenge *challenge, bool *found,
                                   enum place *place) {
  struct span name, value, scheme = take_token(cursor);
  bool is_parameter = scheme.length == 0 || (cursor->at < cursor->end && *cursor->at == '=');
  if (is_parameter) return malformed;
  *place = !*found && same_word(scheme, "bearer") ? PLACE_BEARER : PLACE_OTHER;
  if (*place == PLACE_BEARER) *found = true;
  const char *behind = cursor->at;
  if (at_boundary(cursor)) return NULL;
  if (cursor->at == behind) return malformed;
  if (!take_parameter(cursor, &name, &value)) return take_token68(cursor) ? NULL : malformed;
  if (*place == PLACE_BEARER) keep(challenge, name, value);
  return NULL;
}

const char *challenge_read(const char *text, size_t length, struct challenge *challenge) {
  while (length > 0 && (text[length - 1] == '\r' || text[length - 1] == '\n'))
    length--;
  struct cursor cursor = {text, text + length};
  struct span name, value;
  enum place place = PLACE_NONE;
  bool found = false;
  *challenge = (struct challenge){0};
  for (;;) {
    while (at_boundary(&cursor) && cursor.at < cursor.end)
      cursor.at++; /* empty elements */
    if (cursor.at == cursor.end) break;
    if (place != PLACE_NONE && take_parameter(&cursor, &name, &value)) {
      if (place == PLACE_BEARER && !keep(challenge, name, value))
        return "a parameter stands twice in its Bearer challenge";
      continue;
    }
    const char *problem = begin_challenge(&cursor, challenge, &found, &place);
    if (problem == NULL) continue;
    if (place != PLACE_OTHER) return problem;
    skip_element(&cursor); /* of a challenge that is not for us */
  }
  return found ? NULL : "it holds no Bearer challenge";
}

size_t challenge_unescape(struct span value, char *out) {
  size_t length = 0;
  for (size_t i = 0; i < value.length; i++) {
    if (value.start[i] == '\\' && i + 1 < value.length) i++;
    char c = value.start[i];
    out[length++] = c == '\t' ? ' ' : c; /* so that it can stand in a request */
  }
  return length;
}
