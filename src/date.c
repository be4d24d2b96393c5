/* date.c - points in time in the formats of answers: RFC 3339 and the HTTP dates of RFC 9110. */
#include "date.h"

#include <stdio.h>
#include <string.h>

#define DAY_SECONDS INT64_C(86400)
#define MIN_SECOND (-INT64_C(62167219200)) /* 0000-01-01 00:00:00 */
#define MAX_SECOND INT64_C(253402300799)   /* 9999-12-31 23:59:59 */

enum { MAX_YEARS_AHEAD = 50 };

/* The proleptic Gregorian calendar repeats itself every 400 years. */
enum { CYCLE_YEARS = 400, CYCLE_DAYS = 146097 };

/* Days from 0000-03-01, where a cycle starts, to 1970-01-01. */
enum { DAYS_TO_1970 = 719468 };

static const struct moment unknown = {false, 0};

/* A date and a time of day in UTC. */
struct civil {
  int64_t year;
  int month, day, hour, minute, second;
};

/* What is left of a text. */
struct cursor {
  const char *next, *end;
};

/* A division that rounds down. */
static int64_t floor_div(int64_t value, int64_t by) {
  return value / by - (value % by < 0 ? 1 : 0);
}

/* Returns the days from 1970-01-01 to a date. Years start in March, so that the leap day is the
 * last day of a year. */
static int64_t days_from_date(int64_t year, int month, int day) {
  if (month <= 2) year--;
  int64_t cycle = floor_div(year, CYCLE_YEARS);
  int64_t year_of_cycle = year - cycle * CYCLE_YEARS;
  int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  int64_t day_of_cycle =
      year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
  return cycle * CYCLE_DAYS + day_of_cycle - DAYS_TO_1970;
}

/* The inverse of days_from_date: the date that many days after 1970-01-01. */
static void date_from_days(int64_t days, struct civil *civil) {
  days += DAYS_TO_1970;
  int64_t cycle = floor_div(days, CYCLE_DAYS);
  int64_t day = days - cycle * CYCLE_DAYS;
  int64_t year = (day - day / 1460 + day / 36524 - day / (CYCLE_DAYS - 1)) / 365;
  day -= year * 365 + year / 4 - year / 100;
  int64_t month = (5 * day + 2) / 153; /* 0 is March */
  civil->day = (int)(day - (153 * month + 2) / 5) + 1;
  civil->month = (int)(month < 10 ? month + 3 : month - 9);
  civil->year = year + cycle * CYCLE_YEARS + (civil->month <= 2 ? 1 : 0);
}

static struct civil civil_from_seconds(int64_t seconds) {
  struct civil civil;
  int64_t days = floor_div(seconds, DAY_SECONDS);
  int rest = (int)(seconds - days * DAY_SECONDS);
  date_from_days(days, &civil);
  civil.hour = rest / 3600;
  civil.minute = rest / 60 % 60;
  civil.second = rest % 60;
  return civil;
}

static int days_in_month(int64_t year, int month) {
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return month == 2 && leap ? 29 : days[month - 1];
}

