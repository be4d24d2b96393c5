/* The token request as a careful C user of libcurl would send it (see easy.h). Every option is set
 * only once, as setting it again for each fetch would cost time. */
#include "easy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_START = 4096, BODY_MAX = 1048576 };

static int reserve_body(struct easy *easy, size_t needed) {
  size_t capacity = easy->capacity ? easy->capacity : BODY_START;
  while (capacity < needed)
    capacity *= 2;
  if (capacity == easy->capacity) return 0;
  char *body = realloc(easy->body, capacity);
  if (!body) return -1;
  easy->body = body;
  easy->capacity = capacity;
  return 0;
}

static size_t receive_body(char *data, size_t size, size_t count, void *context) {
  struct easy *easy = context;
  size_t length = size * count;
  if (length > BODY_MAX - easy->length || reserve_body(easy, easy->length + length)) return 0;
  memcpy(easy->body + easy->length, data, length);
  easy->length += length;
  return length;
}

// NOLINTNEXTLINE(readability-non-const-parameter): the type is libcurl's
static size_t count_header(char *data, size_t size, size_t count, void *context) {
  struct easy *easy = context;
  (void)data;
  easy->header_lines++;
  return size * count;
}

static int add_header(struct easy *easy, const char *line) {
  struct curl_slist *headers = curl_slist_append(easy->headers, line);
  if (!headers) return -1;
  easy->headers = headers;
  return 0;
}

static int add_authorization(struct easy *easy, const char *id_token) {
  static const char start[] = "Authorization: Bearer ";
  size_t size = sizeof start + strlen(id_token);
  char *line = malloc(size);
  if (!line) return -1;
  snprintf(line, size, "%s%s", start, id_token);
  int failed = add_header(easy, line);
  free(line);
  return failed;
}

static int set_options(struct easy *easy, const char *url, const char *cacert) {
  CURL *curl = easy->curl;
  int failed = 0;
  failed |= curl_easy_setopt(curl, CURLOPT_URL, url) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https") != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_HTTPHEADER, easy->headers) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_USERAGENT, "bench") != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_CAINFO, cacert) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_CAPATH, NULL) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 30000L) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, 10000L) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_QUICK_EXIT, 1L) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive_body) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_WRITEDATA, easy) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, count_header) != CURLE_OK;
  failed |= curl_easy_setopt(curl, CURLOPT_HEADERDATA, easy) != CURLE_OK;
  return failed ? -1 : 0;
}

int easy_open(struct easy *easy, const char *url, const char *cacert, const char *id_token) {
  easy->curl = curl_easy_init();
  if (!easy->curl || add_authorization(easy, id_token) ||
      add_header(easy, "Accept: application/json"))
    return -1;
  return set_options(easy, url, cacert);
}

void easy_begin(struct easy *easy) {
  easy->length = 0;
  easy->header_lines = 0;
}

const char *easy_judge(const struct easy *easy, CURLcode result) {
  long status = 0;
  if (result != CURLE_OK) return curl_easy_strerror(result);
  curl_easy_getinfo(easy->curl, CURLINFO_RESPONSE_CODE, &status);
  return status == 200 && easy->header_lines > 0 ? NULL : "the answer is not a 200";
}

int easy_copy_handles(struct easy *easy) {
  easy->multi = curl_multi_init();
  return easy->multi ? 0 : -1;
}

int easy_replace_handle(struct easy *easy) {
  CURL *copy = curl_easy_duphandle(easy->curl);
  if (!copy) return -1;
  curl_easy_cleanup(easy->curl);
  easy->curl = copy;
  return 0;
}

static CURLcode perform_copy(struct easy *easy) {
  enum { WAIT_MS = 1000 };
  int running = 1, left;
  if (easy->used && easy_replace_handle(easy)) return CURLE_OUT_OF_MEMORY;
  easy->used = 1;
  if (curl_multi_add_handle(easy->multi, easy->curl)) return CURLE_OUT_OF_MEMORY;
  for (;;) {
    if (curl_multi_perform(easy->multi, &running)) return CURLE_OUT_OF_MEMORY;
    if (!running) break;
    curl_multi_poll(easy->multi, NULL, 0, WAIT_MS, NULL);
  }
  const CURLMsg *message = curl_multi_info_read(easy->multi, &left);
  CURLcode result = message ? message->data.result : CURLE_OUT_OF_MEMORY;
  curl_multi_remove_handle(easy->multi, easy->curl);
  return result;
}

const char *easy_fetch(struct easy *easy) {
  easy_begin(easy);
  return easy_judge(easy, easy->multi ? perform_copy(easy) : curl_easy_perform(easy->curl));
}

void easy_close(struct easy *easy) {
  curl_easy_cleanup(easy->curl);
  if (easy->multi) curl_multi_cleanup(easy->multi);
  curl_slist_free_all(easy->headers);
  free(easy->body);
  *easy = (struct easy){0};
}
