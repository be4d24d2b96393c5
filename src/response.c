/* response.c - the tables that callers get: a token, the refusal of one, a decoded JWT, the details
 * of a failure. A body is handed to cjson as a Lua string; the table that cjson makes is tidied in
 * place and becomes the answer. */
#include "response.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "challenge.h"
#include "clock.h"
#include "compat.h"
#include "date.h"
#include "json.h"
#include "jwt.h"
#include "lifetime.h"
#include "retry.h"

enum { MOST_ERRORS = 32 };

static const double first_inexact = 9007199254740992.0; /* 2^53 */

static int raw_field(lua_State *L, int table, const char *name) {
  table = compat_absindex(L, table);
  lua_pushstring(L, name);
  lua_rawget(L, table);
  return lua_type(L, -1);
}

static void set_whole(lua_State *L, int table, const char *name, int64_t value) {
  table = compat_absindex(L, table);
  lua_pushstring(L, name);
  compat_pushwhole(L, value);
  lua_rawset(L, table);
}

static bool invalid(struct failure *failure, const struct circumstances *about, const char *what) {
  failure_set(failure, FAILURE_INVALID_RESPONSE, false, "the answer of %s is not usable: %s",
              about->endpoint->authority.data, what);
  return false;
}

/* The token of the table at the top, made sure to stand under that name. The span is the string of
 * that field, which keeps it alive. */
static bool take_token(lua_State *L, struct span *token) {
  int type = raw_field(L, -1, "token");
  bool absent = type == LUA_TNIL || (type == LUA_TSTRING && compat_rawlen(L, -1) == 0);
  if (absent) {
    lua_pop(L, 1);
    type = raw_field(L, -1, "access_token");
  }
  token->length = 0;
  if (type == LUA_TSTRING) token->start = lua_tolstring(L, -1, &token->length);
  bool usable = token->length > 0 && jwt_is_b64token(token->start, token->length);
  if (usable && absent)
    lua_setfield(L, -2, "token");
  else
    lua_pop(L, 1);
  return usable;
}

static bool take_expires_in(lua_State *L, int64_t *seconds) {
  double number = 0;
  size_t length;
  int type = raw_field(L, -1, "expires_in");
  bool ok = type == LUA_TNIL;
  if (type == LUA_TNUMBER) {
    number = (double)lua_tonumber(L, -1);
    ok = true;
  } else if (type == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -1, &length);
    ok = lifetime_read_seconds(text, length, &number);
  }
  lua_pop(L, 1);
  return ok && lifetime_normalise(number, seconds);
}

static struct moment take_issued_at(lua_State *L) {
  struct moment moment = {false, 0};
  size_t length;
  if (raw_field(L, -1, "issued_at") == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -1, &length);
    moment = date_read_rfc3339(text, length);
  }
  lua_pop(L, 1);
  return moment;
}

static int64_t floor_seconds(int64_t ms) { return ms >= 0 ? ms / 1000 : -((-ms + 999) / 1000); }

/* Adds what is known of the token's life to the table at the top. */
static void set_times(lua_State *L, const struct exchange *exchange,
                      const struct lifetime_facts *facts, int64_t left_ms, struct jitter *jitter,
                      struct token_limits *limits) {
  int64_t usable = left_ms - lifetime_leeway_ms(facts, left_ms);
  int64_t refresh = usable - lifetime_window_ms(left_ms, jitter);
  limits->usable_ms = exchange->sent_steady_ms + usable;
  limits->refresh_ms = exchange->sent_steady_ms + refresh;
  set_whole(L, -1, "expires_in", facts->expires_in);
  set_whole(L, -1, "received_at", floor_seconds(clock_wall_ms()));
  set_whole(L, -1, "expires_at", floor_seconds(exchange->sent_wall_ms + left_ms));
  set_whole(L, -1, "refresh_at", floor_seconds(exchange->sent_wall_ms + refresh));
}

