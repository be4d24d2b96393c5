/* date.h - points in time in the formats of answers: RFC 3339 and the HTTP dates of RFC 9110. The
 * calendar is computed in 64 bits here, because time_t has 32 bits on some machines and must not be
 * passed to a library that may have been built with another size of it. */
#ifndef ICPTOKEN_DATE_H
#define ICPTOKEN_DATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* A point in time that may be unknown. */
struct moment {
  bool known;
  int64_t epoch_ms; /* milliseconds since 1970-01-01 00:00:00 UTC */
};

/* Size of the buffer for date_write_utc. */
enum { DATE_UTC_SIZE = sizeof "9999-12-31 23:59:59 UTC" };

/* Reads an RFC 3339 date-time, with fractions and offsets. Unknown if the text is not one. */
struct moment date_read_rfc3339(const char *text, size_t length);

/* An HTTP date in any of the three forms of RFC 9110 section 5.6.7, which need not end in NUL:
 *   Sun, 06 Nov 1994 08:49:37 GMT    (IMF-fixdate)
 *   Sunday, 06-Nov-94 08:49:37 GMT   (RFC 850)
 *   Sun Nov  6 08:49:37 1994         (asctime)
 * As that section encourages, it also reads what mail software writes (RFC 5322): no day of the
 * week, a day of one digit, an offset such as +0100. The day of the week is not compared with the
 * date. A year of two digits is the latest that is at most 50 years after now_ms, milliseconds
 * since 1970. Unknown when the text is anything else. */
struct moment date_read_http(const char *text, size_t length, int64_t now_ms);

/* Writes "2026-01-31 08:00:00 UTC" for seconds since 1970. Returns out, empty outside the years
 * 0 to 9999. */
const char *date_write_utc(int64_t seconds, char out[DATE_UTC_SIZE]);

#pragma GCC visibility pop

#endif
