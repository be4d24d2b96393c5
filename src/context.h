/* context.h - the context of a transfer: where it went, and the secrets that messages must not
 * contain. */
#ifndef ICPTOKEN_CONTEXT_H
#define ICPTOKEN_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "scrub.h"
#include "settings.h"
#include "tls_files.h"

struct context {
  const struct settings *settings;
  const struct tls_files *files;
  const struct endpoint *endpoint;
  const struct secrets *secrets;
  struct string_list request_headers; /* of this request only */
  const char *credential;             /* what it is, in words */
  int64_t timeout_ms;                 /* of the whole call */
  bool shared; /* other transfers run at the same time, whose connection it may wait for */
};

#endif