/* Returns the point in time of a date and time of which only month and day are still unchecked. */
static struct moment moment_at(const struct civil *at) {
  if (at->month < 1 || at->month > 12 || at->day < 1 ||
      at->day > days_in_month(at->year, at->month))
    return unknown;
  int64_t days = days_from_date(at->year, at->month, at->day);
  int64_t minutes = (days * 24 + at->hour) * 60 + at->minute;
  int64_t seconds = minutes * 60 + at->second;
  return (struct moment){true, seconds * 1000};
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/* Reads a number of at least min and at most max digits. */
static bool take_number(struct cursor *text, int min, int max, int *value) {
  int number = 0, count = 0;
  for (; count < max && text->next < text->end && is_digit(*text->next); count++)
    number = number * 10 + (*text->next++ - '0');
  *value = number;
  return count >= min;
}

static bool take_digits(struct cursor *text, int count, int *value) {
  return take_number(text, count, count, value);
}

static bool take_char(struct cursor *text, char wanted) {
  if (text->next == text->end || *text->next != wanted) return false;
  text->next++;
  return true;
}

/* Reads one space or several. */
static bool take_spaces(struct cursor *text) {
  if (!take_char(text, ' ')) return false;
  while (take_char(text, ' '))
    continue;
  return true;
}

/* hh:mm:ss */
static bool take_time(struct cursor *text, struct civil *at) {
  return take_digits(text, 2, &at->hour) && take_char(text, ':') &&
         take_digits(text, 2, &at->minute) && take_char(text, ':') &&
         take_digits(text, 2, &at->second) && at->hour <= 23 && at->minute <= 59 &&
         at->second <= 60; /* 60: a leap second */
}

/* Reads the fraction of a second, if there is one, in milliseconds. */
static bool take_fraction(struct cursor *text, int *milliseconds) {
  *milliseconds = 0;
  if (!take_char(text, '.')) return true;
  int unit = 100, digits = 0;
  for (; text->next < text->end && is_digit(*text->next); text->next++, digits++) {
    *milliseconds += (*text->next - '0') * unit;
    unit /= 10;
  }
  return digits > 0;
}

/* Reads the offset from UTC, "+hh:mm" or without colon "+hhmm", in minutes. */
static bool take_offset(struct cursor *text, bool colon, int *minutes) {
  int hour, minute;
  bool west = take_char(text, '-');
  if ((!west && !take_char(text, '+')) || !take_digits(text, 2, &hour) ||
      (colon && !take_char(text, ':')) || !take_digits(text, 2, &minute) || hour > 23 ||
      minute > 59)
    return false;
  *minutes = (west ? -1 : 1) * (hour * 60 + minute);
  return true;
}

struct moment date_read_rfc3339(const char *text, size_t length) {
  struct cursor rest = {text, text + length};
  struct civil at;
  int year, milliseconds, offset = 0;
  if (!take_digits(&rest, 4, &year) || !take_char(&rest, '-') ||
      !take_digits(&rest, 2, &at.month) || !take_char(&rest, '-') ||
      !take_digits(&rest, 2, &at.day) ||
      (!take_char(&rest, 'T') && !take_char(&rest, 't') && !take_char(&rest, ' ')) ||
      !take_time(&rest, &at) || !take_fraction(&rest, &milliseconds) ||
      (!take_char(&rest, 'Z') && !take_char(&rest, 'z') && !take_offset(&rest, true, &offset)) ||
      rest.next != rest.end)
    return unknown;
  at.year = year;
  struct moment moment = moment_at(&at);
  if (moment.known) moment.epoch_ms += milliseconds - (int64_t)offset * 60000;
  return moment;
}

/* Reads a word of letters and returns its first three in lower case. */
static bool take_word(struct cursor *text, char start[4]) {
  size_t length = 0;
  for (; text->next < text->end && is_letter(*text->next); text->next++, length++)
    if (length < 3) start[length] = (char)(*text->next | 0x20); /* ASCII's small letter */
  start[length < 3 ? length : 3] = '\0';
  return length >= 3;
}

/* Returns the position, counted from 1, of a name in a string of three-letter names; 0 if it is not
 * there. */
static int find_name(const char *names, const char name[4]) {
  for (int i = 0; names[(ptrdiff_t)i * 3] != '\0'; i++)
    if (memcmp(names + (ptrdiff_t)i * 3, name, 3) == 0) return i + 1;
  return 0;
}

static bool take_month(struct cursor *text, int *month) {
  char name[4];
  const char *start = text->next;
  if (!take_word(text, name) || text->next - start != 3) return false;
  *month = find_name("janfebmaraprmayjunjulaugsepoctnovdec", name);
  return *month > 0;
}

/* Skips the day of the week with the comma and the spaces after it, if there is one. */
static bool skip_weekday(struct cursor *text) {
  struct cursor ahead = *text;
  char name[4];
  if (!take_word(&ahead, name) || find_name("sunmontuewedthufrisat", name) == 0) return true;
  bool comma = take_char(&ahead, ',');
  *text = ahead;
  return take_spaces(text) || comma;
}

/* Reads the zone at the end: GMT by any of its names, or an offset, in minutes. */
static bool take_zone(struct cursor *text, int *minutes) {
  static const char *const names[] = {"GMT", "UTC", "UT", "Z"};
  size_t left = (size_t)(text->end - text->next);
  *minutes = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strlen(names[i]) == left && memcmp(text->next, names[i], left) == 0) return true;
  return take_offset(text, false, minutes) && text->next == text->end;
}

/* Returns a number that orders points in time within a year. */
static int64_t order_in_year(const struct civil *at) {
  return (((at->month * INT64_C(32) + at->day) * 24 + at->hour) * 60 + at->minute) * 61 +
         at->second;
}

/* The whole year that two digits stand for. */
static int64_t complete_year(int digits, const struct civil *at, int64_t now_ms) {
  struct civil now = civil_from_seconds(floor_div(now_ms, 1000));
  int64_t latest = now.year + MAX_YEARS_AHEAD;
  int64_t year = latest - (latest - digits) % 100;
  bool too_late = year == latest && order_in_year(at) > order_in_year(&now);
  return too_late ? year - 100 : year;
}

/* Reads "Nov  6 08:49:37 1994", the remainder of the third form. */
static struct moment read_asctime(struct cursor text) {
  struct civil at;
  int year;
  if (!take_month(&text, &at.month) || !take_spaces(&text) || !take_number(&text, 1, 2, &at.day) ||
      !take_spaces(&text) || !take_time(&text, &at) || !take_spaces(&text) ||
      !take_digits(&text, 4, &year) || text.next != text.end)
    return unknown;
  at.year = year;
  return moment_at(&at);
}

struct moment date_read_http(const char *text, size_t length, int64_t now_ms) {
  struct cursor rest = {text, text + length};
  struct civil at;
  int year, offset;
  if (!skip_weekday(&rest)) return unknown;
  if (rest.next < rest.end && is_letter(*rest.next)) return read_asctime(rest);
  if (!take_number(&rest, 1, 2, &at.day)) return unknown;
  bool dashes = take_char(&rest, '-');
  if ((!dashes && !take_spaces(&rest)) || !take_month(&rest, &at.month) ||
      !(dashes ? take_char(&rest, '-') : take_spaces(&rest)))
    return unknown;
  const char *digits = rest.next;
  if (!take_number(&rest, 2, 4, &year) || rest.next - digits == 3) return unknown;
  bool whole = rest.next - digits == 4;
  if (!take_spaces(&rest) || !take_time(&rest, &at) || !take_spaces(&rest) ||
      !take_zone(&rest, &offset))
    return unknown;
  at.year = whole ? year : complete_year(year, &at, now_ms);
  struct moment moment = moment_at(&at);
  if (moment.known) moment.epoch_ms -= (int64_t)offset * 60000;
  return moment;
}

const char *date_write_utc(int64_t seconds, char out[DATE_UTC_SIZE]) {
  out[0] = '\0';
  if (seconds < MIN_SECOND || seconds > MAX_SECOND) return out;
  struct civil at = civil_from_seconds(seconds);
  snprintf(out, DATE_UTC_SIZE, "%04d-%02d-%02d %02d:%02d:%02d UTC", (int)at.year, at.month, at.day,
           at.hour, at.minute, at.second);
  return out;
}
