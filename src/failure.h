/* failure.h - a failure as scripts see it. This file contains the one list of error codes; docs and
 * types are tested against it. */
#ifndef ICPTOKEN_FAILURE_H
#define ICPTOKEN_FAILURE_H

#include <stdbool.h>

#pragma GCC visibility push(hidden)

#define FAILURE_CODES(X)                                                                           \
  X(INVALID_CREDENTIAL, "invalid_credential")                                                      \
  X(RESOLVE, "resolve")                                                                            \
  X(CONNECT, "connect")                                                                            \
  X(PROXY, "proxy")                                                                                \
  X(TLS, "tls")                                                                                    \
  X(TIMEOUT, "timeout")                                                                            \
  X(NETWORK, "network")                                                                            \
  X(REDIRECT, "redirect")                                                                          \
  X(UNAUTHORIZED, "unauthorized")                                                                  \
  X(FORBIDDEN, "forbidden")                                                                        \
  X(NOT_FOUND, "not_found")                                                                        \
  X(RATE_LIMITED, "rate_limited")                                                                  \
  X(SERVER_ERROR, "server_error")                                                                  \
  X(HTTP_STATUS, "http_status")                                                                    \
  X(TOO_LARGE, "too_large")                                                                        \
  X(INVALID_RESPONSE, "invalid_response")                                                          \
  X(EXPIRED, "expired")                                                                            \
  X(NO_MEMORY, "no_memory")                                                                        \
  X(CLOSED, "closed")

enum failure_code {
  FAILURE_NONE,
#define X(name, text) FAILURE_##name,
  FAILURE_CODES(X)
#undef X
      FAILURE_COUNT
};

/* Enough for a host name of 255 bytes, a sample of 200 characters and the text around them. */
enum { FAILURE_MESSAGE_SIZE = 1536 };

struct failure {
  enum failure_code code;
  bool retryable;     /* retrying later may succeed */
  int curl_code;      /* a CURLcode; 0 if libcurl reported no error */
  long status;        /* the HTTP status; 0 if there was none */
  double retry_after; /* seconds from Retry-After; negative if there was none */
  unsigned attempts;  /* how many attempts were made */
  char message[FAILURE_MESSAGE_SIZE];
};

/* Returns the name of a code for scripts ("timeout"). */
const char *failure_name(enum failure_code code);

/* Resets the failure: code FAILURE_NONE, no message. */
void failure_clear(struct failure *failure);

/* Sets code, retryable and message, and leaves all other members unchanged. */
void failure_set(struct failure *failure, enum failure_code code, bool retryable,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Sets the failure to out of memory: the message is always the same. */
void failure_set_no_memory(struct failure *failure);

/* Returns advice for an errno that means that no file descriptor is left; NULL for any other. */
const char *failure_explain_descriptors(int problem);

/* Appends to the message as much as it has room for. */
void failure_add(struct failure *failure, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#pragma GCC visibility pop

#endif
