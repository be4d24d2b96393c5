/* jitter.c - a small PRNG that spreads retries and renewals; it is not for security.
 * The generator is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
 */
#include "jitter.h"

#include <time.h>
#include <unistd.h>

static uint64_t next_number(struct jitter *jitter) {
  uint64_t z = (jitter->state += UINT64_C(0x9E3779B97F4A7C15));
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

void jitter_seed(struct jitter *jitter) {
  struct timespec now = {0};
  (void)clock_gettime(CLOCK_REALTIME, &now); /* without a clock the other inputs must suffice */
  jitter->state ^= (uint64_t)now.tv_sec * UINT64_C(1000000007) + (uint64_t)now.tv_nsec;
  next_number(jitter);
  jitter->state ^= (uint64_t)getpid() << 32;
  next_number(jitter);
  jitter->state ^= (uint64_t)(uintptr_t)jitter;
}

double jitter_factor(struct jitter *jitter) {
  double unit = (double)(next_number(jitter) >> 11) / 9007199254740992.0; /* 2^53 */
  return 0.9 + 0.2 * unit;
}
