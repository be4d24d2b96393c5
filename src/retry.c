/* retry.c - which answers may be retried, and how long to wait before that. */
#include "retry.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

enum { MIN_WAIT_MS = 250, MAX_DOUBLINGS = 16 };

static const double year_seconds = 365.0 * 24 * 3600;

bool retry_status(long status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 ||
         status == 504;
}

double retry_read_after(const char *value, struct moment date) {
  size_t length = strlen(value);
  int64_t now = date.known ? date.epoch_ms : clock_wall_ms();
  if (length > 0 && strspn(value, "0123456789") == length) {
    double seconds = strtod(value, NULL);
    if (seconds <= year_seconds) return seconds;
    double left = seconds - floor((double)now / 1000); /* some servers write a point in time */
    return left < 0 ? 0 : left <= year_seconds ? left : year_seconds;
  }
  struct moment when = date_read_http(value, length, now);
  if (!when.known) return -1;
  return when.epoch_ms <= now ? 0 : (double)(when.epoch_ms - now) / 1000;
}

int64_t retry_backoff_ms(unsigned n, struct jitter *jitter) {
  int64_t wait = (int64_t)MIN_WAIT_MS << (n < MAX_DOUBLINGS ? n : MAX_DOUBLINGS);
  return (int64_t)((double)wait * jitter_factor(jitter));
}
