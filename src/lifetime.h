/* lifetime.h - how long a token is valid, and when to renew it. All times are milliseconds; those
 * since 1970 are on the clock of the machine that wrote the value. */
#ifndef ICPTOKEN_LIFETIME_H
#define ICPTOKEN_LIFETIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "date.h"
#include "jitter.h"
#include "jwt.h"

#pragma GCC visibility push(hidden)

/* Seconds that a token is valid if the answer does not say so (distribution project, token
 * specification). */
enum { LIFETIME_DEFAULT_SECONDS = 60 };

/* The members and headers of an answer that determine the lifetime of its token. */
struct lifetime_facts {
  int64_t expires_in;      /* seconds, after defaults and limits were applied */
  struct moment issued_at; /* the answer's issued_at */
  struct moment date;      /* its Date header */
  int64_t cached_ms;       /* how long the answer was in caches on the way */
  struct jwt_times jwt;    /* the claims of the token itself */
};

/* Is the whole string a JSON number of seconds? It may be negative. */
bool lifetime_read_seconds(const char *text, size_t length, double *seconds);

/* Converts expires_in to whole seconds: 0 means the default, fractions are rounded down, large
 * values are limited to 2^31 - 1. False for a negative or infinite value. */
bool lifetime_normalise(double expires_in, int64_t *seconds);

/* Returns the milliseconds that the token has left, counted from when it was requested; 0 or less
 * if it has expired. It does not depend on the skew between the clocks, because only times that the
 * server wrote are compared. */
int64_t lifetime_left_ms(const struct lifetime_facts *facts);

/* How long before its expiry a token is no longer returned: min(10 s, 10 %). Where its own exp
 * counts, it is at least a second, because the Date that exp is compared with is in whole seconds.
 * It is never more than half of the lifetime. */
int64_t lifetime_leeway_ms(const struct lifetime_facts *facts, int64_t left_ms);

/* How long before that time it is to be renewed: min(300 s, 20 %), varied at random by up to a
 * tenth. */
int64_t lifetime_window_ms(int64_t left_ms, struct jitter *jitter);

#pragma GCC visibility pop

#endif
