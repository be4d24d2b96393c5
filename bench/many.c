/* Many token requests at once over one curl multi handle (see many.h). When a transfer is done, its
 * easy handle starts the next request. Apart from libcurl, only the URLs cost time. */
#include "many.h"

#include <stdio.h>

enum { WAIT_MS = 1000, URL_SIZE = 512, SCOPE_SIZE = 64 };

static int open_handle(struct many *many, struct easy *easy, const char *cacert,
                       const char *id_token, int http2) {
  if (easy_open(easy, many->url, cacert, id_token)) return -1;
  int failed = curl_easy_setopt(easy->curl, CURLOPT_PRIVATE, easy) != CURLE_OK;
  if (http2) {
    failed |= curl_easy_setopt(easy->curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS) !=
              CURLE_OK;
    failed |= curl_easy_setopt(easy->curl, CURLOPT_PIPEWAIT, 1L) != CURLE_OK;
  }
  return failed ? -1 : 0;
}

int many_open(struct many *many, const char *url, const char *cacert, const char *id_token,
              int http2) {
  many->multi = curl_multi_init();
  many->url = url;
  int failed = many->multi == NULL || curl_multi_setopt(many->multi, CURLMOPT_MAXCONNECTS,
                                                        (long)MANY_PARALLEL) != CURLM_OK;
  for (int i = 0; i < MANY_PARALLEL && !failed; i++)
    failed = open_handle(many, &many->easies[i], cacert, id_token, http2);
  return failed ? -1 : 0;
}

/* The URL of request n, as client:fetch_all builds it. */
static int set_url(const struct many *many, const struct easy *easy, long n) {
  char scope[SCOPE_SIZE], url[URL_SIZE];
  snprintf(scope, sizeof scope, "repository:default/app%ld:pull", n);
  char *encoded = curl_easy_escape(easy->curl, scope, 0);
  if (!encoded) return -1;
  snprintf(url, sizeof url, "%s?service=token-service&scope=%s", many->url, encoded);
  curl_free(encoded);
  return curl_easy_setopt(easy->curl, CURLOPT_URL, url) == CURLE_OK ? 0 : -1;
}

static const char *start_next(struct many *many, struct easy *easy) {
  if (many->next > many->last) return NULL;
  if (many->copies && easy_replace_handle(easy)) return "a handle cannot be copied";
  easy_begin(easy);
  if (set_url(many, easy, many->next) || curl_multi_add_handle(many->multi, easy->curl) != CURLM_OK)
    return "a request cannot be started";
  many->next++;
  many->active++;
  return NULL;
}

/* Takes each completed transfer and starts the next request on its handle. */
static const char *settle_done(struct many *many, int *settled) {
  const char *failure = NULL;
  int left;
  *settled = 0;
  for (CURLMsg *message;
       !failure && (message = curl_multi_info_read(many->multi, &left)) != NULL;) {
    char *private = NULL;
    CURLcode result = message->data.result;
    CURL *curl = message->easy_handle;
    curl_easy_getinfo(curl, CURLINFO_PRIVATE, &private);
    struct easy *easy = (struct easy *)(void *)private;
    curl_multi_remove_handle(many->multi, curl);
    many->active--;
    *settled = 1;
    failure = easy_judge(easy, result);
    if (!failure && many->take) failure = many->take(many->context, easy);
    if (!failure) failure = start_next(many, easy);
  }
  return failure;
}

const char *many_fetch(struct many *many, long count) {
  const char *failure = NULL;
  int running, settled;
  many->next = 1;
  many->last = count;
  for (int i = 0; i < MANY_PARALLEL && !failure; i++)
    failure = start_next(many, &many->easies[i]);
  while (!failure && many->active > 0) {
    if (curl_multi_perform(many->multi, &running) != CURLM_OK) return "curl_multi_perform failed";
    failure = settle_done(many, &settled);
    if (!failure && !settled) curl_multi_poll(many->multi, NULL, 0, WAIT_MS, NULL);
  }
  return failure;
}

void many_close(struct many *many) {
  for (int i = 0; i < MANY_PARALLEL; i++) {
    if (many->easies[i].curl) curl_multi_remove_handle(many->multi, many->easies[i].curl);
    easy_close(&many->easies[i]);
  }
  curl_multi_cleanup(many->multi);
  *many = (struct many){0};
}
