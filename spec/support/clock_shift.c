/* A preloaded clock_gettime, time and gettimeofday whose clocks a spec moves and stops
   independently: as hours of waiting, a corrected wall clock or a night of suspend would.
   LD_PRELOAD=build/clock_shift.so; testkit.shift_clocks finds clock_shift_set in it.
   With CLOCK_SHIFT_FAILS=1 in the environment the wall clock cannot be read, as from 2038 on where
   time_t has 32 bits. */

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { SECOND_US = 1000000, CLOCKS = 3 };

static const clockid_t ids[CLOCKS] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME};

/* Threads of libcurl read clocks too. */
static _Atomic int64_t shift_us[CLOCKS];
static _Atomic int64_t stopped_us[CLOCKS]; /* what a stopped clock shows without its shift */
static atomic_bool stopped;

static int read_kernel(clockid_t id, struct timespec *now) {
  return (int)syscall(SYS_clock_gettime, id, now);
}

static int64_t read_us(clockid_t id) {
  struct timespec now;
  read_kernel(id, &now);
  return (int64_t)now.tv_sec * SECOND_US + now.tv_nsec / 1000;
}

static int64_t read_shifted_us(int clock) {
  int64_t base = atomic_load(&stopped) ? atomic_load(&stopped_us[clock]) : read_us(ids[clock]);
  return base + atomic_load(&shift_us[clock]);
}

EXPORT void clock_shift_set(const double seconds[CLOCKS], bool stop);

/* Moves the wall, monotonic and boottime clock by that many seconds from their true time, and stops
   all three or lets them run. */
void clock_shift_set(const double seconds[CLOCKS], bool stop) {
  bool stops_now = stop && !atomic_load(&stopped);
  for (int clock = 0; clock < CLOCKS; clock++) {
    if (stops_now) atomic_store(&stopped_us[clock], read_us(ids[clock]));
    atomic_store(&shift_us[clock], (int64_t)(seconds[clock] * (double)SECOND_US));
  }
  atomic_store(&stopped, stop);
}

/* The shifted time of a clock in microseconds. False for a clock that is none of the three. */
static bool read_shifted(clockid_t id, int64_t *us) {
  for (int clock = 0; clock < CLOCKS; clock++) {
    if (ids[clock] != id) continue;
    *us = read_shifted_us(clock);
    return true;
  }
  return false;
}

static bool must_fail(clockid_t id) {
  if (id != CLOCK_REALTIME || getenv("CLOCK_SHIFT_FAILS") == NULL) return false;
  errno = EOVERFLOW;
  return true;
}

EXPORT int clock_gettime(clockid_t id, struct timespec *tp) {
  int64_t us;
  if (must_fail(id)) return -1;
  if (!read_shifted(id, &us)) return read_kernel(id, tp);
  *tp = (struct timespec){(time_t)(us / SECOND_US), (long)(us % SECOND_US * 1000)};
  return 0;
}

EXPORT time_t time(time_t *timer) {
  time_t now = (time_t)(read_shifted_us(0) / SECOND_US);
  if (timer != NULL) *timer = now;
  return now;
}

EXPORT int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
  int64_t us = read_shifted_us(0);
  (void)tz;
  *tv = (struct timeval){(time_t)(us / SECOND_US), (suseconds_t)(us % SECOND_US)};
  return 0;
}

/* Where time_t has 32 bits, code compiled for 64 bits calls these names of the GNU C library. */
#if defined __GLIBC__ && __TIMESIZE == 32

struct timespec64 {
  int64_t tv_sec;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  int32_t padding;
#endif
  int32_t tv_nsec;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  int32_t padding;
#endif
};

struct timeval64 {
  int64_t tv_sec, tv_usec;
};

EXPORT int __clock_gettime64(clockid_t id, struct timespec64 *tp);
EXPORT int64_t __time64(int64_t *timer);
EXPORT int __gettimeofday64(struct timeval64 *restrict tv, void *restrict tz);

EXPORT int __clock_gettime64(clockid_t id, struct timespec64 *tp) {
  int64_t us;
  if (must_fail(id)) return -1;
  if (!read_shifted(id, &us)) return (int)syscall(SYS_clock_gettime64, id, tp);
  *tp = (struct timespec64){.tv_sec = us / SECOND_US, .tv_nsec = (int32_t)(us % SECOND_US * 1000)};
  return 0;
}

EXPORT int64_t __time64(int64_t *timer) {
  int64_t now = read_shifted_us(0) / SECOND_US;
  if (timer != NULL) *timer = now;
  return now;
}

EXPORT int __gettimeofday64(struct timeval64 *restrict tv, void *restrict tz) {
  int64_t us = read_shifted_us(0);
  (void)tz;
  *tv = (struct timeval64){us / SECOND_US, us % SECOND_US};
  return 0;
}

#endif