/* Sets field name of the table at the top to the scrubbed text at value, when it is a text. */
static void set_sample(lua_State *L, const struct reader *reader, const char *name, int value) {
  char sample[SCRUB_SIZE];
  size_t length;
  if (lua_type(L, value) != LUA_TSTRING) return;
  const char *text = lua_tolstring(L, value, &length);
  lua_pushstring(L, scrub_sample(reader->about->secrets, text, length, sample));
  lua_setfield(L, -2, name);
}

/* Pops code and message (strings, or anything else for none) and appends them as an entry to the
 * list at index. */
static void append_error(lua_State *L, const struct reader *reader, int list) {
  int code = lua_gettop(L) - 1, message = code + 1;
  lua_createtable(L, 0, 2);
  set_sample(L, reader, "code", code);
  set_sample(L, reader, "message", message);
  lua_rawseti(L, list, (int)compat_rawlen(L, list) + 1);
  lua_settop(L, code - 1);
}

/* The distribution project's { "errors": [{ "code", "message" }] }. The list of them is at the top.
 */
static void append_registry_errors(lua_State *L, const struct reader *reader, int list) {
  int errors = lua_gettop(L);
  size_t count = compat_rawlen(L, errors);
  for (size_t i = 1; i <= count && i <= MOST_ERRORS; i++) {
    lua_rawgeti(L, errors, (int)i);
    if (lua_istable(L, -1)) {
      raw_field(L, errors + 1, "code");
      raw_field(L, errors + 1, "message");
      append_error(L, reader, list);
    }
    lua_settop(L, errors);
  }
}

/* The three simpler forms: OAuth 2's error and error_description, details, message. The object is
 * at index. */
static void append_plain_error(lua_State *L, const struct reader *reader, int object, int list) {
  if (raw_field(L, object, "error") == LUA_TSTRING) {
    raw_field(L, object, "error_description");
    append_error(L, reader, list);
    return;
  }
  lua_pop(L, 1);
  lua_pushnil(L);
  if (raw_field(L, object, "details") == LUA_TNIL) {
    lua_pop(L, 1);
    raw_field(L, object, "message");
  }
  if (lua_type(L, -1) == LUA_TSTRING)
    append_error(L, reader, list);
  else
    lua_pop(L, 2);
}

/* Pushes the list of what the server said of its refusal in the object at index, or nil when it
 * said nothing there. */
static void push_object_errors(lua_State *L, const struct reader *reader, int object) {
  luaL_checkstack(L, 12, "errors");
  lua_newtable(L);
  int list = lua_gettop(L);
  if (raw_field(L, object, "errors") == LUA_TTABLE)
    append_registry_errors(L, reader, list);
  else
    append_plain_error(L, reader, object, list);
  lua_settop(L, list);
  if (compat_rawlen(L, list) > 0) return;
  lua_pop(L, 1);
  lua_pushnil(L);
}

