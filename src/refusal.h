/* refusal.h - remembers a refused credential: it is not sent again during a pause, so that polling
 * with a wrong password does not lock an account. A zeroed struct refusal is a valid empty one. */
#ifndef ICPTOKEN_REFUSAL_H
#define ICPTOKEN_REFUSAL_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "failure.h"

#pragma GCC visibility push(hidden)

/* Times are milliseconds of the steady clock. */
struct refusal {
  struct failure failure; /* the failure of that request */
  struct buffer
      line; /* the refused Authorization header; empty for user name and password of a login */
  const char *url;            /* of the endpoint that refused, for details.url */
  int64_t until_ms, pause_ms; /* pause_ms is 0 when nothing is remembered */
};

/* Records that this line, or with an empty one the login, was refused at the time now. The pause is
 * 1 s, and doubles up to 60 s while the same credential is refused again. url must live as long as
 * the struct. */
void refusal_note(struct refusal *refusal, const struct buffer *line, const struct failure *failure,
                  const char *url, int64_t now);

/* Is the pause of this line, or with an empty one of the login, in force at the time now? */
bool refusal_holds(const struct refusal *refusal, const struct buffer *line, int64_t now);

/* Sets failure for a request that is not sent during the pause, and returns the URL. */
const char *refusal_tell(const struct refusal *refusal, struct failure *failure, int64_t now);

/* Forgets the refusal, because the credential was accepted. */
void refusal_forget(struct refusal *refusal);

void refusal_free(struct refusal *refusal);

#pragma GCC visibility pop

#endif
