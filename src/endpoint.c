/* endpoint.c - where to ask: builds the URL from its parts and has libcurl parse it again, so that
 * nothing in a part can move the request to another place. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ascii.h"

static enum endpoint_result wrong(char *problem, const char *text) {
  snprintf(problem, ENDPOINT_PROBLEM_SIZE, "%s", text);
  return ENDPOINT_WRONG;
}

/* The host as a URL wants it: an IPv6 number gets its brackets. */
static enum endpoint_result append_host(struct buffer *url, const char *host, char *problem) {
  if (strpbrk(host, "/\\?#@% ") != NULL)
    return wrong(problem, "option 'host' must be a host name or an IP number alone, without "
                          "user name, path, query, zone or '%'; a URL goes into option 'url'");
  const char *colon = strchr(host, ':');
  bool bare_ipv6 = host[0] != '[' && colon != NULL && strchr(colon + 1, ':') != NULL;
  if (host[0] != '[' && colon != NULL && !bare_ipv6)
    return wrong(problem, "option 'host' must not hold a port; give it as option 'port'");
  bool ok = bare_ipv6 ? buffer_append_string(url, "[") && buffer_append_string(url, host) &&
                            buffer_append_string(url, "]")
                      : buffer_append_string(url, host);
  return ok ? ENDPOINT_OK : ENDPOINT_NO_MEMORY;
}

static enum endpoint_result join_parts(struct buffer *url, const struct settings *settings,
                                       char *problem) {
  char port[32];
  if (settings->path[0] != '/' || strpbrk(settings->path, "?#\\ ") != NULL)
    return wrong(problem, "option 'path' must begin with '/' and hold no query, fragment, "
                          "backslash or space");
  if (!buffer_append_string(url, "https://")) return ENDPOINT_NO_MEMORY;
  enum endpoint_result result = append_host(url, settings->host, problem);
  if (result != ENDPOINT_OK) return result;
  snprintf(port, sizeof port, ":%ld", (long)settings->port);
  return buffer_append_string(url, port) && buffer_append_string(url, settings->path)
             ? ENDPOINT_OK
             : ENDPOINT_NO_MEMORY;
}

/* libcurl forgives more than is good here: slashes too many, and a host in disguise. */
static enum endpoint_result check_form(const char *url, char *problem) {
  static const char *const starts[] = {"https://", "http://"};
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    size_t length = strlen(starts[i]);
    if (!ascii_begins(url, starts[i], length)) continue;
    size_t authority = strcspn(url + length, "/?#");
    if (authority == 0) return wrong(problem, "option 'url' must hold a host name");
    if (strcspn(url + length, "%\\") < authority)
      return wrong(problem, "option 'url' must not hold '%' or a backslash in its host");
    return ENDPOINT_OK;
  }
  return wrong(problem, "option 'url' must begin with https:// (or http://, for this machine)");
}

/* Copies one part of the parsed URL; an absent part is an empty string. */
static CURLUcode copy_part(CURLU *parsed, CURLUPart what, unsigned flags, CURLUcode absent,
                           struct buffer *out) {
  char *part = NULL;
  CURLUcode code = curl_url_get(parsed, what, &part, flags);
  if (code == absent) code = CURLUE_OK;
  if (code == CURLUE_OK && !buffer_append_string(out, part != NULL ? part : ""))
    code = CURLUE_OUT_OF_MEMORY;
  curl_free(part);
  return code;
}

static bool is_loopback(const char *host) {
  struct in_addr ipv4;
  struct in6_addr ipv6;
  char bare[64];
  size_t length = strlen(host);
  if (ascii_same(host, "localhost")) return true;
  if (inet_pton(AF_INET, host, &ipv4) == 1) return ntohl(ipv4.s_addr) >> 24 == 127;
  if (host[0] != '[' || length - 2 >= sizeof bare) return false;
  memcpy(bare, host + 1, length - 2);
  bare[length - 2] = '\0';
  return inet_pton(AF_INET6, bare, &ipv6) == 1 && IN6_IS_ADDR_LOOPBACK(&ipv6);
}

/* Does the resolve option send this host elsewhere? Its items are "host:port:address". */
static bool is_mapped(const struct string_list *resolve, const char *host) {
  size_t length = strlen(host);
  for (size_t i = 0; i < resolve->count; i++) {
    const char *item = resolve->item[i];
    if (ascii_begins(item, host, length) && item[length] == ':') return true;
  }
  return false;
}

static enum endpoint_result check_scheme(struct endpoint *endpoint, const char *scheme,
                                         const struct settings *settings, char *problem) {
  endpoint->https = strcmp(scheme, "https") == 0;
  if (endpoint->https) return ENDPOINT_OK;
  if (settings->proxy != NULL && settings->proxy[0] != '\0')
    return wrong(problem, "option 'proxy' cannot go with a plain http endpoint: the proxy would "
                          "see the credential");
  if (!endpoint->loopback && !settings->allow_http)
    return wrong(problem, "option 'url' is plain http to another machine, which would show the "
                          "credential to the network; use https, or pass allow_http = true");
  return ENDPOINT_OK;
}

