/* A preloaded clock_gettime, time and gettimeofday whose clocks a spec moves and stops, each by
   itself: what hours of waiting, a corrected wall clock or a night of suspend do to a process.
   LD_PRELOAD=build/clock_shift.so; testkit.shift_clocks finds clock_shift_set in it. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
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

/* Moves the wall, monotonic and boottime clock by so many seconds from their true time, and stops
   all three or lets them run. */
void clock_shift_set(const double seconds[CLOCKS], bool stop) {
  bool stops_now = stop && !atomic_load(&stopped);
  for (int clock = 0; clock < CLOCKS; clock++) {
    if (stops_now) atomic_store(&stopped_us[clock], read_us(ids[clock]));
    atomic_store(&shift_us[clock], (int64_t)(seconds[clock] * SECOND_US));
  }
  atomic_store(&stopped, stop);
}

EXPORT int clock_gettime(clockid_t id, struct timespec *tp) {
  for (int clock = 0; clock < CLOCKS; clock++) {
    if (ids[clock] != id) continue;
    int64_t us = read_shifted_us(clock);
    *tp = (struct timespec){us / SECOND_US, us % SECOND_US * 1000};
    return 0;
  }
  return read_kernel(id, tp);
}

EXPORT time_t time(time_t *timer) {
  time_t now = read_shifted_us(0) / SECOND_US;
  if (timer != NULL) *timer = now;
  return now;
}

EXPORT int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
  int64_t us = read_shifted_us(0);
  (void)tz;
  *tv = (struct timeval){us / SECOND_US, us % SECOND_US};
  return 0;
}
