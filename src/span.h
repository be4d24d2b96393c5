/* span.h - a run of bytes inside somebody else's memory. */
#ifndef ICPTOKEN_SPAN_H
#define ICPTOKEN_SPAN_H

#include <stddef.h>

struct span {
  const char *start;
  size_t length;
};

#endif
