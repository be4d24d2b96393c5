/* diagnose.h - derives a failure, whose message says what to do, from libcurl's result of a
 * transfer. */
#ifndef ICPTOKEN_DIAGNOSE_H
#define ICPTOKEN_DIAGNOSE_H

#include <stdbool.h>

#include "context.h"
#include "failure.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

/* Sets failure for a transfer that has finished: FAILURE_NONE if a complete answer of any status
 * arrived. */
void diagnose_transfer(const struct transfer *transfer, const struct context *context,
                       struct failure *failure);

/* Did this transfer end during the DNS lookup? */
bool diagnose_lookup_timed_out(const struct transfer *transfer, const struct context *context);

#pragma GCC visibility pop

#endif
