/* response.c - reads answers of status 200: a token, and the ID token of a login. A body is passed
 * to cjson as a Lua string; the table that cjson makes is completed in place and becomes the
 * result. */
#include "response.h"

#include <math.h>
#include <string.h>

#include "bearer.h"
#include "clock.h"
#include "compat.h"
#include "date.h"
#include "errors.h"
#include "json.h"
#include "jwt.h"
#include "lifetime.h"
#include "table.h"

static bool fail_unusable(struct failure *failure, const struct context *context,
                          const char *what) {
  failure_set(failure, FAILURE_INVALID_RESPONSE, false, "the answer of %s is not usable: %s",
              context->endpoint->authority.data, what);
  return false;
}

/* Finds the token in the table at the top, and moves it to field "token" if it has another name.
 * The span is the string of that field, which keeps it alive. */
static bool take_token(lua_State *L, struct span *token) {
  int type = table_push_field(L, -1, "token");
  bool absent = type == LUA_TNIL || (type == LUA_TSTRING && compat_rawlen(L, -1) == 0);
  if (absent) {
    lua_pop(L, 1);
    type = table_push_field(L, -1, "access_token");
  }
  token->length = 0;
  if (type == LUA_TSTRING) token->start = lua_tolstring(L, -1, &token->length);
  bool usable = token->length > 0 && bearer_is_token(token->start, token->length);
  if (usable && absent)
    lua_setfield(L, -2, "token");
  else
    lua_pop(L, 1);
  return usable;
}

static bool take_expires_in(lua_State *L, int64_t *seconds) {
  double number = 0;
  size_t length;
  int type = table_push_field(L, -1, "expires_in");
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
  if (table_push_field(L, -1, "issued_at") == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -1, &length);
    moment = date_read_rfc3339(text, length);
  }
  lua_pop(L, 1);
  return moment;
}

static double floor_seconds(int64_t ms) { return floor((double)ms / 1000); }

/* Adds the times of the token to the table at the top. */
static void set_times(lua_State *L, const struct exchange *exchange,
                      const struct lifetime_facts *facts, int64_t left_ms, struct jitter *jitter,
                      struct token_limits *limits) {
  int64_t usable = left_ms - lifetime_leeway_ms(facts, left_ms);
  int64_t refresh = usable - lifetime_window_ms(left_ms, jitter);
  limits->usable_ms = exchange->sent_steady_ms + usable;
  limits->refresh_ms = exchange->sent_steady_ms + refresh;
  table_set_number(L, -1, "expires_in", (double)facts->expires_in);
  table_set_number(L, -1, "received_at", floor_seconds(clock_wall_ms()));
  table_set_number(L, -1, "expires_at", floor_seconds(exchange->sent_wall_ms + left_ms));
  table_set_number(L, -1, "refresh_at", floor_seconds(exchange->sent_wall_ms + refresh));
}

/* Sets the failure for an object at the top that contains no token: with the server's own text, or
 * with a sample. Pushes the list for details.errors, or nil. Returns false. */
static bool fail_without_token(lua_State *L, const struct reader *reader, struct exchange *exchange,
                               const char *what) {
  const struct buffer *body = &exchange->transfer.answer.body;
  char words[SCRUB_SIZE];
  errors_push_object(L, reader, lua_gettop(L));
  bool said = !lua_isnil(L, -1);
  errors_write_words(L, reader, body, words);
  if (words[0] == '\0') { /* the list contains neither a message nor a code */
    said = false;
    scrub_sample(reader->context->secrets, body->data, body->length, words);
  }
  failure_set(exchange->failure, FAILURE_INVALID_RESPONSE, false,
              "the answer of %s is not usable: %s; it %s: %s",
              reader->context->endpoint->authority.data, what, said ? "says" : "begins", words);
  return false;
}

/* Checks the table at the top and completes it. */
static bool finish_token(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits) {
  struct failure *failure = exchange->failure;
  const struct answer *answer = &exchange->transfer.answer;
  struct lifetime_facts facts = {.date = answer->date, .cached_ms = answer->cached_ms};
  struct span token;
  if (!take_token(L, &token))
    return fail_without_token(L, reader, exchange, "it contains no valid token (RFC 6750)");
  if (!take_expires_in(L, &facts.expires_in))
    return fail_unusable(failure, reader->context, "its expires_in is not a number of seconds");
  facts.issued_at = take_issued_at(L);
  if (!jwt_read_times(token.start, token.length, reader->scratch, &facts.jwt)) {
    failure_set_no_memory(failure);
    return false;
  }
  buffer_clear(reader->scratch);
  int64_t left_ms = lifetime_left_ms(&facts);
  if (left_ms <= 0) {
    failure_set(failure, FAILURE_EXPIRED, false,
                "%s returned a token that has already expired; check the server's clock",
                reader->context->endpoint->authority.data);
    return false;
  }
  set_times(L, exchange, &facts, left_ms, reader->jitter, limits);
  return true;
}

/* An empty body, or one that is not JSON, may be the first part of a good answer if the server did
 * not mark where its answer ends. */
static void fail_unreadable(lua_State *L, const struct reader *reader, struct exchange *exchange) {
  const struct answer *answer = &exchange->transfer.answer;
  struct failure *failure = exchange->failure;
  const char *where = reader->context->endpoint->authority.data;
  char sample[SCRUB_SIZE], why[SCRUB_SIZE];
  const char *reason = lua_tostring(L, -1);
  if (!answer->framed) {
    failure_set(failure, FAILURE_NETWORK, true, "the answer of %s was cut off", where);
  } else if (answer->body.length == 0) {
    failure_set(failure, FAILURE_INVALID_RESPONSE, true, "the answer of %s is empty", where);
  } else {
    if (reason == NULL) reason = "it cannot be read";
    scrub_sample(reader->context->secrets, reason, strlen(reason), why);
    scrub_sample(reader->context->secrets, answer->body.data, answer->body.length, sample);
    failure_set(failure, FAILURE_INVALID_RESPONSE, false,
                "the answer of %s is not usable: %s; it begins: %s", where, why, sample);
  }
}

/* Pushes the object in the answer and has it completed. */
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
  fail_unreadable(L, reader, exchange);
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
  struct failure *failure = exchange->failure;
  size_t length = 0;
  int64_t seconds;
  (void)limits;
  const char *token =
      table_push_field(L, -1, "id_token") == LUA_TSTRING ? lua_tolstring(L, -1, &length) : "";
  bool usable = bearer_is_token(token, length);
  lua_pop(L, 1);
  if (!usable)
    return fail_without_token(L, reader, exchange,
                              "it contains no id_token; is the user a member of a team?");
  bool timed = table_push_field(L, -1, "expires_in") != LUA_TNIL;
  lua_pop(L, 1);
  /* These names are for this machine's clock; the server may send fields that have them. */
  table_remove(L, -1, "received_at");
  table_remove(L, -1, "expires_at");
  if (!timed) return true;
  if (!take_expires_in(L, &seconds))
    return fail_unusable(failure, reader->context, "its expires_in is not a number of seconds");
  table_set_number(L, -1, "expires_in", (double)seconds);
  table_set_number(L, -1, "received_at", floor_seconds(clock_wall_ms()));
  table_set_number(L, -1, "expires_at", floor_seconds(exchange->sent_wall_ms + seconds * 1000));
  return true;
}

bool response_read_login(lua_State *L, const struct reader *reader, struct exchange *exchange,
                         struct token_limits *limits) {
  return read_object(L, reader, exchange, limits, finish_login);
}
