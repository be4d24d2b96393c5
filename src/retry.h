/* retry.h - which answers are worth another try, and how long to wait before it. */
#ifndef ICPTOKEN_RETRY_H
#define ICPTOKEN_RETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "date.h"
#include "jitter.h"

#pragma GCC visibility push(hidden)

/* Is this status one that a later try may change: 408, 429, 500, 502, 503, 504? */
bool retry_status(long status);

/* Seconds that a Retry-After value (RFC 9110 section 10.2.3: seconds, or a date) asks to wait, no
 * more than a year; negative when it cannot be read. A date is measured against the answer's own
 * Date where known; so is a number of seconds that is more than a year, which some servers count
 * from 1970. */
double retry_read_after(const char *value, struct moment date);

/* Milliseconds to wait before try n + 1 (n counts from 0): 0.25 s doubled each time, give or take
 * a tenth. */
int64_t retry_backoff_ms(unsigned n, struct jitter *jitter);

#pragma GCC visibility pop

#endif
