/* clock.h - the two clocks: a steady one for every limit, the wall's for what people read.
 * The steady clock counts through suspend where the system has such a clock, so that a token
 * that ended while the machine slept is not believed. */
#ifndef ICPTOKEN_CLOCK_H
#define ICPTOKEN_CLOCK_H

#include <errno.h>
#include <stdint.h>
#include <time.h>

#ifdef CLOCK_BOOTTIME
#define CLOCK_STEADY CLOCK_BOOTTIME
#else
#define CLOCK_STEADY CLOCK_MONOTONIC
#endif

/* Milliseconds that a clock shows; 0 when it cannot be read, see clock_problem. */
static inline int64_t clock_read_ms(clockid_t clock) {
  struct timespec now = {0};
  if (clock_gettime(clock, &now) != 0) return 0;
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Milliseconds of a clock that never jumps; its zero means nothing. */
static inline int64_t clock_steady_ms(void) { return clock_read_ms(CLOCK_STEADY); }

/* Milliseconds since the epoch on this machine's wall clock. */
static inline int64_t clock_wall_ms(void) { return clock_read_ms(CLOCK_REALTIME); }

/* The errno of a clock that cannot be read, 0 when both can: EOVERFLOW from 2038 on where time_t
 * has 32 bits, EINVAL on a kernel without CLOCK_BOOTTIME. */
static inline int clock_problem(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_STEADY, &now) != 0 || clock_gettime(CLOCK_REALTIME, &now) != 0)
    return errno;
  return 0;
}

#endif
