/* jitter.h - a small source of chance that spreads waits and renewals; nothing secret hangs on it.
 * One per client: there is no state that threads could share. */
#ifndef ICPTOKEN_JITTER_H
#define ICPTOKEN_JITTER_H

#include <stdint.h>

#pragma GCC visibility push(hidden)

struct jitter {
  uint64_t state;
};

/* Seeds from the process, the time and the place in memory; again after a fork, or parent and
 * child would knock at the endpoint in step. */
void jitter_seed(struct jitter *jitter);

/* A factor between 0.9 and 1.1. */
double jitter_factor(struct jitter *jitter);

#pragma GCC visibility pop

#endif
