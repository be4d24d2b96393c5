/* Many token requests at once as a careful C user of libcurl would send them: one multi handle and
 * MANY_PARALLEL easy handles, set up once and kept with their connections. many_close frees all. */
#ifndef BENCH_MANY_H
#define BENCH_MANY_H

#include "easy.h"

enum { MANY_PARALLEL = 16 };

struct many {
  CURLM *multi;
  const char *url; /* the caller's; without a query */
  struct easy easies[MANY_PARALLEL];
  long next, last; /* numbers of requests */
  int active;
};

/* Sets up a zeroed struct many, for HTTP/1.1 or for HTTP/2. Returns 0, or -1 when libcurl refuses;
 * many_close is due in both cases. */
int many_open(struct many *many, const char *url, const char *cacert, const char *id_token,
              int http2);

/* Fetches count tokens, each for a repository of its own. Returns NULL when the server answered all
 * with 200, else what went wrong; the struct can only be closed then. */
const char *many_fetch(struct many *many, long count);

void many_close(struct many *many);

#endif
