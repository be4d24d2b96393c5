/* status.c - derives a failure, whose message says what to do, from an answer of another status
 * than 200. */
#include "status.h"

#include <stdio.h>
#include <string.h>

#include "bearer.h"
#include "clock.h"
#include "date.h"
#include "errors.h"
#include "jwt.h"
#include "retry.h"
#include "table.h"

static bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Does the list of errors at the top say that an identity provider refused user name and password?
 * It may do that with status 400 (RFC 6749 section 5.2). */
static bool is_refused_grant(lua_State *L) {
  static const char *const codes[] = {"invalid_grant", "invalid_client", "access_denied",
                                      "unauthorized_client"};
  bool found = false;
  if (!lua_istable(L, -1)) return false;
  lua_rawgeti(L, -1, 1);
  const char *code = table_push_field(L, -1, "code") == LUA_TSTRING ? lua_tostring(L, -1) : "";
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

/* Writes the target of a redirect, without query, fragment and user, and scrubbed. */
static void show_location(const struct reader *reader, const char *location,
                          char shown[SCRUB_SIZE]) {
  char bare[ANSWER_VALUE_SIZE];
  size_t length = strlen(location), kept = 0;
  memcpy(bare, location, length);
  bare[scrub_mask(reader->context->secrets, bare, length)] = '\0';
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
  scrub_sample(reader->context->secrets, bare, length, shown);
}

/* Writes "; the ID token expired at 2026-01-31 08:00:00 UTC: log in again" if the credential is a
 * JWT that has expired. */
static void explain_expiry(const struct reader *reader, const struct exchange *exchange, char *out,
                           size_t size) {
  static const char prefix[] = BEARER_HEADER;
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
  if (!read || !jwt_exp_counts(&times) || times.exp > now || times.exp < 0) return;
  snprintf(out, size, "; the ID token expired at %s: log in again",
           date_write_utc((int64_t)times.exp, when));
}

void status_read_refusal(lua_State *L, const struct reader *reader, struct exchange *exchange) {
  const struct context *context = reader->context;
  const struct answer *answer = &exchange->transfer.answer;
  struct failure *failure = exchange->failure;
  const char *where = context->endpoint->authority.data;
  const char *url = context->endpoint->shown.data;
  char words[SCRUB_SIZE], expiry[120];
  enum failure_code code = status_code(answer->status);
  bool retryable = retry_status(answer->status);
  errors_push_body(L, reader, &answer->body);
  if (answer->status == 401 && lua_isnil(L, -1)) {
    lua_pop(L, 1);
    errors_push_challenge(L, reader, answer->challenge);
  }
  if (exchange->is_login && answer->status == 400 && is_refused_grant(L))
    code = FAILURE_UNAUTHORIZED;
  errors_write_words(L, reader, &answer->body, words);
  const char *colon = words[0] == '\0' ? "" : ": ";
  switch (code) {
  case FAILURE_REDIRECT:
    show_location(reader, answer->location, words);
    failure_set(failure, code, retryable,
                "%s redirects to %s (%ld), which is never followed; check host and path", url,
                words[0] == '\0' ? "nowhere" : words, answer->status);
    break;
  case FAILURE_UNAUTHORIZED:
    explain_expiry(reader, exchange, expiry, sizeof expiry);
    failure_set(failure, code, retryable, "%s refused %s (%ld)%s%s%s", where, context->credential,
                answer->status, colon, words, expiry);
    break;
  case FAILURE_FORBIDDEN:
    explain_expiry(reader, exchange, expiry, sizeof expiry);
    failure_set(failure, code, retryable, "%s denied the user access (403)%s%s%s", where, colon,
                words, expiry);
    break;
  case FAILURE_NOT_FOUND:
    failure_set(failure, code, retryable, "there is nothing at %s (404)%s%s; check host and path",
                url, colon, words);
    break;
  case FAILURE_RATE_LIMITED:
    failure_set(failure, code, retryable, "%s is rate limiting requests (429)%s%s", where, colon,
                words);
    break;
  default:
    failure_set(failure, code, retryable, "%s answered with status %ld%s%s", where, answer->status,
                colon, words);
  }
}
