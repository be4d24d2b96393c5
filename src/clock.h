/* clock.h - two clocks: a steady one for every limit, and the wall clock for the times that people
 * read. The steady clock counts during suspend where the system has such a clock, so that a token
 * that expired while the machine was suspended is not returned. */
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

/* Returns the milliseconds of a clock, or 0 if it cannot be read; see clock_problem. */
static inline int64_t clock_read_ms(clockid_t clock) {
  struct timespec now = {0};
  if (clock_gettime(clock, &now) != 0) return 0;
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Returns milliseconds of a clock that never jumps and has an arbitrary zero. */
static inline int64_t clock_steady_ms(void) { return clock_read_ms(CLOCK_STEADY); }

/* Returns milliseconds since the epoch on this machine's wall clock. */
static inline int64_t clock_wall_ms(void) { return clock_read_ms(CLOCK_REALTIME); }

/* Returns 0 if both clocks can be read, else the errno: EOVERFLOW from 2038 on where time_t has 32
 * bits, EINVAL on a kernel without CLOCK_BOOTTIME. */
static inline int clock_problem(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_STEADY, &now) != 0 || clock_gettime(CLOCK_REALTIME, &now) != 0)
    return errno;
  return 0;
}

#endif
