/* span.h - a range of bytes in memory that another object owns. */
#ifndef ICPTOKEN_SPAN_H
#define ICPTOKEN_SPAN_H

#include <stddef.h>

struct span {
  const char *start;
  size_t length;
};

#endif
