/* lifetime.h - how long a token is good, and when to renew it.
 * All times are milliseconds; those since 1970 are on the clock of whoever wrote the value. */
#ifndef ICPTOKEN_LIFETIME_H
#define ICPTOKEN_LIFETIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "date.h"
#include "jitter.h"
#include "jwt.h"

#pragma GCC visibility push(hidden)

/* Seconds a token lives when the answer names none (distribution project, token specification). */
enum { LIFETIME_DEFAULT_SECONDS = 60 };

/* What an answer says of the life of its token. */
struct lifetime_facts {
  int64_t expires_in;      /* seconds, already defaulted and capped */
  struct moment issued_at; /* the answer's issued_at */
  struct moment date;      /* its Date header */
  int64_t cached_ms;       /* how long the answer was in a cache on the way */
  struct jwt_times jwt;    /* the claims of the token itself */
};

/* A whole string that is a JSON number of seconds (">= 0" is not asked). */
bool lifetime_read_seconds(const char *text, size_t length, double *seconds);

/* Brings expires_in into whole seconds: 0 means the default, fractions are rounded down, large
 * values capped at 2^31 - 1. False for a negative or not finite value. */
bool lifetime_normalise(double expires_in, int64_t *seconds);

/* Milliseconds the token has left, counted from when it was asked for; 0 or less when it has ended.
 * Free of the skew between the clocks: only times that the server wrote are compared. */
int64_t lifetime_left_ms(const struct lifetime_facts *facts);

/* How long before its end a token stops being handed out: min(10 s, 10 %); where its own exp may be
 * that end, a second at least, as the Date that exp is measured by hides up to a second, but no
 * more than half of the life. */
int64_t lifetime_leeway_ms(const struct lifetime_facts *facts, int64_t left_ms);

/* How long before that it is to be renewed: min(300 s, 20 %), give or take a tenth by chance. */
int64_t lifetime_window_ms(int64_t left_ms, struct jitter *jitter);

#pragma GCC visibility pop

#endif
