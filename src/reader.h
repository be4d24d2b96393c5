/* reader.h - the data besides the answer itself that reading an answer needs. */
#ifndef ICPTOKEN_READER_H
#define ICPTOKEN_READER_H

#include "buffer.h"
#include "diagnose.h"
#include "jitter.h"

struct reader {
  int decode; /* (pseudo-)index of the function that json_push_decoder made */
  const struct context *context;
  struct buffer *scratch;
  struct jitter *jitter;
};

#endif
