/* answer.c - fuzzes reading an answer: the first byte chooses what the headers said, the rest is
 * the body, read once as a token and once as a refusal. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "../src/buffer.h"
#include "../src/compat.h"
#include "../src/response.h"
#include "../src/result.h"
#include "../src/status.h"
#include "decoder.h"

static void check_token(lua_State *L, const struct token_limits *limits) {
  assert(lua_istable(L, -1));
  lua_getfield(L, -1, "token");
  assert(lua_type(L, -1) == LUA_TSTRING && compat_rawlen(L, -1) > 0);
  lua_getfield(L, -2, "expires_in");
  assert(compat_isinteger(L, -1) && lua_tointeger(L, -1) > 0);
  lua_getfield(L, -3, "expires_at");
  lua_getfield(L, -4, "refresh_at");
  assert(compat_isinteger(L, -2) && lua_tointeger(L, -1) <= lua_tointeger(L, -2));
  assert(limits->refresh_ms <= limits->usable_ms);
  lua_pop(L, 5);
}

/* Checks a failure. The list for details.errors, or nil, is on top of the stack. */
static void check_failure(lua_State *L, const struct exchange *exchange) {
  int errors = lua_gettop(L);
  assert(exchange->failure->code != FAILURE_NONE);
  assert(lua_isnil(L, errors) || (lua_istable(L, errors) && compat_rawlen(L, errors) > 0));
  assert(result_push_failure(L, exchange->failure, "https://localhost/", errors) == 4);
  lua_settop(L, errors);
}

static int read_both(lua_State *L) {
  struct exchange *exchange = lua_touserdata(L, 2);
  const struct reader *reader = lua_touserdata(L, 3);
  struct token_limits limits;
  int top = lua_gettop(L);
  if (response_read_token(L, reader, exchange, &limits)) {
    assert(exchange->failure->code == FAILURE_NONE);
    check_token(L, &limits);
  } else {
    assert(lua_gettop(L) == top + 1);
    check_failure(L, exchange);
    lua_pop(L, 1);
  }
  assert(lua_gettop(L) == top);
  failure_clear(exchange->failure);
  status_read_refusal(L, reader, exchange);
  assert(lua_gettop(L) == top + 1);
  check_failure(L, exchange);
  return 0;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  static const long statuses[] = {400, 401, 403, 404, 429, 302, 500, 418};
  struct settings settings = {.credential = {.id_token = "x"}};
  struct endpoint endpoint = {.port = 8443};
  struct secrets secrets = {0};
  struct failure failure;
  struct exchange exchange = {.sent_wall_ms = 1511990661000, .failure = &failure};
  struct buffer scratch = {0};
  struct jitter jitter = {1};
  static lua_State *L;
  if (L == NULL) L = decoder_open();
  if (size == 0) return 0;
  if (!buffer_append_string(&endpoint.authority, "localhost:8443") ||
      !buffer_append_string(&endpoint.shown, "https://localhost:8443/") ||
      !buffer_append(&exchange.transfer.answer.body, data + 1, size - 1))
    abort();
  const struct context context = {.settings = &settings,
                                  .endpoint = &endpoint,
                                  .secrets = &secrets,
                                  .credential = "the ID token",
                                  .timeout_ms = 30000};
  struct reader reader = {1, &context, &scratch, &jitter};
  exchange.transfer.answer.status = statuses[data[0] & 7];
  exchange.transfer.answer.framed = (data[0] & 8) != 0;
  exchange.transfer.answer.date.known = (data[0] & 16) != 0;
  exchange.transfer.answer.date.epoch_ms = 1511990661000;
  size_t location = size - 1 < ANSWER_VALUE_SIZE - 1 ? size - 1 : ANSWER_VALUE_SIZE - 1;
  memcpy(exchange.transfer.answer.location, data + 1, location);
  failure_clear(&failure);

  lua_settop(L, 1);
  lua_pushcfunction(L, read_both);
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, &exchange);
  lua_pushlightuserdata(L, &reader);
  if (lua_pcall(L, 3, 0, 0) != 0) abort();
  buffer_free(&endpoint.authority);
  buffer_free(&endpoint.shown);
  buffer_free(&exchange.transfer.answer.body);
  buffer_free(&scratch);
  lua_gc(L, LUA_GCCOLLECT, 0); /* or libFuzzer reports garbage as a leak */
  return 0;
}
