/* failure.h - what went wrong, in the form a script gets to see it.
 * This file holds the one list of error codes; docs and types are tested against it. */
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

/* Room for a host name of 255 bytes, a sample of 200 characters and our own words. */
enum { FAILURE_MESSAGE_SIZE = 1536 };

struct failure {
  enum failure_code code;
  bool retryable;     /* the same call may go well later */
  int curl_code;      /* a CURLcode; 0 when libcurl saw no error */
  long status;        /* the HTTP status; 0 before there was one */
  double retry_after; /* seconds, as the server asked; negative when it did not */
  unsigned attempts;  /* how often the endpoint was tried */
  char message[FAILURE_MESSAGE_SIZE];
};

/* The name of a code as scripts see it ("timeout"). */
const char *failure_name(enum failure_code code);

/* Forgets everything: code FAILURE_NONE, no message. */
void failure_clear(struct failure *failure);

/* Sets code, retryable and message, and leaves the rest as it is. */
void failure_set(struct failure *failure, enum failure_code code, bool retryable,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));

/* The same for memory that ran out: the message is always this one. */
void failure_set_no_memory(struct failure *failure);

/* What a person can do about an errno that says that no descriptor is left; NULL for another. */
const char *failure_explain_descriptors(int problem);

/* Appends to the message as much as there is room for. */
void failure_add(struct failure *failure, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#pragma GCC visibility pop

#endif
