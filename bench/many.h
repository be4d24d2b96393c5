/* Many token requests at once as a careful C user of libcurl would send them: with one multi handle
 * and MANY_PARALLEL easy handles, set up once, that keep their connections. many_close frees all.
 */
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
  int copies; /* whether each request gets a new handle, as is safe with libcurl before 8.1 */
  /* Unless NULL, called with each answer. Returns NULL, or why it cannot be used. */
  const char *(*take)(void *context, const struct easy *easy);
  void *context;
};

/* Sets up a zeroed struct many, for HTTP/1.1 or for HTTP/2. Returns 0, or -1 if libcurl fails; the
 * caller must call many_close in both cases. */
int many_open(struct many *many, const char *url, const char *cacert, const char *id_token,
              int http2);

/* Fetches count tokens, each for another repository. Returns NULL if the server answered all with
 * 200, else the reason of the failure; then the struct can only be closed. */
const char *many_fetch(struct many *many, long count);

void many_close(struct many *many);

#endif
