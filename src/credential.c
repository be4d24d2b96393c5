/* credential.c - from the credential options to the Authorization header of a request.
 * A message never quotes a credential, only how it was passed. */
#include "credential.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ascii.h"
#include "bearer.h"
#include "scrub.h"

enum { MAX_TOKEN = 1024 * 1024 };

static bool refuse_credential(struct failure *failure, const char *source, const char *why) {
  failure_set(failure, FAILURE_INVALID_CREDENTIAL, false, "%s %s", source, why);
  return false;
}

/* Is this what jq, a template or printf writes for a missing value? */
static bool is_placeholder(struct span token) {
  static const char *const words[] = {"null",       "none",   "undefined", "nil",
                                      "false",      "true",   "nan",       "<nil>",
                                      "(null)",     "<none>", "<null>",    "[object object]",
                                      "<no value>", "{}",     "[]"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (ascii_is(token.start, token.length, words[i])) return true;
  return false;
}

bool credential_write_token(const char *text, size_t length, const char *source,
                            struct buffer *line, struct failure *failure) {
  struct span token = bearer_strip(text, length);
  if (token.length == 0) return refuse_credential(failure, source, "is empty");
  if (is_placeholder(token))
    return refuse_credential(
        failure, source,
        "is a placeholder that programs write for a missing value; check the program that "
        "wrote it");
  if (token.length > MAX_TOKEN)
    return refuse_credential(failure, source, "is longer than 1 MiB; pass the ID token alone");
  if (!bearer_is_token(token.start, token.length))
    return refuse_credential(
        failure, source,
        "contains characters that a bearer token cannot have (RFC 6750); pass the ID token alone");
  if (buffer_append_string(line, BEARER_HEADER) && buffer_append(line, token.start, token.length))
    return true;
  failure_set_no_memory(failure);
  return false;
}

static const char *explain_errno(int number) {
  switch (number) {
  case ENOENT:
    return "does not exist";
  case EACCES:
  case EPERM:
    return "cannot be read: permission denied";
  case EISDIR:
    return "is a directory";
  case ETIMEDOUT:
    return "is a pipe whose writer did not finish in time";
  default:
    return "cannot be read";
  }
}

bool credential_write_file(const char *path, int problem, const struct buffer *content,
                           struct buffer *line, struct failure *failure) {
  const struct secrets none = {0};
  char source[SCRUB_SIZE + 40], shown[SCRUB_SIZE];
  scrub_sample(&none, path, strlen(path), shown); /* people pass the token itself, too */
  snprintf(source, sizeof source, "the ID token in the file %s", shown);
  if (problem == 0)
    return credential_write_token(content->length > 0 ? content->data : "", content->length, source,
                                  line, failure);
  if (problem == ENOMEM)
    failure_set_no_memory(failure);
  else if (failure_explain_descriptors(problem) != NULL)
    failure_set(failure, FAILURE_CONNECT, true, "cannot read the ID token file %s: %s", shown,
                failure_explain_descriptors(problem));
  else if (problem == EFBIG)
    failure_set(failure, FAILURE_INVALID_CREDENTIAL, false,
                "the ID token file %s is larger than %d bytes", shown, CREDENTIAL_MAX_FILE);
  else
    failure_set(failure, FAILURE_INVALID_CREDENTIAL, problem == ETIMEDOUT,
                "the ID token file %s %s", shown, explain_errno(problem));
  return false;
}

bool credential_append_pair(const char *username, const char *password, struct buffer *out) {
  struct buffer pair = {0};
  bool ok = buffer_append_string(&pair, username) && buffer_append_string(&pair, ":") &&
            buffer_append_string(&pair, password) &&
            buffer_append_base64(out, pair.data, pair.length);
  buffer_free(&pair);
  return ok;
}

static bool write_basic(const struct settings *settings, struct buffer *line,
                        struct failure *failure) {
  if (buffer_append_string(line, "Authorization: Basic ") &&
      credential_append_pair(settings->credential.username, settings->credential.password, line))
    return true;
  failure_set_no_memory(failure);
  return false;
}

bool credential_may_change(const struct credential *credential) {
  return credential->id_token_function || credential->id_token_file != NULL;
}

bool credential_write(const struct settings *settings, struct buffer *line,
                      struct failure *failure) {
  if (settings->credential.anonymous) return true;
  if (settings->credential.username != NULL) return write_basic(settings, line, failure);
  return credential_write_token(settings->credential.id_token, settings->credential.id_token_length,
                                "the ID token", line, failure);
}
