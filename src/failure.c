/* failure.c - a failure as scripts see it. A failure owns no memory, so that it can also report
 * lack of memory. */
#include "failure.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *failure_name(enum failure_code code) {
  static const char *const names[FAILURE_COUNT] = {"",
#define X(name, text) text,
                                                   FAILURE_CODES(X)
#undef X
  };
  return names[code];
}

void failure_clear(struct failure *failure) {
  failure->code = FAILURE_NONE;
  failure->retryable = false;
  failure->curl_code = 0;
  failure->status = 0;
  failure->retry_after = -1;
  failure->attempts = 0;
  failure->message[0] = '\0';
}

void failure_set(struct failure *failure, enum failure_code code, bool retryable,
                 const char *format, ...) {
  va_list arguments;
  failure->code = code;
  failure->retryable = retryable;
  va_start(arguments, format);
  vsnprintf(failure->message, sizeof failure->message, format, arguments);
  va_end(arguments);
}

void failure_set_no_memory(struct failure *failure) {
  failure->code = FAILURE_NO_MEMORY;
  failure->retryable = true;
  strcpy(failure->message, "not enough memory");
}

const char *failure_explain_descriptors(int problem) {
  switch (problem) {
  case EMFILE:
    return "too many open files (raise the limit of this process, `ulimit -n`, or close clients)";
  case ENFILE:
    return "too many open files on this machine (raise its limit, fs.file-max, or close some)";
  default:
    return NULL;
  }
}

void failure_add(struct failure *failure, const char *format, ...) {
  size_t length = strlen(failure->message);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(failure->message + length, sizeof failure->message - length, format, arguments);
  va_end(arguments);
}
