/* The token request as a careful C user of libcurl would send it: one easy handle, set up once,
 * kept with its connection. All baselines use it: bare.c as it is, many.c sixteen of them at once,
 * baseline.c with the decoding that any Lua client needs. The handle, the header list and the body
 * belong to struct easy; easy_close frees all three. */
#ifndef BENCH_EASY_H
#define BENCH_EASY_H

#include <stddef.h>

#include <curl/curl.h>

struct easy {
  CURL *curl;
  struct curl_slist *headers;
  char *body; /* the last answer: length bytes, not terminated */
  size_t length;
  size_t capacity;
  size_t header_lines;
};

/* Sets up a zeroed struct easy. Returns 0, or -1 when libcurl refuses; easy_close is due in both
 * cases. */
int easy_open(struct easy *easy, const char *url, const char *cacert, const char *id_token);

/* Fetches once. Returns NULL when the server answered 200, else what went wrong. */
const char *easy_fetch(struct easy *easy);

/* The two halves of a fetch, for who performs the transfer himself: before it, and after it. */
void easy_begin(struct easy *easy);
const char *easy_judge(const struct easy *easy, CURLcode result);

void easy_close(struct easy *easy);

#endif
