/* answer.c - the answer of an endpoint, collected as its header lines and its body arrive. */
#include "answer.h"

#include <string.h>

#include "ascii.h"
#include "clock.h"
#include "span.h"

/* Returns the value of a header line if it has this name, else one whose start is NULL. */
static struct span header_value(const char *line, size_t length, const char *name) {
  size_t name_length = strlen(name);
  struct span value = {NULL, 0};
  if (length <= name_length || line[name_length] != ':' || !ascii_begins(line, length, name))
    return value;
  value.start = line + name_length + 1;
  value.length = length - name_length - 1;
  while (value.length > 0 && (*value.start == ' ' || *value.start == '\t'))
    value.start++, value.length--;
  while (value.length > 0 && (unsigned char)value.start[value.length - 1] <= ' ')
    value.length--;
  return value;
}

/* A value that does not fit is not kept. */
static void keep_value(struct span value, char *room, size_t size) {
  if (value.start == NULL || value.length >= size) return;
  memcpy(room, value.start, value.length);
  room[value.length] = '\0';
}

/* Of a Location that is too long, only scheme and host are kept: a truncated path could hide that
 * it contains a secret. */
static void keep_location(struct answer *answer, struct span value) {
  static const char too_long[] = "a URL that is too long to show";
  if (value.start != NULL && value.length >= sizeof answer->location) {
    const char *path = memchr(value.start, '/', 10); /* of "https://", if that is how it begins */
    if (path != NULL && path[1] == '/') path = memchr(path + 2, '/', ANSWER_VALUE_SIZE / 2);
    bool named = path != NULL && path[0] == '/' && path > value.start;
    value = named ? (struct span){value.start, (size_t)(path - value.start) + 1}
                  : (struct span){too_long, sizeof too_long - 1};
  }
  keep_value(value, answer->location, sizeof answer->location);
}

/* A status line starts an answer: an interim one, a proxy's answer to CONNECT, or the final one.
 * Only what follows the last of them counts. */
static void begin_head(struct answer *answer, const char *line, size_t length) {
  answer->head_complete = false;
  answer->framed = length > 5 && line[5] != '1';
  answer->date.known = false;
  answer->cached_ms = 0;
  answer->challenge[0] = '\0';
  answer->retry_after[0] = '\0';
  answer->location[0] = '\0';
}

/* Whole seconds; a value that overflows counts as the maximum. */
static int64_t read_age_ms(struct span value) {
  int64_t seconds = 0;
  for (size_t i = 0; i < value.length; i++) {
    if (value.start[i] < '0' || value.start[i] > '9') return 0;
    if (seconds < INT32_MAX) seconds = seconds * 10 + (value.start[i] - '0');
  }
  return seconds * 1000;
}

static void keep_challenge(struct answer *answer, struct span value) {
  if (ascii_begins(value.start, value.length, "bearer") || answer->challenge[0] == '\0')
    keep_value(value, answer->challenge, sizeof answer->challenge);
}

static void read_header(struct answer *answer, const char *line, size_t length) {
  struct span value;
  switch (line[0] | 0x20) {
  case 'c':
    if (header_value(line, length, "content-length").start != NULL) answer->framed = true;
    break;
  case 't':
    if (header_value(line, length, "transfer-encoding").start != NULL) answer->framed = true;
    break;
  case 'd':
    value = header_value(line, length, "date");
    if (value.start != NULL)
      answer->date = date_read_http(value.start, value.length, clock_wall_ms());
    break;
  case 'a':
    value = header_value(line, length, "age");
    if (value.start != NULL) answer->cached_ms = read_age_ms(value);
    break;
  case 'w':
    keep_challenge(answer, header_value(line, length, "www-authenticate"));
    break;
  case 'l':
    keep_location(answer, header_value(line, length, "location"));
    break;
  case 'r':
    keep_value(header_value(line, length, "retry-after"), answer->retry_after,
               sizeof answer->retry_after);
    break;
  default:
    break;
  }
}

bool answer_read_line(struct answer *answer, const char *line, size_t length) {
  answer->head_bytes += length;
  if (answer->head_bytes > ANSWER_HEAD_LIMIT) {
    answer->too_large = true;
    return false;
  }
  if (length >= 5 && memcmp(line, "HTTP/", 5) == 0)
    begin_head(answer, line, length);
  else if (length > 0 && (line[0] == '\r' || line[0] == '\n'))
    answer->head_complete = line[length - 1] == '\n'; /* of a head cut off there may be a lone CR */
  else if (length > 0 && !answer->head_complete)      /* what follows the body is a trailer */
    read_header(answer, line, length);
  return true;
}

bool answer_append_body(struct answer *answer, const char *bytes, size_t length, size_t limit) {
  if (length > limit - answer->body.length) {
    answer->too_large = true;
    return false;
  }
  return buffer_append(&answer->body, bytes, length);
}

void answer_forget(struct answer *answer) {
  buffer_clear(&answer->body);
  begin_head(answer, "", 0);
  answer->status = 0;
  answer->head_bytes = 0;
  answer->too_large = false;
}
