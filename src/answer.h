/* answer.h - the answer of an endpoint, collected as its header lines and its body arrive. A zeroed
 * struct answer is a valid empty one. */
#ifndef ICPTOKEN_ANSWER_H
#define ICPTOKEN_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "date.h"

#pragma GCC visibility push(hidden)

enum {
  ANSWER_HEAD_LIMIT = 64 * 1024, /* bytes of all headers, including interim answers and trailers */
  ANSWER_VALUE_SIZE = 512        /* of a header value that is stored, with its NUL */
};

/* An answer. */
struct answer {
  long status;
  struct buffer body;
  size_t head_bytes;
  bool head_complete; /* the blank line after the headers was received */
  bool framed;        /* the end of the body was marked by a length, chunks or HTTP/2 */
  bool too_large;
  struct moment date;
  int64_t cached_ms; /* header Age (RFC 9111 section 5.1) */
  char retry_after[64];
  char challenge[ANSWER_VALUE_SIZE]; /* WWW-Authenticate, that of scheme Bearer if there is one */
  char location[ANSWER_VALUE_SIZE];
};

/* Records a header line, a status line or a trailer. False if there are too many bytes of them. */
bool answer_read_line(struct answer *answer, const char *line, size_t length);

/* Appends to the body. False if it exceeds limit bytes, or out of memory. */
bool answer_append_body(struct answer *answer, const char *bytes, size_t length, size_t limit);

/* Wipes and empties the answer. */
void answer_forget(struct answer *answer);

#pragma GCC visibility pop

#endif