/* What is wrong with the URL by libcurl's word, said without quoting any of it. */
static enum endpoint_result refuse_url(CURLUcode code, const struct settings *settings,
                                       char *problem) {
  const char *name = settings->url != NULL ? "url" : "host";
  if (code == CURLUE_OUT_OF_MEMORY) return ENDPOINT_NO_MEMORY;
  if (code == CURLUE_USER_NOT_ALLOWED)
    return wrong(problem, "option 'url' must not hold a user name or password; pass username and "
                          "password as options");
  snprintf(problem, ENDPOINT_PROBLEM_SIZE, "option '%s' is not one that a URL can be made of (%s)",
           name, curl_url_strerror(code));
  return ENDPOINT_WRONG;
}

struct parts {
  struct buffer scheme, host, port, fragment, query;
};

static void parts_free(struct parts *parts) {
  buffer_free(&parts->scheme);
  buffer_free(&parts->host);
  buffer_free(&parts->port);
  buffer_free(&parts->fragment);
  buffer_free(&parts->query);
}

static CURLUcode read_parts(CURLU *parsed, struct parts *parts, struct endpoint *endpoint) {
  CURLUcode code = copy_part(parsed, CURLUPART_SCHEME, 0, CURLUE_NO_SCHEME, &parts->scheme);
  if (!code) code = copy_part(parsed, CURLUPART_HOST, 0, CURLUE_NO_HOST, &parts->host);
  if (!code)
    code = copy_part(parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT, CURLUE_NO_PORT, &parts->port);
  if (!code) code = copy_part(parsed, CURLUPART_FRAGMENT, 0, CURLUE_NO_FRAGMENT, &parts->fragment);
  if (!code) code = copy_part(parsed, CURLUPART_QUERY, 0, CURLUE_NO_QUERY, &parts->query);
  if (!code) code = copy_part(parsed, CURLUPART_URL, 0, CURLUE_OK, &endpoint->url);
  if (!code) code = curl_url_set(parsed, CURLUPART_QUERY, NULL, 0);
  if (!code) code = copy_part(parsed, CURLUPART_URL, 0, CURLUE_OK, &endpoint->shown);
  return code;
}

/* The parts that libcurl read must be the parts that were given. */
static enum endpoint_result check_parts(struct endpoint *endpoint, const struct parts *parts,
                                        const struct settings *settings, char *problem) {
  if (parts->fragment.length > 0)
    return wrong(problem, "option 'url' must not hold a fragment ('#')");
  endpoint->port = (int)strtol(parts->port.data, NULL, 10);
  if (endpoint->port == 0) /* reserved (RFC 6335 section 6); libcurl takes it */
    return wrong(problem, "option 'url' must not have port 0");
  endpoint->has_query = parts->query.length > 0;
  endpoint->loopback =
      is_loopback(parts->host.data) && !is_mapped(&settings->resolve, parts->host.data);
  if (!buffer_append(&endpoint->authority, parts->host.data, parts->host.length) ||
      !buffer_append_string(&endpoint->authority, ":") ||
      !buffer_append(&endpoint->authority, parts->port.data, parts->port.length))
    return ENDPOINT_NO_MEMORY;
  return check_scheme(endpoint, parts->scheme.data, settings, problem);
}

static enum endpoint_result parse_url(struct endpoint *endpoint, const char *url,
                                      const struct settings *settings, char *problem) {
  CURLU *parsed = curl_url();
  struct parts parts = {0};
  if (parsed == NULL) return ENDPOINT_NO_MEMORY;
  CURLUcode code = curl_url_set(parsed, CURLUPART_URL, url, CURLU_DISALLOW_USER);
  if (!code) code = read_parts(parsed, &parts, endpoint);
  enum endpoint_result result =
      code ? refuse_url(code, settings, problem) : check_parts(endpoint, &parts, settings, problem);
  parts_free(&parts);
  curl_url_cleanup(parsed);
  return result;
}

enum endpoint_result endpoint_build(struct endpoint *endpoint, const struct settings *settings,
                                    char problem[ENDPOINT_PROBLEM_SIZE]) {
  enum endpoint_result result;
  struct buffer joined = {0};
  if (settings->url != NULL) {
    result = check_form(settings->url, problem);
    return result == ENDPOINT_OK ? parse_url(endpoint, settings->url, settings, problem) : result;
  }
  result = join_parts(&joined, settings, problem);
  if (result == ENDPOINT_OK) result = parse_url(endpoint, joined.data, settings, problem);
  buffer_free(&joined);
  return result;
}

bool endpoint_build_sibling(struct endpoint *sibling, const struct endpoint *endpoint,
                            const char *path) {
  CURLU *parsed = curl_url();
  if (parsed == NULL) return false;
  sibling->port = endpoint->port;
  sibling->https = endpoint->https;
  sibling->loopback = endpoint->loopback;
  CURLUcode code = curl_url_set(parsed, CURLUPART_URL, endpoint->shown.data, 0);
  if (!code) code = curl_url_set(parsed, CURLUPART_PATH, path, 0);
  if (!code) code = copy_part(parsed, CURLUPART_URL, 0, CURLUE_OK, &sibling->url);
  curl_url_cleanup(parsed);
  return code == CURLUE_OK && buffer_append_string(&sibling->shown, sibling->url.data) &&
         buffer_append_string(&sibling->authority, endpoint->authority.data);
}

void endpoint_free(struct endpoint *endpoint) {
  buffer_free(&endpoint->url);
  buffer_free(&endpoint->shown);
  buffer_free(&endpoint->authority);
}
