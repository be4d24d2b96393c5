/* jitter.h - a small PRNG that spreads retries and renewals; it is not for security. Each client
 * has one, so threads share no state. */
#ifndef ICPTOKEN_JITTER_H
#define ICPTOKEN_JITTER_H

#include <stdint.h>

#pragma GCC visibility push(hidden)

struct jitter {
  uint64_t state;
};

/* Seeds from the process, the time and the address in memory; again after a fork, as otherwise
 * parent and child would retry in lockstep. */
void jitter_seed(struct jitter *jitter);

/* Returns a factor between 0.9 and 1.1. */
double jitter_factor(struct jitter *jitter);

#pragma GCC visibility pop

#endif
