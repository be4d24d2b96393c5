/* retry.h - which answers may be retried, and how long to wait before that. */
#ifndef ICPTOKEN_RETRY_H
#define ICPTOKEN_RETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "date.h"
#include "jitter.h"

#pragma GCC visibility push(hidden)

/* May a later attempt change this status: 408, 429, 500, 502, 503, 504? */
bool retry_status(long status);

/* Returns the seconds to wait from a Retry-After value (RFC 9110 section 10.2.3: seconds, or a
 * date), at most a year; negative if it cannot be read. A date is compared with the answer's own
 * Date if known. So is a number of seconds above a year, because some servers count them from 1970.
 */
double retry_read_after(const char *value, struct moment date);

/* Returns the milliseconds to wait before attempt n + 1 (n counts from 0): 0.25 s doubled each
 * time, varied at random by up to a tenth. */
int64_t retry_backoff_ms(unsigned n, struct jitter *jitter);

#pragma GCC visibility pop

#endif
