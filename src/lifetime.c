/* lifetime.c - how long a token is good, and when to renew it.
 * The rules stand in the token specification of the distribution project and in RFC 3339. */
#include "lifetime.h"

#include <curl/curl.h>
#include <math.h>
#include <string.h>

/* The end of the year 9999, which is as far as a date of four digits goes. */
#define LAST_SECOND INT64_C(253402300799)

/* Days from 1970-01-01 to a date of the proleptic Gregorian calendar, with years counted from
 * March so that the leap day is a year's last. */
static int64_t days_from_date(int64_t year, int month, int day) {
  if (month <= 2) year--;
  int64_t era = (year >= 0 ? year : year - 399) / 400;
  int64_t year_of_era = year - era * 400;
  int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
  return era * 146097 + day_of_era - 719468;
}

static int days_in_month(int year, int month) {
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return month == 2 && leap ? 29 : days[month - 1];
}

/* Reads exactly count digits at *text. */
static bool take_digits(const char **text, const char *end, int count, int *value) {
  if (end - *text < count) return false;
  int number = 0;
  for (int i = 0; i < count; i++) {
    char c = (*text)[i];
    if (c < '0' || c > '9') return false;
    number = number * 10 + (c - '0');
  }
  *text += count;
  *value = number;
  return true;
}

static bool take_char(const char **text, const char *end, char wanted) {
  if (*text == end || **text != wanted) return false;
  (*text)++;
  return true;
}

static bool take_clock(const char **p, const char *end, int *hour, int *minute, int *second) {
  return take_digits(p, end, 2, hour) && take_char(p, end, ':') && take_digits(p, end, 2, minute) &&
         take_char(p, end, ':') && take_digits(p, end, 2, second) && *hour <= 23 && *minute <= 59 &&
         *second <= 60; /* 60: a leap second */
}

static struct moment moment_at(int year, int month, int day, int hour, int minute, int second) {
  struct moment moment = {false, 0};
  if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month)) return moment;
  int64_t days = days_from_date(year, month, day);
  moment.known = true;
  int64_t seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
  moment.epoch_ms = seconds * 1000;
  return moment;
}

/* The fraction of a second at *text, if there is one, in milliseconds. */
static bool take_fraction(const char **text, const char *end, int *milliseconds) {
  *milliseconds = 0;
  if (!take_char(text, end, '.')) return true;
  int unit = 100, digits = 0;
  for (; *text < end && **text >= '0' && **text <= '9'; (*text)++, digits++) {
    *milliseconds += (**text - '0') * unit;
    unit /= 10;
  }
  return digits > 0;
}

/* The offset from UTC at *text ("Z" or "+hh:mm"), in minutes. */
static bool take_offset(const char **text, const char *end, int *minutes) {
  *minutes = 0;
  if (*text == end) return false;
  char sign = *(*text)++;
  if (sign == 'Z' || sign == 'z') return true;
  int hour, minute;
  if ((sign != '+' && sign != '-') || !take_digits(text, end, 2, &hour) ||
      !take_char(text, end, ':') || !take_digits(text, end, 2, &minute) || hour > 23 || minute > 59)
    return false;
  *minutes = (sign == '-' ? -1 : 1) * (hour * 60 + minute);
  return true;
}

struct moment lifetime_read_rfc3339(const char *text, size_t length) {
  const struct moment unknown = {false, 0};
  const char *p = text, *end = text + length;
  int year, month, day, hour, minute, second, milliseconds, offset;
  if (!take_digits(&p, end, 4, &year) || !take_char(&p, end, '-') ||
      !take_digits(&p, end, 2, &month) || !take_char(&p, end, '-') ||
      !take_digits(&p, end, 2, &day) || p == end)
    return unknown;
  if (*p != 'T' && *p != 't' && *p != ' ') return unknown;
  p++;
  if (!take_clock(&p, end, &hour, &minute, &second) || !take_fraction(&p, end, &milliseconds) ||
      !take_offset(&p, end, &offset) || p != end)
    return unknown;
  struct moment moment = moment_at(year, month, day, hour, minute, second);
  if (moment.known) moment.epoch_ms += milliseconds - (int64_t)offset * 60000;
  return moment;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT", the form that every server sends today. */
static struct moment read_fixdate(const char *p, const char *end) {
  static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
  const struct moment unknown = {false, 0};
  int day, month = 0, year, hour, minute, second;
  if (end - p != 29 || memcmp(p + 3, ", ", 2) != 0 || memcmp(end - 4, " GMT", 4) != 0)
    return unknown;
  p += 5;
  if (!take_digits(&p, end, 2, &day) || !take_char(&p, end, ' ')) return unknown;
  while (month < 12 && memcmp(p, names + (ptrdiff_t)month * 3, 3) != 0)
    month++;
  p += 3;
  if (month == 12 || !take_char(&p, end, ' ') || !take_digits(&p, end, 4, &year) ||
      !take_char(&p, end, ' ') || !take_clock(&p, end, &hour, &minute, &second))
    return unknown;
  return moment_at(year, month + 1, day, hour, minute, second);
}

struct moment lifetime_read_http_date(const char *text, size_t length) {
  struct moment moment = read_fixdate(text, text + length);
  char copy[64];
  if (moment.known || length >= sizeof copy) return moment;
  memcpy(copy, text, length);
  copy[length] = '\0';
  time_t seconds = curl_getdate(copy, NULL);
  if (seconds == (time_t)-1 || seconds > LAST_SECOND) return moment;
  moment.known = true;
  moment.epoch_ms = (int64_t)seconds * 1000;
  return moment;
}

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

/* Does the token's own exp count? */
static bool has_bound(const struct lifetime_facts *facts) {
  const struct jwt_times *jwt = &facts->jwt;
  return facts->date.known && jwt->has_exp && (!jwt->has_iat || jwt->exp > jwt->iat);
}

/* exp - Date where it bounds the life further, else left. Doubles, as exp may be anything. */
static int64_t bound_by_claims(const struct lifetime_facts *facts, int64_t left) {
  if (!has_bound(facts)) return left;
  double bound = facts->jwt.exp * 1000 - (double)facts->date.epoch_ms;
  if (bound >= (double)left) return left;
  return bound <= 0 ? 0 : (int64_t)bound;
}

int64_t lifetime_left_ms(const struct lifetime_facts *facts) {
  int64_t whole = facts->expires_in * 1000, left = whole;
  if (facts->issued_at.known && facts->date.known) {
    int64_t age = facts->date.epoch_ms - facts->issued_at.epoch_ms;
    if (age >= 0 && age <= whole) left -= age;
  }
  return bound_by_claims(facts, left);
}

int64_t lifetime_leeway_ms(const struct lifetime_facts *facts, int64_t left_ms) {
  int64_t leeway = left_ms / 10 < 10000 ? left_ms / 10 : 10000;
  int64_t least = left_ms / 2 < 1000 ? left_ms / 2 : 1000;
  return has_bound(facts) && leeway < least ? least : leeway;
}

int64_t lifetime_window_ms(int64_t left_ms, struct jitter *jitter) {
  int64_t fifth = left_ms / 5;
  double window = (double)(fifth < 300000 ? fifth : 300000);
  return (int64_t)(window * jitter_factor(jitter));
}
