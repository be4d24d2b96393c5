/* diagnose.h - from libcurl's view of a transfer to a failure that tells a person what to do. */
#ifndef ICPTOKEN_DIAGNOSE_H
#define ICPTOKEN_DIAGNOSE_H

#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "failure.h"
#include "pool.h"
#include "scrub.h"
#include "settings.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

/* Where the transfer went and what must not be told of it. */
struct circumstances {
  const struct settings *settings;
  const struct endpoint *endpoint;
  const struct secrets *secrets;
  const char *credential; /* what it is, in words */
  int64_t timeout_ms;     /* of the whole call */
  bool shared;            /* other transfers go on beside it, whose connection it may wait for */
};

/* Sets failure from a transfer that has finished; FAILURE_NONE when a whole answer, of whatever
 * status, is there. */
void diagnose_transfer(const struct transfer *transfer, const struct circumstances *about,
                       struct failure *failure);

/* Did this transfer end while a name was still being looked up? */
bool diagnose_lookup_timed_out(const struct transfer *transfer, const struct circumstances *about);

#pragma GCC visibility pop

#endif
