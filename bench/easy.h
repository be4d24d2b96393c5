/* The token request as a careful C user of libcurl would send it: with one easy handle that is set
 * up once and keeps its connection. All baselines use it: bare.c directly, many.c with sixteen at
 * once, baseline.c with the decoding that any Lua client needs. struct easy owns the handle, the
 * header list and the body; easy_close frees all three. */
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
  CURLM *multi; /* NULL unless each fetch gets a new handle */
  int used;
};

/* Sets up a zeroed struct easy. Returns 0, or -1 if libcurl fails; the caller must call easy_close
 * in both cases. */
int easy_open(struct easy *easy, const char *url, const char *cacert, const char *id_token);

/* Makes each later fetch use a new handle, as is safe with libcurl before 8.1 (see
 * src/transfer.c), on a multi handle that keeps the connection. Returns 0, or -1. */
int easy_copy_handles(struct easy *easy);

/* Replaces the handle by a new one with the same options. Returns 0, or -1. */
int easy_replace_handle(struct easy *easy);

/* Fetches once. Returns NULL if the server answered 200, else the reason of the failure. */
const char *easy_fetch(struct easy *easy);

/* The parts of a fetch before and after the transfer, for callers that perform the transfer. */
void easy_begin(struct easy *easy);
const char *easy_judge(const struct easy *easy, CURLcode result);

void easy_close(struct easy *easy);

#endif