/* The same for the body of an answer. */
static void push_errors(lua_State *L, const struct reader *reader, const struct buffer *body) {
  int top = lua_gettop(L);
  if (body->length > 0 && json_push_object(L, reader->decode, body->data, body->length))
    push_object_errors(L, reader, top + 1);
  else
    lua_pushnil(L);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* The words of the server for a message: those of the first error at the top, else a sample of the
 * body. */
static void find_words(lua_State *L, const struct reader *reader, const struct buffer *body,
                       char words[SCRUB_SIZE]) {
  words[0] = '\0';
  if (!lua_istable(L, -1)) {
    if (body->length > 0) scrub_sample(reader->about->secrets, body->data, body->length, words);
    return;
  }
  lua_rawgeti(L, -1, 1);
  if (raw_field(L, -1, "message") != LUA_TSTRING) {
    lua_pop(L, 1);
    raw_field(L, -1, "code");
  }
  if (lua_type(L, -1) == LUA_TSTRING) snprintf(words, SCRUB_SIZE, "%s", lua_tostring(L, -1));
  lua_pop(L, 2);
}

/* Sets the failure for an object at the top that holds no token: in the server's own words, or with
 * how it begins. Pushes the list for details.errors, or nil. Returns false. */
static bool lack_token(lua_State *L, const struct reader *reader, struct exchange *exchange,
                       const char *what) {
  const struct buffer *body = &exchange->transfer.answer.body;
  char words[SCRUB_SIZE];
  push_object_errors(L, reader, lua_gettop(L));
  bool said = !lua_isnil(L, -1);
  find_words(L, reader, body, words);
  if (words[0] == '\0') { /* the list names neither a message nor a code */
    said = false;
    scrub_sample(reader->about->secrets, body->data, body->length, words);
  }
  failure_set(&exchange->failure, FAILURE_INVALID_RESPONSE, false,
              "the answer of %s is not usable: %s; it %s: %s",
              reader->about->endpoint->authority.data, what, said ? "says" : "begins", words);
  return false;
}

/* Checks the table at the top and completes it. */
static bool finish_token(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits) {
  struct failure *failure = &exchange->failure;
  const struct answer *answer = &exchange->transfer.answer;
  struct lifetime_facts facts = {.date = answer->date, .cached_ms = answer->cached_ms};
  struct span token;
  if (!take_token(L, &token))
    return lack_token(L, reader, exchange, "it holds no token of the form that RFC 6750 asks for");
  if (!take_expires_in(L, &facts.expires_in))
    return invalid(failure, reader->about, "its expires_in is no number of seconds");
  facts.issued_at = take_issued_at(L);
  if (!jwt_read_times(token.start, token.length, reader->scratch, &facts.jwt)) {
    failure_set_no_memory(failure);
    return false;
  }
  buffer_clear(reader->scratch);
  int64_t left_ms = lifetime_left_ms(&facts);
  if (left_ms <= 0) {
    failure_set(failure, FAILURE_EXPIRED, false,
                "%s sent a token that has already ended; are its clocks right?",
                reader->about->endpoint->authority.data);
    return false;
  }
  set_times(L, exchange, &facts, left_ms, reader->jitter, limits);
  return true;
}

/* Nothing, or something that is no JSON, from a server that did not mark where its answer ends may
 * be the front of a good answer. */
static void blame_body(lua_State *L, const struct reader *reader, struct exchange *exchange) {
  const struct answer *answer = &exchange->transfer.answer;
  struct failure *failure = &exchange->failure;
  const char *where = reader->about->endpoint->authority.data;
  char sample[SCRUB_SIZE], why[SCRUB_SIZE];
  const char *reason = lua_tostring(L, -1);
  if (!answer->framed) {
    failure_set(failure, FAILURE_NETWORK, true, "the answer of %s was cut off", where);
  } else if (answer->body.length == 0) {
    failure_set(failure, FAILURE_INVALID_RESPONSE, true, "the answer of %s is empty", where);
  } else {
    if (reason == NULL) reason = "it cannot be read";
    scrub_sample(reader->about->secrets, reason, strlen(reason), why);
    scrub_sample(reader->about->secrets, answer->body.data, answer->body.length, sample);
    failure_set(failure, FAILURE_INVALID_RESPONSE, false,
                "the answer of %s is not usable: %s; it begins: %s", where, why, sample);
  }
}

/* Pushes the object that the answer holds and has it finished. */
static bool read_object(lua_State *L, const struct reader *reader, struct exchange *exchange,
                        struct token_limits *limits, response_reader *finish) {
  const struct buffer *body = &exchange->transfer.answer.body;
  if (json_push_object(L, reader->decode, body->length > 0 ? body->data : "", body->length)) {
    int object = lua_gettop(L);
    if (finish(L, reader, exchange, limits)) return true;
    lua_settop(L, object + 1); /* the list of errors, or nil */
    lua_remove(L, object);
    return false;
  }
  blame_body(L, reader, exchange);
  lua_pop(L, 1);
  lua_pushnil(L);
  return false;
}

bool response_read_token(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits) {
  return read_object(L, reader, exchange, limits, finish_token);
}

/* Checks the identity provider's answer at the top and completes it. */
static bool finish_login(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits) {
  struct failure *failure = &exchange->failure;
  size_t length = 0;
  int64_t seconds;
  (void)limits;
  const char *token =
      raw_field(L, -1, "id_token") == LUA_TSTRING ? lua_tolstring(L, -1, &length) : "";
  bool usable = jwt_is_b64token(token, length);
  lua_pop(L, 1);
  if (!usable) return lack_token(L, reader, exchange, "it holds no id_token; has the user a team?");
  bool timed = raw_field(L, -1, "expires_in") != LUA_TNIL;
  lua_pop(L, 1);
  if (!timed) return true;
  if (!take_expires_in(L, &seconds))
    return invalid(failure, reader->about, "its expires_in is no number of seconds");
  set_whole(L, -1, "expires_in", seconds);
  set_whole(L, -1, "received_at", floor_seconds(clock_wall_ms()));
  set_whole(L, -1, "expires_at", floor_seconds(exchange->sent_wall_ms + seconds * 1000));
  return true;
}

bool response_read_login(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits) {
  return read_object(L, reader, exchange, limits, finish_login);
}

static bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Puts a list of what the Bearer challenge of a 401 says (RFC 6750 section 3.1) in the place of the
 * nil at the top, where it says something. */
static void read_challenge_errors(lua_State *L, const struct reader *reader, const char *value) {
  char text[TRANSFER_VALUE_SIZE];
  struct challenge challenge;
  if (challenge_read(value, strlen(value), &challenge) != NULL) return;
  if (challenge.value[CHALLENGE_ERROR].start == NULL) return;
  lua_newtable(L);
  int list = lua_gettop(L);
  for (int i = CHALLENGE_ERROR; i <= CHALLENGE_DESCRIPTION; i++) {
    const struct span *said = &challenge.value[i];
    if (said->start != NULL)
      lua_pushlstring(L, text, challenge_unescape(*said, text));
    else
      lua_pushnil(L);
  }
  append_error(L, reader, list);
  lua_replace(L, list - 1);
}

/* Does the list of errors at the top say that an identity provider refused user name and password?
 * It may do that with status 400 (RFC 6749 section 5.2). */
static bool is_refused_grant(lua_State *L) {
  static const char *const codes[] = {"invalid_grant", "invalid_client", "access_denied",
                                      "unauthorized_client"};
  bool found = false;
  if (!lua_istable(L, -1)) return false;
  lua_rawgeti(L, -1, 1);
  const char *code = raw_field(L, -1, "code") == LUA_TSTRING ? lua_tostring(L, -1) : "";
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (strcmp(code, codes[i]) == 0) found = true;
  lua_pop(L, 2);
  return found;
}

static enum failure_code status_code(long status) {
  if (is_redirect(status)) return FAILURE_REDIRECT;
  if (status >= 500 && status <= 599) return FAILURE_SERVER_ERROR;
  switch (status) {
  case 401:
    return FAILURE_UNAUTHORIZED;
  case 403:
    return FAILURE_FORBIDDEN;
  case 404:
    return FAILURE_NOT_FOUND;
  case 429:
    return FAILURE_RATE_LIMITED;
  default:
    return FAILURE_HTTP_STATUS;
  }
}

/* Where a redirect points, without query, fragment and user, and scrubbed. */
static void show_location(const struct reader *reader, const char *location,
                          char shown[SCRUB_SIZE]) {
  char bare[TRANSFER_VALUE_SIZE];
  size_t length = strlen(location), kept = 0;
  memcpy(bare, location, length);
  bare[scrub_mask(reader->about->secrets, bare, length)] = '\0';
  length = strcspn(bare, "?#");
  bare[length] = '\0';
  const char *authority = strstr(bare, "//"), *user = NULL;
  if (authority != NULL) {
    kept = (size_t)(authority + 2 - bare);
    for (const char *p = authority + 2; *p != '\0' && *p != '/'; p++)
      if (*p == '@') user = p;
  }
  if (user != NULL) {
    length -= (size_t)(user + 1 - bare) - kept;
    memmove(bare + kept, user + 1, length - kept);
  }
  scrub_sample(reader->about->secrets, bare, length, shown);
}

/* " …, and it ended at 2026-01-31 08:00:00 UTC; log in again", when the credential is a JWT that
 * says so itself. */
static void explain_ended(const struct reader *reader, const struct exchange *exchange, char *out,
                          size_t size) {
  static const char prefix[] = "Authorization: Bearer ";
  const struct buffer *line = &exchange->transfer.credential;
  const struct moment *date = &exchange->transfer.answer.date;
  struct jwt_times times;
  char when[DATE_UTC_SIZE];
  double now = (double)(date->known ? date->epoch_ms : clock_wall_ms()) / 1000;
  out[0] = '\0';
  if (line->length < sizeof prefix || strncmp(line->data, prefix, sizeof prefix - 1) != 0) return;
  bool read = jwt_read_times(line->data + sizeof prefix - 1, line->length - sizeof prefix + 1,
                             reader->scratch, &times);
  buffer_clear(reader->scratch);
  if (!read || !jwt_has_ended(&times, now) || times.exp < 0) return;
  snprintf(out, size, "; the ID token ended at %s: log in again",
           date_write_utc((int64_t)times.exp, when));
}

void response_read_refusal(lua_State *L, const struct reader *reader, struct exchange *exchange) {
  const struct circumstances *about = reader->about;
  const struct answer *answer = &exchange->transfer.answer;
  struct failure *failure = &exchange->failure;
  const char *where = about->endpoint->authority.data;
  const char *url = about->endpoint->shown.data;
  char words[SCRUB_SIZE], ended[120];
  enum failure_code code = status_code(answer->status);
  bool retryable = retry_status(answer->status);
  push_errors(L, reader, &answer->body);
  if (answer->status == 401 && lua_isnil(L, -1))
    read_challenge_errors(L, reader, answer->challenge);
  if (exchange->is_login && answer->status == 400 && is_refused_grant(L))
    code = FAILURE_UNAUTHORIZED;
  find_words(L, reader, &answer->body, words);
  const char *colon = words[0] == '\0' ? "" : ": ";
  switch (code) {
  case FAILURE_REDIRECT:
    show_location(reader, answer->location, words);
    failure_set(failure, code, retryable,
                "%s redirects to %s (%ld), which is never followed; check host and path", url,
                words[0] == '\0' ? "nowhere" : words, answer->status);
    break;
  case FAILURE_UNAUTHORIZED:
    explain_ended(reader, exchange, ended, sizeof ended);
    failure_set(failure, code, retryable, "%s refused %s (%ld)%s%s%s", where, about->credential,
                answer->status, colon, words, ended);
    break;
  case FAILURE_FORBIDDEN:
    explain_ended(reader, exchange, ended, sizeof ended);
    failure_set(failure, code, retryable, "%s forbids this to the user (403)%s%s%s", where, colon,
                words, ended);
    break;
  case FAILURE_NOT_FOUND:
    failure_set(failure, code, retryable, "there is nothing at %s (404)%s%s; check host and path",
                url, colon, words);
    break;
  case FAILURE_RATE_LIMITED:
    failure_set(failure, code, retryable, "%s had too many requests (429)%s%s", where, colon,
                words);
    break;
  default:
    failure_set(failure, code, retryable, "%s answered with status %ld%s%s", where, answer->status,
                colon, words);
  }
}

static void set_number(lua_State *L, const char *name, double value) {
  if (value == floor(value) && fabs(value) < first_inexact)
    compat_pushwhole(L, value);
  else
    lua_pushnumber(L, (lua_Number)value);
  lua_setfield(L, -2, name);
}

int response_push_failure(lua_State *L, const struct failure *failure, const char *url,
                          int errors) {
  lua_pushnil(L);
  lua_pushstring(L, failure->message);
  lua_pushstring(L, failure_name(failure->code));
  lua_createtable(L, 0, 6);
  lua_pushboolean(L, failure->retryable);
  lua_setfield(L, -2, "retryable");
  set_number(L, "attempts", failure->attempts);
  if (failure->status != 0) set_number(L, "status", (double)failure->status);
  if (failure->curl_code != 0) set_number(L, "curl_code", failure->curl_code);
  if (failure->retry_after >= 0) set_number(L, "retry_after", failure->retry_after);
  if (url != NULL) {
    lua_pushstring(L, url);
    lua_setfield(L, -2, "url");
  }
  if (errors != 0 && lua_istable(L, errors)) {
    lua_pushvalue(L, errors);
    lua_setfield(L, -2, "errors");
  }
  return 4;
}

static bool refuse_part(struct failure *failure, const char *name, const char *what) {
  failure_set(failure, FAILURE_INVALID_RESPONSE, false, "the JWT's %s is %s", name, what);
  return false;
}

/* Sets field name of the table at the top to the object that a base64url part of a JWT holds. */
static bool set_part(lua_State *L, int decode, struct span part, const char *name,
                     struct failure *failure) {
  char *text = lua_newuserdata(L, JWT_ROOM(part)); /* Lua's, as what follows may raise */
  size_t length;
  if (!jwt_decode_part(part, text, &length)) {
    lua_pop(L, 1);
    return refuse_part(failure, name, "not in base64url");
  }
  bool ok = json_push_object(L, decode, text, length);
  buffer_wipe_memory(text, length);
  lua_remove(L, -2);
  if (ok) {
    lua_setfield(L, -2, name);
    return true;
  }
  lua_pop(L, 1);
  return refuse_part(failure, name, "no JSON object");
}

bool response_push_jwt(lua_State *L, int decode, const char *text, size_t length,
                       struct failure *failure) {
  struct jwt jwt;
  struct span token = jwt_strip_bearer(text, length);
  if (!jwt_split(token.start, token.length, &jwt)) {
    failure_set(failure, FAILURE_INVALID_RESPONSE, false,
                "this is no JWT: three base64url parts with dots between them are expected");
    return false;
  }
  if (!jwt_is_base64url(jwt.signature))
    return refuse_part(failure, "signature", "not in base64url");
  lua_createtable(L, 0, 3);
  if (!set_part(L, decode, jwt.header, "header", failure) ||
      !set_part(L, decode, jwt.claims, "claims", failure)) {
    lua_pop(L, 1);
    return false;
  }
  lua_pushlstring(L, jwt.signature.start, jwt.signature.length);
  lua_setfield(L, -2, "signature");
  return true;
}

bool response_push_challenge(lua_State *L, const char *text, size_t length,
                             struct failure *failure) {
  struct challenge challenge;
  const char *problem = challenge_read(text, length, &challenge);
  if (problem != NULL) {
    failure_set(failure, FAILURE_INVALID_RESPONSE, false,
                "this is no usable WWW-Authenticate value: %s", problem);
    return false;
  }
  lua_createtable(L, 0, CHALLENGE_FIELDS);
  for (size_t i = 0; i <= CHALLENGE_ERROR; i++) {
    const struct span *value = &challenge.value[i];
    if (value->start == NULL) continue;
    char *room = lua_newuserdata(L, value->length + 1);
    lua_pushlstring(L, room, challenge_unescape(*value, room));
    lua_setfield(L, -3, challenge_names[i]);
    lua_pop(L, 1);
  }
  return true;
}
