/* dates.c - fuzzes what reads and writes times: RFC 3339, HTTP dates, seconds, Retry-After. HTTP
 * dates are compared with the C library's reading and writing of them, in 64 bits and the C locale.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../src/date.h"
#include "../src/lifetime.h"
#include "../src/retry.h"

/* The years 0000 to 9999, a day to either side, as an offset may lead beyond them. */
#define MIN_MS (-INT64_C(62167305600000))
#define MAX_MS INT64_C(253402387200000)

static const char *const forms[] = {
    "%a, %d %b %Y %H:%M:%S GMT", /* IMF-fixdate */
    "%A, %d-%b-%y %H:%M:%S GMT", /* RFC 850 */
    "%a %b %e %H:%M:%S %Y",      /* asctime */
};

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void check_range(struct moment moment) {
  assert(!moment.known || (moment.epoch_ms >= MIN_MS && moment.epoch_ms <= MAX_MS));
}

/* Is text in this form just as the C library writes it, and a date that there is? */
static bool is_canonical(const char *text, const char *form, struct tm *at) {
  char written[80];
  memset(at, 0, sizeof *at);
  const char *end = strptime(text, form, at);
  if (end == NULL || *end != '\0' || strftime(written, sizeof written, form, at) == 0) return false;
  if (strcmp(text, written) != 0 || at->tm_year + 1900 < 1000)
    return false; /* %Y need not have four digits */
  struct tm same = *at;
  timegm(&same);
  return same.tm_mday == at->tm_mday && at->tm_sec < 60;
}

/* What the C library can read must be read the same. The century of two digits is ours to find. */
static void compare_reading(const char *text, int64_t now_ms) {
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    struct tm wanted, got, same;
    char again[80];
    if (!is_canonical(text, forms[i], &wanted)) continue;
    same = wanted;
    struct moment moment = date_read_http(text, strlen(text), now_ms);
    assert(moment.known);
    time_t seconds = (time_t)(moment.epoch_ms / 1000);
    assert(moment.epoch_ms % 1000 == 0 && gmtime_r(&seconds, &got) != NULL);
    assert(i == 1 || seconds == timegm(&same));
    got.tm_wday = wanted.tm_wday; /* what the text says, which may be wrong */
    assert(strftime(again, sizeof again, forms[i], &got) != 0 && strcmp(text, again) == 0);
  }
}

/* A time is written as the C library writes it, and what that writes is read as the same time. */
static void compare_writing(int64_t seconds) {
  char ours[DATE_UTC_SIZE], text[80];
  time_t time = (time_t)seconds;
  struct tm at;
  date_write_utc(seconds, ours);
  if (seconds * 1000 < MIN_MS || seconds * 1000 > MAX_MS || gmtime_r(&time, &at) == NULL ||
      at.tm_year + 1900 < 1000 || at.tm_year + 1900 > 9999)
    return;
  assert(strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &at) != 0 && strcmp(ours, text) == 0);
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    strftime(text, sizeof text, forms[i], &at);
    struct moment moment = date_read_http(text, strlen(text), seconds * 1000);
    assert(moment.known && moment.epoch_ms == seconds * 1000);
  }
}

static void read_seconds(const char *text, size_t size) {
  double seconds;
  int64_t whole;
  if (!lifetime_read_seconds(text, size, &seconds)) return;
  assert(isfinite(seconds));
  if (lifetime_normalise(seconds, &whole)) assert(whole >= 0 && whole <= INT32_MAX);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  const char *text = (const char *)data;
  int64_t number = 0;
  memcpy(&number, data, size < sizeof number ? size : sizeof number);
  int64_t now_ms = number & INT64_C(0x3fffffffffff); /* up to the year 4199 */
  check_range(date_read_rfc3339(text, size));
  struct moment moment = date_read_http(text, size, now_ms);
  check_range(moment);
  read_seconds(text, size);
  compare_writing(number % (MAX_MS / 1000));
  char *copy = malloc(size + 1);
  if (copy == NULL) abort();
  memcpy(copy, data, size);
  copy[size] = '\0';
  if (strlen(copy) == size) compare_reading(copy, now_ms);
  double after = retry_read_after(copy, moment);
  assert(after >= 0 || after == -1);
  free(copy);
  return 0;
}
