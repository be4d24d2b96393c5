/* endpoint.c - the endpoint's address: builds the URL from its parts and has libcurl parse it
 * again, so that no part can direct the request to another host or path. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ascii.h"

static enum endpoint_result refuse_option(char *problem, const char *text) {
  snprintf(problem, ENDPOINT_PROBLEM_SIZE, "%s", text);
  return ENDPOINT_WRONG;
}

/* Writes the host as URLs need it: with brackets around an IPv6 address. */
static enum endpoint_result append_host(struct buffer *url, const char *host, char *problem) {
  if (strpbrk(host, "/\\?#@% ") != NULL)
    return refuse_option(problem,
                         "option 'host' must be just a host name or an IP address, without "
                         "user name, path, query, zone or '%'; pass a URL as option 'url'");
  const char *colon = strchr(host, ':');
  bool bare_ipv6 = host[0] != '[' && colon != NULL && strchr(colon + 1, ':') != NULL;
  if (host[0] != '[' && colon != NULL && !bare_ipv6)
    return refuse_option(problem,
                         "option 'host' must not contain a port; pass it as option 'port'");
  bool ok = bare_ipv6 ? buffer_append_string(url, "[") && buffer_append_string(url, host) &&
                            buffer_append_string(url, "]")
                      : buffer_append_string(url, host);
  return ok ? ENDPOINT_OK : ENDPOINT_NO_MEMORY;
}

static enum endpoint_result join_parts(struct buffer *url, const struct settings *settings,
                                       char *problem) {
  char port[32];
  if (settings->path[0] != '/' || strpbrk(settings->path, "?#\\ ") != NULL)
    return refuse_option(problem,
                         "option 'path' must begin with '/' and contain no query, fragment, "
                         "backslash or space");
  if (!buffer_append_string(url, "https://")) return ENDPOINT_NO_MEMORY;
  enum endpoint_result result = append_host(url, settings->host, problem);
  if (result != ENDPOINT_OK) return result;
  snprintf(port, sizeof port, ":%ld", (long)settings->port);
  return buffer_append_string(url, port) && buffer_append_string(url, settings->path)
             ? ENDPOINT_OK
             : ENDPOINT_NO_MEMORY;
}

/* libcurl is too tolerant here: it accepts extra slashes and obfuscated hosts. */
static enum endpoint_result check_form(const char *url, char *problem) {
  static const char *const starts[] = {"https://", "http://"};
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    size_t length = strlen(starts[i]);
    if (!ascii_begins(url, strlen(url), starts[i])) continue;
    size_t authority = strcspn(url + length, "/?#");
    if (authority == 0) return refuse_option(problem, "option 'url' must contain a host name");
    if (strcspn(url + length, "%\\") < authority)
      return refuse_option(problem, "option 'url' must not contain '%' or a backslash in its host");
    return ENDPOINT_OK;
  }
  return refuse_option(problem,
                       "option 'url' must begin with https:// (or http://, for this machine)");
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

/* Does the resolve option map this host to other addresses? Its items are "host:port:address". */
static bool is_mapped(const struct string_list *resolve, const char *host) {
  size_t length = strlen(host);
  for (size_t i = 0; i < resolve->count; i++) {
    const char *item = resolve->item[i];
    if (ascii_begins(item, strlen(item), host) && item[length] == ':') return true;
  }
  return false;
}

static enum endpoint_result check_scheme(struct endpoint *endpoint, const char *scheme,
                                         const struct settings *settings, char *problem) {
  endpoint->https = strcmp(scheme, "https") == 0;
  if (endpoint->https) return ENDPOINT_OK;
  if (settings->proxy != NULL && settings->proxy[0] != '\0')
    return refuse_option(
        problem, "option 'proxy' cannot be combined with a plain http endpoint: the proxy would "
                 "see the credential");
  if (!endpoint->loopback && !settings->allow_http)
    return refuse_option(problem,
                         "option 'url' is plain http to another machine, which would show the "
                         "credential to the network; use https, or pass allow_http = true");
  return ENDPOINT_OK;
}

/* Describes libcurl's error for the URL without quoting any of it. */
static enum endpoint_result refuse_url(CURLUcode code, const struct settings *settings,
                                       char *problem) {
  const char *name = settings->url != NULL ? "url" : "host";
  if (code == CURLUE_OUT_OF_MEMORY) return ENDPOINT_NO_MEMORY;
  if (code == CURLUE_USER_NOT_ALLOWED)
    return refuse_option(problem,
                         "option 'url' must not contain a user name or password; pass username and "
                         "password as options");
  snprintf(problem, ENDPOINT_PROBLEM_SIZE, "option '%s' does not form a valid URL (%s)", name,
           curl_url_strerror(code));
  return ENDPOINT_WRONG;
}

static bool is_ascii(const char *text) {
  while (*text != '\0' && (unsigned char)*text < 0x80)
    text++;
  return *text == '\0';
}

/* Can libcurl use the host? It converts a name that is not ASCII in the locale of the process, and
 * libcurl 7.88 reports out of memory if that fails. Without IDN it uses the name unchanged. */
static bool is_usable(CURLU *parsed, const char *host) {
  char *converted = NULL;
  if (is_ascii(host)) return true;
  CURLUcode code = curl_url_get(parsed, CURLUPART_HOST, &converted, CURLU_PUNYCODE);
  curl_free(converted);
  return code == CURLUE_OK || code == CURLUE_LACKS_IDN;
}

static enum endpoint_result wrong_host(const struct settings *settings, char *problem) {
  snprintf(problem, ENDPOINT_PROBLEM_SIZE,
           "option '%s' has a host name that libcurl cannot convert to ASCII in this locale; write "
           "it in its ASCII form (xn--...)",
           settings->url != NULL ? "url" : "host");
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

/* The parts that libcurl has parsed must equal the given ones. */
static enum endpoint_result check_parts(struct endpoint *endpoint, const struct parts *parts,
                                        const struct settings *settings, char *problem) {
  if (parts->fragment.length > 0)
    return refuse_option(problem, "option 'url' must not contain a fragment ('#')");
  endpoint->port = (int)strtol(parts->port.data, NULL, 10);
  if (endpoint->port == 0) /* reserved (RFC 6335 section 6), but libcurl accepts it */
    return refuse_option(problem, "option 'url' must not have port 0");
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
  enum endpoint_result result;
  CURLUcode code = curl_url_set(parsed, CURLUPART_URL, url, CURLU_DISALLOW_USER);
  if (!code) code = read_parts(parsed, &parts, endpoint);
  if (code)
    result = refuse_url(code, settings, problem);
  else if (!is_usable(parsed, parts.host.data))
    result = wrong_host(settings, problem);
  else
    result = check_parts(endpoint, &parts, settings, problem);
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
