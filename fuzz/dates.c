/* dates.c - fuzzes what reads times: RFC 3339, HTTP dates, seconds, Retry-After. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../src/lifetime.h"
#include "../src/retry.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  const int64_t first = -INT64_C(62167305600000); /* the years 0000 to 9999, a day to either side */
  const int64_t last = INT64_C(253402387200000);
  const char *text = (const char *)data;
  double seconds;
  int64_t whole;
  struct moment moment = lifetime_read_rfc3339(text, size);
  assert(!moment.known || (moment.epoch_ms >= first && moment.epoch_ms <= last));
  moment = lifetime_read_http_date(text, size);
  if (lifetime_read_seconds(text, size, &seconds)) {
    assert(isfinite(seconds));
    if (lifetime_normalise(seconds, &whole)) assert(whole >= 0 && whole <= INT32_MAX);
  }
  char *copy = malloc(size + 1);
  if (copy == NULL) abort();
  memcpy(copy, data, size);
  copy[size] = '\0';
  double after = retry_read_after(copy, moment);
  assert(after >= 0 || after == -1);
  free(copy);
  return 0;
}
