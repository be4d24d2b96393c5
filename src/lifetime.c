/* lifetime.c - how long a token is valid, and when to renew it. The rules are those of the token
 * specification of the distribution project. */
#include "lifetime.h"

#include <math.h>

bool lifetime_read_seconds(const char *text, size_t length, double *seconds) {
  const char *p = text, *end = text + length;
  return jwt_read_number(&p, end, seconds) && p == end;
}

bool lifetime_normalise(double expires_in, int64_t *seconds) {
  if (!isfinite(expires_in) || expires_in < 0) return false;
  if (expires_in == 0)
    *seconds = LIFETIME_DEFAULT_SECONDS;
  else
    *seconds = expires_in >= INT32_MAX ? INT32_MAX : (int64_t)expires_in;
  return true;
}

/* Does the token's own exp count? It is compared with the Date of the answer, or with its own iat.
 */
static bool has_bound(const struct lifetime_facts *facts) {
  const struct jwt_times *jwt = &facts->jwt;
  return jwt_exp_counts(jwt) && (jwt->has_iat || facts->date.known);
}

static int64_t bound_by(double bound_ms, int64_t left) {
  if (bound_ms >= (double)left) return left;
  return bound_ms <= 0 ? 0 : (int64_t)bound_ms;
}

/* Returns exp - Date or exp - iat if they limit the lifetime further, else left. The type is
 * double, because exp may be any number. */
static int64_t bound_by_claims(const struct lifetime_facts *facts, int64_t left) {
  const struct jwt_times *jwt = &facts->jwt;
  double cached = (double)facts->cached_ms;
  if (!has_bound(facts)) return left;
  if (facts->date.known)
    left = bound_by(jwt->exp * 1000 - (double)facts->date.epoch_ms - cached, left);
  if (jwt->has_iat) left = bound_by((jwt->exp - jwt->iat) * 1000 - cached, left);
  return left;
}

int64_t lifetime_left_ms(const struct lifetime_facts *facts) {
  int64_t whole = facts->expires_in * 1000, left = whole;
  if (facts->issued_at.known && facts->date.known) {
    int64_t age = facts->date.epoch_ms - facts->issued_at.epoch_ms;
    if (age >= 0 && age <= whole) left -= age;
  }
  return bound_by_claims(facts, left - facts->cached_ms);
}

int64_t lifetime_leeway_ms(const struct lifetime_facts *facts, int64_t left_ms) {
  int64_t leeway = left_ms / 10 < 10000 ? left_ms / 10 : 10000;
  int64_t min = left_ms / 2 < 1000 ? left_ms / 2 : 1000;
  return has_bound(facts) && leeway < min ? min : leeway;
}

int64_t lifetime_window_ms(int64_t left_ms, struct jitter *jitter) {
  int64_t fifth = left_ms / 5;
  double window = (double)(fifth < 300000 ? fifth : 300000);
  return (int64_t)(window * jitter_factor(jitter));
}
