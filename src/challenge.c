/* challenge.c - the Bearer challenge of a WWW-Authenticate value (RFC 7235, RFC 6750). The grammar
 * is ambiguous at a comma, which separates both challenges and their parameters: a token followed
 * by "=" is a parameter, any other token starts a challenge. */
#include "challenge.h"

#include "ascii.h"

const char *const challenge_names[CHALLENGE_FIELDS] = {"realm", "service", "scope", "error",
                                                       "error_description"};

struct cursor {
  const char *at, *end;
  const char
      *unclosed; /* no quoted string that starts before this position is closed; NULL: not known */
};

static void skip_spaces(struct cursor *cursor) {
  while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\t'))
    cursor->at++;
}

static bool take_char(struct cursor *cursor, char c) {
  if (cursor->at == cursor->end || *cursor->at != c) return false;
  cursor->at++;
  return true;
}

static struct span take_token(struct cursor *cursor) {
  struct span token = {cursor->at, 0};
  while (cursor->at < cursor->end && ascii_is_tchar(*cursor->at))
    cursor->at++;
  token.length = (size_t)(cursor->at - token.start);
  return token;
}

/* Reads up to the closing quote; the opening one was read. Control characters other than tabs are
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

/* Is the cursor at the end of a list element: at a comma or the end of the text? */
static bool at_boundary(struct cursor *cursor) {
  skip_spaces(cursor);
  return cursor->at == cursor->end || *cursor->at == ',';
}

/* The same after a value. Some servers omit the commas, so another parameter, or a scheme and its
 * parameter, may follow a space. */
static bool at_loose_boundary(struct cursor *cursor) {
  const char *behind = cursor->at;
  if (at_boundary(cursor)) return true;
  struct cursor ahead = *cursor;
  if (ahead.at == behind || take_token(&ahead).length == 0) return false;
  skip_spaces(&ahead);
  take_token(&ahead);
  skip_spaces(&ahead);
  return take_char(&ahead, '=');
}

/* Reads a name, "=" and a value. Leaves the cursor unchanged if there is none. */
static bool take_parameter(struct cursor *cursor, struct span *name, struct span *value) {
  struct cursor ahead = *cursor;
  *name = take_token(&ahead);
  if (name->length == 0) return false;
  skip_spaces(&ahead);
  if (!take_char(&ahead, '=')) return false;
  skip_spaces(&ahead);
  if (take_char(&ahead, '"')) {
    if (!take_quoted(&ahead, value)) return false;
  } else {
    *value = take_token(&ahead);
    if (value->length == 0) return false;
  }
  if (!at_loose_boundary(&ahead)) return false;
  *cursor = ahead;
  return true;
}

/* Reads the other form of a credential: token68, as in "Negotiate". */
static bool take_token68(struct cursor *cursor) {
  struct cursor ahead = *cursor;
  while (ahead.at < ahead.end && (ascii_is_tchar(*ahead.at) || *ahead.at == '/'))
    ahead.at++;
  if (ahead.at == cursor->at) return false;
  while (take_char(&ahead, '=')) {
  }
  if (!at_boundary(&ahead)) return false;
  *cursor = ahead;
  return true;
}

/* Stores a parameter. False if the challenge already has it. */
static bool keep_parameter(struct challenge *challenge, struct span name, struct span value) {
  for (size_t i = 0; i < CHALLENGE_FIELDS; i++) {
    if (!ascii_is(name.start, name.length, challenge_names[i])) continue;
    if (challenge->value[i].start != NULL) return false;
    challenge->value[i] = value;
  }
  return true;
}

/* The state of reading: before any challenge, in another one, in the Bearer challenge. */
enum position { POSITION_NONE, POSITION_OTHER, POSITION_BEARER };

static const char *const malformed = "it does not follow the syntax of RFC 7235";

/* Skips the rest of a malformed element: up to a comma that is not between quotes. */
static void skip_element(struct cursor *cursor) {
  struct span ignored;
  while (cursor->at < cursor->end && *cursor->at != ',') {
    struct cursor ahead = *cursor;
    bool may_close = cursor->unclosed == NULL || cursor->at >= cursor->unclosed;
    if (may_close && take_char(&ahead, '"')) {
      if (take_quoted(&ahead, &ignored)) {
        *cursor = ahead;
        continue;
      }
      cursor->unclosed = ahead.at; /* all quotes up to there are escaped */
    }
    cursor->at++;
  }
}

/* Reads a scheme and the first item after it. */
static const char *begin_challenge(struct cursor *cursor, struct challenge *challenge, bool *found,
                                   enum position *position) {
  struct span name, value, scheme = take_token(cursor);
  bool is_parameter = scheme.length == 0 || (cursor->at < cursor->end && *cursor->at == '=');
  if (is_parameter) return malformed;
  *position =
      !*found && ascii_is(scheme.start, scheme.length, "bearer") ? POSITION_BEARER : POSITION_OTHER;
  if (*position == POSITION_BEARER) *found = true;
  const char *behind = cursor->at;
  if (at_boundary(cursor)) return NULL;
  if (cursor->at == behind) return malformed;
  if (!take_parameter(cursor, &name, &value)) return take_token68(cursor) ? NULL : malformed;
  if (*position == POSITION_BEARER) keep_parameter(challenge, name, value);
  return NULL;
}

const char *challenge_read(const char *text, size_t length, struct challenge *challenge) {
  while (length > 0 && (text[length - 1] == '\r' || text[length - 1] == '\n'))
    length--;
  struct cursor cursor = {text, text + length, NULL};
  struct span name, value;
  enum position position = POSITION_NONE;
  bool found = false;
  *challenge = (struct challenge){0};
  for (;;) {
    while (at_boundary(&cursor) && cursor.at < cursor.end)
      cursor.at++; /* empty elements */
    if (cursor.at == cursor.end) break;
    if (position != POSITION_NONE && take_parameter(&cursor, &name, &value)) {
      if (position == POSITION_BEARER && !keep_parameter(challenge, name, value))
        return "its Bearer challenge has a parameter twice";
      continue;
    }
    const char *problem = begin_challenge(&cursor, challenge, &found, &position);
    if (problem == NULL) continue;
    if (position != POSITION_OTHER) return problem;
    skip_element(&cursor); /* of a challenge that is not for us */
  }
  return found ? NULL : "it contains no Bearer challenge";
}

size_t challenge_unescape(struct span value, char *out) {
  size_t length = 0;
  for (size_t i = 0; i < value.length; i++) {
    if (value.start[i] == '\\' && i + 1 < value.length) i++;
    char c = value.start[i];
    out[length++] = c == '\t' ? ' ' : c; /* so that a request may contain it */
  }
  return length;
}
