/* login.c - fuzzes reading the identity provider's answer, and making a credential of the ID token
 * in it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "../src/bearer.h"
#include "../src/buffer.h"
#include "../src/compat.h"
#include "../src/credential.h"
#include "../src/jwt.h"
#include "../src/response.h"
#include "../src/result.h"
#include "decoder.h"

static void check_identity(lua_State *L) {
  size_t length;
  lua_getfield(L, -1, "id_token");
  const char *id_token = lua_tolstring(L, -1, &length);
  assert(id_token != NULL && bearer_is_token(id_token, length));
  lua_getfield(L, -2, "expires_in");
  lua_getfield(L, -3, "expires_at");
  assert(lua_isnil(L, -2) || (compat_isinteger(L, -2) && lua_tointeger(L, -2) >= 0));
  assert(lua_isnil(L, -2) == lua_isnil(L, -1));
  lua_pop(L, 3);
}

static int read_login(lua_State *L) {
  struct exchange *exchange = lua_touserdata(L, 2);
  const struct reader *reader = lua_touserdata(L, 3);
  struct token_limits limits;
  int top = lua_gettop(L);
  if (response_read_login(L, reader, exchange, &limits)) {
    assert(exchange->failure->code == FAILURE_NONE);
    check_identity(L);
    lua_pop(L, 1);
  } else {
    int errors = top + 1;
    assert(lua_gettop(L) == errors && (lua_isnil(L, errors) || lua_istable(L, errors)));
    assert(exchange->failure->code != FAILURE_NONE);
    result_push_failure(L, exchange->failure, "https://localhost/", errors);
    lua_settop(L, top);
  }
  assert(lua_gettop(L) == top);
  return 0;
}

/* Checks the header for a text that is passed as an ID token, and as user name and password. */
static void write_credentials(const char *text, size_t size) {
  static const char head[] = "Authorization: Bearer ";
  struct buffer line = {0};
  struct failure failure;
  failure_clear(&failure);
  if (credential_write_token(text, size, "the ID token", &line, &failure)) {
    assert(line.length > sizeof head - 1 && memcmp(line.data, head, sizeof head - 1) == 0);
    assert(bearer_is_token(line.data + sizeof head - 1, line.length - (sizeof head - 1)));
  } else {
    assert(failure.code == FAILURE_INVALID_CREDENTIAL && line.length == 0);
  }
  buffer_clear(&line);
  char *copy = malloc(size + 1);
  if (copy == NULL) abort();
  memcpy(copy, text, size);
  copy[size] = '\0';
  const struct settings settings = {.credential = {.username = copy, .password = copy}};
  assert(credential_write(&settings, &line, &failure));
  assert(strpbrk(line.data, "\r\n") == NULL);
  buffer_free(&line);
  free(copy);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct settings settings = {.credential = {.login_username = "x", .login_password = "y"}};
  struct endpoint endpoint = {.port = 8443};
  struct secrets secrets = {0};
  struct failure failure;
  struct exchange exchange = {.sent_wall_ms = 1511990661000, .failure = &failure};
  struct buffer scratch = {0};
  struct jitter jitter = {1};
  static lua_State *L;
  if (L == NULL) L = decoder_open();
  if (!buffer_append_string(&endpoint.authority, "localhost:8443") ||
      !buffer_append_string(&endpoint.shown, "https://localhost:8443/") ||
      !buffer_append(&exchange.transfer.answer.body, data, size))
    abort();
  const struct context context = {.settings = &settings,
                                  .endpoint = &endpoint,
                                  .secrets = &secrets,
                                  .credential = "user name and password",
                                  .timeout_ms = 30000};
  struct reader reader = {1, &context, &scratch, &jitter};
  exchange.transfer.answer.status = 200;
  exchange.transfer.answer.framed = size % 2 == 0;
  failure_clear(&failure);
  write_credentials((const char *)data, size);

  lua_settop(L, 1);
  lua_pushcfunction(L, read_login);
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
