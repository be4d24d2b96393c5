/* url.c - fuzzes endpoints: the input is the option url, and once more the option host. What is
 * accepted must be where the credential may go, however libcurl reads it. */
#include <assert.h>
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "../src/buffer.h"
#include "../src/endpoint.h"

/* A part of a URL as libcurl parses it again; an absent one is "". */
static char *get_part(const char *url, CURLUPart what, unsigned flags) {
  CURLU *parsed = curl_url();
  char *part = NULL;
  if (parsed == NULL) abort();
  assert(curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK);
  curl_url_get(parsed, what, &part, flags);
  char *copy = strdup(part != NULL ? part : "");
  if (copy == NULL) abort();
  curl_free(part);
  curl_url_cleanup(parsed);
  return copy;
}

static void check_absent(const char *url, CURLUPart what) {
  char *part = get_part(url, what, 0);
  assert(part[0] == '\0');
  free(part);
}

static void check_endpoint(const struct endpoint *endpoint, const struct settings *settings) {
  const char *url = endpoint->url.data;
  char *scheme = get_part(url, CURLUPART_SCHEME, 0);
  char *port = get_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT);
  char *host = get_part(url, CURLUPART_HOST, 0);
  assert(endpoint->port >= 1 && endpoint->port <= 65535 &&
         endpoint->port == strtol(port, NULL, 10));
  assert(strcmp(scheme, endpoint->https ? "https" : "http") == 0);
  assert(endpoint->https || endpoint->loopback || settings->allow_http);
  assert(host[0] != '\0' && strpbrk(host, "/?#@\\ ") == NULL);
  assert(strncmp(endpoint->authority.data, host, strlen(host)) == 0);
  assert(strchr(endpoint->shown.data, '?') == NULL);
  check_absent(url, CURLUPART_USER);
  check_absent(url, CURLUPART_PASSWORD);
  check_absent(url, CURLUPART_FRAGMENT);
  for (const char *p = url; *p != '\0'; p++)
    assert((unsigned char)*p > ' ' && *p != 0x7F);

  struct endpoint sibling = {0};
  assert(endpoint_build_sibling(&sibling, endpoint, "/idprovider/v1/auth/identitytoken"));
  char *other = get_part(sibling.url.data, CURLUPART_HOST, 0);
  assert(strcmp(other, host) == 0 && sibling.port == endpoint->port);
  check_absent(sibling.url.data, CURLUPART_QUERY);
  endpoint_free(&sibling);
  free(other);
  free(scheme);
  free(port);
  free(host);
}

static void try_settings(const struct settings *settings) {
  struct endpoint endpoint = {0};
  char problem[ENDPOINT_PROBLEM_SIZE] = "";
  enum endpoint_result result = endpoint_build(&endpoint, settings, problem);
  if (result == ENDPOINT_OK) check_endpoint(&endpoint, settings);
  if (result == ENDPOINT_WRONG) assert(problem[0] != '\0' && strpbrk(problem, "\r\n") == NULL);
  assert(result != ENDPOINT_NO_MEMORY);
  endpoint_free(&endpoint);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  char *text = malloc(size + 1);
  if (text == NULL) abort();
  if (size == 0) {
    free(text);
    return 0;
  }
  bool allow_http = (data[0] & 1) != 0;
  memcpy(text, data + 1, size - 1);
  text[size - 1] = '\0';
  /* as options.c checks it: no control character, not empty */
  for (char *p = text; *p != '\0'; p++)
    if ((unsigned char)*p < 0x20 || *p == 0x7F) *p = ' ';
  if (text[0] != '\0') {
    const struct settings by_url = {.url = text, .allow_http = allow_http};
    const struct settings by_host = {.host = text, .port = 8443, .path = "/t"};
    const struct settings by_path = {.host = "localhost", .port = 8443, .path = text};
    try_settings(&by_url);
    try_settings(&by_host);
    try_settings(&by_path);
  }
  free(text);
  return 0;
}
