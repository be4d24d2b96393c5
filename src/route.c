/* route.c - whether an attempt used a proxy or connected directly to the endpoint, and which proxy
 * it used. */
#include "route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The addresses for a rehearsal: every name at either port has one address, which is never
 * contacted. */
enum { RULE_SIZE = 32 };

static curl_socket_t note_port(void *data, curlsocktype purpose, struct curl_sockaddr *address) {
  int *port = data;
  (void)purpose;
  *port = pool_address_port(address);
  return CURL_SOCKET_BAD;
}

static struct curl_slist *map_ports(int first, int second) {
  char rule[RULE_SIZE];
  snprintf(rule, sizeof rule, "*:%d:127.0.0.1", first);
  struct curl_slist *rules = curl_slist_append(NULL, rule);
  snprintf(rule, sizeof rule, "*:%d:127.0.0.1", second);
  struct curl_slist *both = rules == NULL ? NULL : curl_slist_append(rules, rule);
  if (both == NULL) curl_slist_free_all(rules);
  return both;
}

/* libcurl before 8.7 does not report whether it used a proxy, and a proxy may have the endpoint's
 * port number. So a rehearsal connects to the endpoint's host at another port: if the connection
 * goes to the former port, it goes to a proxy. No DNS lookup is made and no socket is opened. */
static bool rehearse_connection(int called, const struct settings *settings,
                                const struct endpoint *endpoint) {
  int other = called == 1 ? 2 : 1, port = other;
  CURL *easy = curl_easy_init();
  struct curl_slist *rules = map_ports(called, other);
  if (easy != NULL && rules != NULL) {
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_URL, endpoint->shown.data);
    curl_easy_setopt(easy, CURLOPT_PORT, (long)other);
    curl_easy_setopt(easy, CURLOPT_RESOLVE, rules);
    transfer_set_proxy(easy, settings, endpoint);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, note_port);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, &port);
    curl_easy_perform(easy);
  }
  curl_slist_free_all(rules);
  if (easy != NULL) curl_easy_cleanup(easy);
  return port == called;
}

/* Returns 1 if libcurl reports that the transfer used a proxy, 0 if it reports that it used none,
 * and -1 if it does not report it. */
static int read_used_proxy(const struct transfer *transfer) {
#if LIBCURL_VERSION_NUM >= 0x080700
  long used = 0;
  if (curl_easy_getinfo(transfer->easy, CURLINFO_USED_PROXY, &used) == CURLE_OK) return used != 0;
#else
  (void)transfer;
#endif
  return -1;
}

bool route_used_proxy(const struct transfer *transfer, const struct context *context) {
  const struct settings *settings = context->settings;
  const struct endpoint *endpoint = context->endpoint;
  int called = transfer->opener.last_port;
  if (called == 0 && settings->proxy != NULL && settings->proxy[0] != '\0') return true;
  if (called != 0 && called != endpoint->port) return true;
  int used = read_used_proxy(transfer);
  if (used != -1) return used == 1;
  return called != 0 && rehearse_connection(called, settings, endpoint);
}

/* If the lookup fails before libcurl first looks for its result, libcurl 8.14 to 8.19 return the
 * code for the endpoint's name in place of the one for the proxy's. */
bool route_looked_up_proxy(const struct transfer *transfer) {
  return transfer->result == CURLE_COULDNT_RESOLVE_PROXY ||
         (transfer->result == CURLE_COULDNT_RESOLVE_HOST && transfer->opener.last_port == 0 &&
          read_used_proxy(transfer) == 1);
}

bool route_awaited_tunnel(const struct transfer *transfer, const struct context *context) {
  return !transfer->ready && transfer_info(transfer, CURLINFO_HTTP_CONNECTCODE) == 0 &&
         route_used_proxy(transfer, context);
}

/* Returns the environment variable from which libcurl takes the proxy for https; NULL if none is
 * set. */
static const char *find_variable(void) {
  static const char *const names[] = {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *value = getenv(names[i]);
    if (value != NULL && value[0] != '\0') return names[i];
  }
  return NULL;
}

/* A URL with an '@' but without a user name is a mistake: a part of its password may have been
 * parsed as the host. */
static bool is_safe(CURLU *parsed, const char *text) {
  char *user = NULL;
  bool safe =
      strchr(text, '@') == NULL || curl_url_get(parsed, CURLUPART_USER, &user, 0) == CURLUE_OK;
  curl_free(user);
  return safe;
}

/* Writes host and port of a proxy's URL, or nothing if they cannot be determined. */
static void write_place(const char *text, char *out, size_t size) {
  CURLU *parsed = curl_url();
  char *host = NULL, *port = NULL;
  out[0] = '\0';
  if (parsed != NULL &&
      curl_url_set(parsed, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME | CURLU_GUESS_SCHEME) ==
          CURLUE_OK &&
      is_safe(parsed, text) && curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
    curl_url_get(parsed, CURLUPART_PORT, &port, 0);
    snprintf(out, size, " %s%s%s", host, port == NULL ? "" : ":", port == NULL ? "" : port);
  }
  curl_free(host);
  curl_free(port);
  if (parsed != NULL) curl_url_cleanup(parsed);
}

void route_describe_proxy(const struct settings *settings, char out[ROUTE_PROXY_SIZE]) {
  char place[ROUTE_PROXY_SIZE - 64];
  const char *variable = settings->proxy == NULL ? find_variable() : NULL;
  const char *text = variable == NULL ? settings->proxy : getenv(variable);
  write_place(text == NULL ? "" : text, place, sizeof place);
  snprintf(out, ROUTE_PROXY_SIZE, "the proxy%s comes from %s%s", place,
           variable == NULL ? "option proxy" : "the environment's ",
           variable == NULL ? "" : variable);
}

struct span route_find_password(const char *proxy) {
  const struct span none = {NULL, 0};
  if (proxy == NULL) return none;
  const char *start = strstr(proxy, "://");
  const char *user = start != NULL ? start + 3 : proxy;
  const char *at = strrchr(user, '@'), *colon = strchr(user, ':');
  if (at == NULL || colon == NULL || colon > at) return none;
  return (struct span){colon + 1, (size_t)(at - colon - 1)};
}
