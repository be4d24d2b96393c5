/* refusal.c - remembers a refused credential. */
#include "refusal.h"

#include <string.h>

enum { MIN_PAUSE_MS = 1000, MAX_PAUSE_MS = 60000 };

static bool is_about(const struct refusal *refusal, const struct buffer *line) {
  return refusal->pause_ms > 0 && refusal->line.length == line->length &&
         (line->length == 0 || memcmp(refusal->line.data, line->data, line->length) == 0);
}

void refusal_note(struct refusal *refusal, const struct buffer *line, const struct failure *failure,
                  const char *url, int64_t now) {
  int64_t pause = is_about(refusal, line) ? refusal->pause_ms * 2 : MIN_PAUSE_MS;
  refusal_forget(refusal);
  if (!buffer_append(&refusal->line, line->length > 0 ? line->data : "", line->length)) return;
  refusal->pause_ms = pause < MAX_PAUSE_MS ? pause : MAX_PAUSE_MS;
  refusal->until_ms = now + refusal->pause_ms;
  refusal->failure = *failure;
  refusal->url = url;
}

bool refusal_holds(const struct refusal *refusal, const struct buffer *line, int64_t now) {
  return is_about(refusal, line) && now < refusal->until_ms;
}

const char *refusal_tell(const struct refusal *refusal, struct failure *failure, int64_t now) {
  *failure = refusal->failure;
  failure->attempts = 0;
  failure_add(failure, "; it is not sent again for %d s",
              (int)((refusal->until_ms - now + 999) / 1000));
  return refusal->url;
}

void refusal_forget(struct refusal *refusal) {
  buffer_clear(&refusal->line);
  refusal->pause_ms = 0;
}

void refusal_free(struct refusal *refusal) {
  buffer_free(&refusal->line);
  refusal->pause_ms = 0;
}
