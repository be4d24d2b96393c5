/* transfer.c - one request and its answer over libcurl: an easy handle that is set up once and used
 * again and again, and what the last answer brought.
 * No Lua runs inside libcurl's callbacks: an error there would jump across libcurl's frames. */
#include "transfer.h"

#include <stdio.h>
#include <string.h>

#include "ascii.h"
#include "clock.h"
#include "span.h"
#include "version.h"

static bool has_name(const char *line, size_t length, const char *name, size_t name_length) {
  if (length <= name_length || line[name_length] != ':') return false;
  for (size_t i = 0; i < name_length; i++)
    if ((line[i] | 0x20) != name[i]) return false;
  return true;
}

/* The value of the header line when it is the one named, else one whose start is NULL. */
static struct span header_value(const char *line, size_t length, const char *name) {
  size_t name_length = strlen(name);
  struct span value = {NULL, 0};
  if (!has_name(line, length, name, name_length)) return value;
  value.start = line + name_length + 1;
  value.length = length - name_length - 1;
  while (value.length > 0 && (*value.start == ' ' || *value.start == '\t'))
    value.start++, value.length--;
  while (value.length > 0 && (unsigned char)value.start[value.length - 1] <= ' ')
    value.length--;
  return value;
}

/* A value that does not fit is not kept. */
static void keep_value(struct span value, char *room, size_t size) {
  if (value.start == NULL || value.length >= size) return;
  memcpy(room, value.start, value.length);
  room[value.length] = '\0';
}

/* Of a Location that does not fit, scheme and host are kept alone: half a path could hide that it
 * holds a secret. */
static void keep_location(struct answer *answer, struct span value) {
  static const char too_long[] = "a place too long to show";
  if (value.start != NULL && value.length >= sizeof answer->location) {
    const char *path = memchr(value.start, '/', 10); /* of "https://", if that is how it begins */
    if (path != NULL && path[1] == '/') path = memchr(path + 2, '/', TRANSFER_VALUE_SIZE / 2);
    bool named = path != NULL && path[0] == '/' && path > value.start;
    value = named ? (struct span){value.start, (size_t)(path - value.start) + 1}
                  : (struct span){too_long, sizeof too_long - 1};
  }
  keep_value(value, answer->location, sizeof answer->location);
}

/* A status line begins an answer: an interim one, a proxy's to CONNECT, or the one asked for. Only
 * what comes after the last of them counts. */
static void begin_head(struct answer *answer, const char *line, size_t length) {
  answer->head_complete = false;
  answer->framed = length > 5 && line[5] != '1';
  answer->date.known = false;
  answer->cached_ms = 0;
  answer->challenge[0] = '\0';
  answer->retry_after[0] = '\0';
  answer->location[0] = '\0';
}

/* Whole seconds; more than a number holds counts as a lifetime. */
static int64_t read_age_ms(struct span value) {
  int64_t seconds = 0;
  for (size_t i = 0; i < value.length; i++) {
    if (value.start[i] < '0' || value.start[i] > '9') return 0;
    if (seconds < INT32_MAX) seconds = seconds * 10 + (value.start[i] - '0');
  }
  return seconds * 1000;
}

static void keep_challenge(struct answer *answer, struct span value) {
  static const char bearer[] = "bearer";
  bool named =
      value.length >= sizeof bearer - 1 && ascii_begins(value.start, bearer, sizeof bearer - 1);
  if (named || answer->challenge[0] == '\0')
    keep_value(value, answer->challenge, sizeof answer->challenge);
}

static void read_header(struct answer *answer, const char *line, size_t length) {
  struct span value;
  switch (line[0] | 0x20) {
  case 'c':
    if (header_value(line, length, "content-length").start != NULL) answer->framed = true;
    break;
  case 't':
    if (header_value(line, length, "transfer-encoding").start != NULL) answer->framed = true;
    break;
  case 'd':
    value = header_value(line, length, "date");
    if (value.start != NULL)
      answer->date = date_read_http(value.start, value.length, clock_wall_ms());
    break;
  case 'a':
    value = header_value(line, length, "age");
    if (value.start != NULL) answer->cached_ms = read_age_ms(value);
    break;
  case 'w':
    keep_challenge(answer, header_value(line, length, "www-authenticate"));
    break;
  case 'l':
    keep_location(answer, header_value(line, length, "location"));
    break;
  case 'r':
    keep_value(header_value(line, length, "retry-after"), answer->retry_after,
               sizeof answer->retry_after);
    break;
  default:
    break;
  }
}

static size_t take_header(char *line, size_t size, size_t count, void *data) {
  struct transfer *transfer = data;
  struct answer *answer = &transfer->answer;
  size_t length = size * count;
  answer->head_bytes += length;
  if (answer->head_bytes > TRANSFER_HEAD_LIMIT) {
    answer->too_large = true;
    return 0;
  }
  if (length >= 5 && memcmp(line, "HTTP/", 5) == 0)
    begin_head(answer, line, length);
  else if (length > 0 && (line[0] == '\r' || line[0] == '\n'))
    answer->head_complete = line[length - 1] == '\n'; /* of a head cut off there may be a lone CR */
  else if (length > 0 && !answer->head_complete)      /* what follows the body is a trailer */
    read_header(answer, line, length);
  return length;
}

static size_t take_body(char *bytes, size_t size, size_t count, void *data) {
  struct transfer *transfer = data;
  struct answer *answer = &transfer->answer;
  size_t length = size * count;
  if (length > transfer->body_limit - answer->body.length) {
    answer->too_large = true;
    return 0;
  }
  return buffer_append(&answer->body, bytes, length) ? length : 0;
}

static int take_debug(CURL *easy, curl_infotype type, char *bytes, size_t size, void *data) {
  struct transfer *transfer = data;
  (void)easy;
  handshake_note(&transfer->handshake, type, bytes, size);
  return 0;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the type is libcurl's */
static int take_readiness(void *data, char *peer, char *own, int peer_port, int own_port) {
  struct transfer *transfer = data;
  (void)peer;
  (void)own;
  (void)peer_port;
  (void)own_port;
  transfer->ready = true;
  return CURL_PREREQFUNC_OK;
}

static bool append_line(struct curl_slist **list, const char *line) {
  struct curl_slist *longer = curl_slist_append(*list, line);
  if (longer == NULL) return false;
  *list = longer;
  return true;
}

static bool append_all(struct curl_slist **list, const struct string_list *lines) {
  for (size_t i = 0; i < lines->count; i++)
    if (!append_line(list, lines->item[i])) return false;
  return true;
}

/* Sets options until one is refused, and remembers which. */
struct setup {
  CURL *easy;
  struct transfer_problem *problem;
};

static bool note_refusal(const struct setup *setup, CURLcode code, const char *option) {
  *setup->problem = (struct transfer_problem){code, option};
  return code == CURLE_OK;
}

#define SET(setup, option, value)                                                                  \
  do {                                                                                             \
    if ((setup)->problem->code == CURLE_OK)                                                        \
      note_refusal(setup, curl_easy_setopt((setup)->easy, option, value), #option);                \
  } while (0)

static void set_headers(const struct setup *setup, struct transfer *transfer,
                        const struct settings *settings) {
  bool whole = settings->own_accept || append_line(&transfer->headers, "Accept: application/json");
  if (!whole || !append_all(&transfer->headers, &settings->headers))
    note_refusal(setup, CURLE_OUT_OF_MEMORY, "CURLOPT_HTTPHEADER");
  else
    SET(setup, CURLOPT_HTTPHEADER, transfer->headers);
}

/* Tells a transfer's handle where the transfer is. */
static void set_transfer(const struct setup *setup, struct transfer *transfer) {
  SET(setup, CURLOPT_PRIVATE, transfer);
  SET(setup, CURLOPT_ERRORBUFFER, transfer->error);
  SET(setup, CURLOPT_HEADERDATA, transfer);
  SET(setup, CURLOPT_WRITEDATA, transfer);
  SET(setup, CURLOPT_DEBUGDATA, transfer);
  SET(setup, CURLOPT_PREREQDATA, transfer);
}

static void set_behaviour(const struct setup *setup, struct transfer *transfer) {
  set_transfer(setup, transfer);
  SET(setup, CURLOPT_HEADERFUNCTION, take_header);
  SET(setup, CURLOPT_WRITEFUNCTION, take_body);
  SET(setup, CURLOPT_DEBUGFUNCTION, take_debug);
  SET(setup, CURLOPT_PREREQFUNCTION, take_readiness);
  SET(setup, CURLOPT_NOSIGNAL, 1L);
  SET(setup, CURLOPT_QUICK_EXIT, 1L); /* or a limit would wait for the name lookup's thread */
  SET(setup, CURLOPT_FOLLOWLOCATION, 0L);
  SET(setup, CURLOPT_HTTP09_ALLOWED, 0L);
  SET(setup, CURLOPT_ACCEPT_ENCODING, "identity"); /* and what comes compressed is decoded */
  SET(setup, CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE); /* a CONNECT never carries ours */
  SET(setup, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
  SET(setup, CURLOPT_TCP_KEEPALIVE, 1L);
}

/* A PEM file without a certificate, which OpenSSL takes all the same: an empty revocation list. It
 * has no effect, as revocation is not checked. */
#define TRUST_NOBODY                                                                               \
  "-----BEGIN X509 CRL-----\n"                                                                     \
  "MIG5MGACAQEwCgYIKoZIzj0EAwIwITEfMB0GA1UEAwwWaWNwdG9rZW4gdHJ1c3Rz\n"                             \
  "IG5vYm9keRcNNzAwMTAxMDAwMDAwWhcNNzAwMTAxMDAwMDAxWqAOMAwwCgYDVR0U\n"                             \
  "BAMCAQEwCgYIKoZIzj0EAwIDSQAwRgIhANgbDUFEAYbazs2z64d5RCtiZuJGtYRf\n"                             \
  "G6v5zpbC0GPJAiEAr4vUGM4nws2QKiRWTTJn48CzRLRnokHZ4HmqUn1LiJI=\n"                                 \
  "-----END X509 CRL-----\n"

static bool is_openssl(CURL *easy) {
  const struct curl_tlssessioninfo *info = NULL;
  curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info);
  return info != NULL && info->backend == CURLSSLBACKEND_OPENSSL;
}

/* From 8.17 to 8.22 libcurl puts the default that is built in in the place of an option that is
 * NULL. */
static bool brings_default_back(void) {
  unsigned version = curl_version_info(CURLVERSION_NOW)->version_num;
  return version >= 0x081100 && version < 0x081700;
}

/* Makes cacert, capath or both replace the trust that is built into libcurl, which has one default
 * for each. The one that was not given is set to something that trusts nobody: a directory that
 * cannot exist, and a blob, which stands in the place of the file. */
static void replace_trust(const struct setup *setup, const struct settings *settings) {
  bool openssl = is_openssl(setup->easy);
  if (!openssl && brings_default_back()) note_refusal(setup, CURLE_NOT_BUILT_IN, "CURLOPT_CAINFO");
  SET(setup, CURLOPT_CAINFO, settings->cacert);
  if (settings->cacert == NULL && openssl) {
    char pem[] = TRUST_NOBODY;
    struct curl_blob blob = {pem, sizeof pem - 1, CURL_BLOB_COPY};
    SET(setup, CURLOPT_CAINFO_BLOB, &blob);
  }
  if (settings->capath != NULL)
    SET(setup, CURLOPT_CAPATH, settings->capath);
  else /* a libcurl without a built-in directory may refuse */
    curl_easy_setopt(setup->easy, CURLOPT_CAPATH, openssl ? "/dev/null" : NULL);
  curl_easy_setopt(setup->easy, CURLOPT_CA_CACHE_TIMEOUT, 0L); /* fails where there is none */
  SET(setup, CURLOPT_SSL_SESSIONID_CACHE, 0L); /* a resumed session would not look at the CA */
}

static void set_trust(const struct setup *setup, const struct settings *settings) {
  if (settings->cacert != NULL || settings->capath != NULL) replace_trust(setup, settings);
  SET(setup, CURLOPT_SSL_VERIFYPEER, settings->insecure ? 0L : 1L);
  SET(setup, CURLOPT_SSL_VERIFYHOST, settings->insecure ? 0L : 2L);
  SET(setup, CURLOPT_SSLVERSION,
      (long)(strcmp(settings->tls_min, "1.3") == 0 ? CURL_SSLVERSION_TLSv1_3
                                                   : CURL_SSLVERSION_TLSv1_2));
  if (settings->pinned_public_key != NULL)
    SET(setup, CURLOPT_PINNEDPUBLICKEY, settings->pinned_public_key);
  if (settings->cert != NULL) SET(setup, CURLOPT_SSLCERT, settings->cert);
  if (settings->key != NULL) SET(setup, CURLOPT_SSLKEY, settings->key);
  /* without one OpenSSL would ask at the terminal, and wait */
  SET(setup, CURLOPT_KEYPASSWD, settings->key_password != NULL ? settings->key_password : "");
}

CURLcode transfer_set_proxy(CURL *easy, const struct settings *settings,
                            const struct endpoint *endpoint) {
  /* a proxy would see the credential that goes over plain http, the environment's as well */
  const char *proxy = endpoint->https ? settings->proxy : "";
  CURLcode code = CURLE_OK;
  if (proxy != NULL) code = curl_easy_setopt(easy, CURLOPT_PROXY, proxy);
  if (!code && settings->no_proxy != NULL)
    code = curl_easy_setopt(easy, CURLOPT_NOPROXY, settings->no_proxy);
  return code;
}

static void set_network(const struct setup *setup, const struct endpoint *endpoint,
                        const struct settings *settings) {
  char agent[96];
  SET(setup, CURLOPT_PROTOCOLS_STR, endpoint->https ? "https" : "http");
  SET(setup, CURLOPT_HTTP_VERSION,
      (long)(strcmp(settings->http_version, "2") == 0 ? CURL_HTTP_VERSION_2TLS
                                                      : CURL_HTTP_VERSION_1_1));
  /* rather a stream on the first connection than a second one */
  if (strcmp(settings->http_version, "2") == 0) SET(setup, CURLOPT_PIPEWAIT, 1L);
  if (setup->problem->code == CURLE_OK)
    note_refusal(setup, transfer_set_proxy(setup->easy, settings, endpoint), "CURLOPT_PROXY");
  snprintf(agent, sizeof agent, "icptoken/%s libcurl/%s", ICPTOKEN_VERSION,
           curl_version_info(CURLVERSION_NOW)->version);
  SET(setup, CURLOPT_USERAGENT, settings->user_agent != NULL ? settings->user_agent : agent);
}

/* libcurl keeps the list itself and not a copy, so it lives as long as the handle. */
static void set_addresses(const struct setup *setup, struct transfer *transfer,
                          const struct string_list *resolve) {
  if (!append_all(&transfer->addresses, resolve))
    note_refusal(setup, CURLE_OUT_OF_MEMORY, "CURLOPT_RESOLVE");
  else if (resolve->count > 0)
    SET(setup, CURLOPT_RESOLVE, transfer->addresses);
}

bool transfer_open(struct transfer *transfer, struct pool *pool, const struct endpoint *endpoint,
                   const struct settings *settings, struct transfer_problem *problem) {
  const struct setup setup = {curl_easy_init(), problem};
  transfer->easy = setup.easy;
  transfer->opener.pool = pool;
  if (setup.easy == NULL) return note_refusal(&setup, CURLE_OUT_OF_MEMORY, "curl_easy_init");
  *problem = (struct transfer_problem){CURLE_OK, NULL};
  transfer->body_limit = (size_t)settings->max_body_bytes;
  set_headers(&setup, transfer, settings);
  set_behaviour(&setup, transfer);
  set_trust(&setup, settings);
  set_network(&setup, endpoint, settings);
  set_addresses(&setup, transfer, &settings->resolve);
  if (problem->code != CURLE_OK) return false;
  return note_refusal(&setup, pool_attach(&transfer->opener, setup.easy),
                      "CURLOPT_OPENSOCKETFUNCTION");
}

/* Puts the credential, if there is one, before the other headers. */
static void set_authorization(struct transfer *transfer) {
  transfer->authorization = (struct curl_slist){transfer->credential.data, transfer->headers};
  curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER,
                   transfer->credential.length == 0 ? transfer->headers : &transfer->authorization);
}

bool transfer_set_credential(struct transfer *transfer, const struct buffer *line) {
  buffer_clear(&transfer->credential);
  bool copied = buffer_append(&transfer->credential, line->data, line->length);
  if (!copied) buffer_clear(&transfer->credential);
  set_authorization(transfer);
  return copied;
}

void transfer_set_fresh(struct transfer *transfer, bool fresh) {
  if (transfer->fresh != fresh)
    curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, fresh ? 1L : 0L);
  transfer->fresh = fresh;
}

CURLcode transfer_set_form(struct transfer *transfer, struct buffer *form) {
  buffer_free(&transfer->form);
  transfer->form = *form;
  *form = (struct buffer){0};
  CURLcode code = curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDSIZE_LARGE,
                                   (curl_off_t)transfer->form.length);
  if (!code) code = curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, transfer->form.data);
  /* libcurl would send it again where a kept connection breaks */
  if (!code) code = curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, 1L);
  return code;
}

void transfer_clear_form(struct transfer *transfer) { buffer_clear(&transfer->form); }

static CURLcode set_url(struct transfer *transfer, const char *url) {
  if (transfer->url.length > 0 && strcmp(transfer->url.data, url) == 0) return CURLE_OK;
  buffer_clear(&transfer->url);
  CURLcode code = curl_easy_setopt(transfer->easy, CURLOPT_URL, url);
  if (code == CURLE_BAD_FUNCTION_ARGUMENT) return CURLE_URL_MALFORMAT; /* it is too long */
  if (code) return code;
  return buffer_append_string(&transfer->url, url) ? CURLE_OK : CURLE_OUT_OF_MEMORY;
}

static void set_limits(struct transfer *transfer, int64_t timeout_ms, int64_t connect_timeout_ms) {
  if (transfer->timeout_ms != timeout_ms)
    curl_easy_setopt(transfer->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
  if (transfer->connect_timeout_ms != connect_timeout_ms)
    curl_easy_setopt(transfer->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_timeout_ms);
  transfer->timeout_ms = timeout_ms;
  transfer->connect_timeout_ms = connect_timeout_ms;
}

CURLcode transfer_start(struct transfer *transfer, struct pool *pool, const char *url,
                        int64_t timeout_ms, int64_t connect_timeout_ms) {
  transfer_forget_answer(transfer);
  transfer->finished = false;
  transfer->result = CURLE_OK;
  transfer->ready = false;
  transfer->error[0] = '\0';
  transfer->handshake = (struct handshake){0};
  if (transfer->opener.last_port != 0) curl_easy_setopt(transfer->easy, CURLOPT_VERBOSE, 0L);
  transfer->opener.last_port = 0;
  transfer->opener.problem = transfer->opener.exhausted = 0;
  CURLcode code = set_url(transfer, url);
  if (code) return code;
  set_limits(transfer, timeout_ms, connect_timeout_ms);
  pool_drop_unclean(pool);
  if (curl_multi_add_handle(pool->multi, transfer->easy) != CURLM_OK) return CURLE_OUT_OF_MEMORY;
  transfer->active = true;
  pool->active++;
  return CURLE_OK;
}

/* Notes each transfer that libcurl reports as done; true when there was one. */
static bool collect_finished(struct pool *pool) {
  bool any = false;
  int left;
  for (CURLMsg *message; (message = curl_multi_info_read(pool->multi, &left)) != NULL;) {
    char *private = NULL;
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode result = message->data.result;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
    struct transfer *transfer = (struct transfer *)(void *)private;
    transfer->result = result;
    transfer->finished = true;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &transfer->answer.status);
    any = true;
  }
  return any;
}

bool transfer_step(struct pool *pool, int wait_ms) {
  int running;
  if (curl_multi_perform(pool->multi, &running) != CURLM_OK) return false;
  if (collect_finished(pool)) return true;
  CURLMcode code = curl_multi_poll(pool->multi, NULL, 0, wait_ms, NULL);
  return code == CURLM_OK || code == CURLM_UNRECOVERABLE_POLL;
}

void transfer_stop(struct transfer *transfer, struct pool *pool) {
  if (!transfer->active) return;
  curl_multi_remove_handle(pool->multi, transfer->easy);
  transfer->active = false;
  pool->active--;
}

bool transfer_was_sent(const struct transfer *transfer) { return transfer->ready; }

void transfer_drop(struct transfer *transfer, struct pool *pool) {
  if (!transfer->active) return;
  curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 1L);
  transfer_stop(transfer, pool);
  curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 0L);
}

/* After the transfer has moved: what its handle points to is elsewhere. These options allocate
 * nothing, so they cannot fail where they did not before. */
static void follow_move(struct transfer *transfer) {
  struct transfer_problem problem = {CURLE_OK, NULL};
  const struct setup setup = {transfer->easy, &problem};
  set_transfer(&setup, transfer);
  set_authorization(transfer);
  pool_attach(&transfer->opener, transfer->easy);
}

void transfer_swap(struct transfer *a, struct transfer *b) {
  struct transfer moved = *a;
  *a = *b;
  *b = moved;
  follow_move(a);
  follow_move(b);
}

void transfer_forget_answer(struct transfer *transfer) {
  struct answer *answer = &transfer->answer;
  buffer_clear(&answer->body);
  begin_head(answer, "", 0);
  answer->status = 0;
  answer->head_bytes = 0;
  answer->too_large = false;
}

void transfer_close(struct transfer *transfer, struct pool *pool) {
  transfer_stop(transfer, pool);
  if (transfer->easy != NULL) curl_easy_cleanup(transfer->easy);
  curl_slist_free_all(transfer->headers);
  curl_slist_free_all(transfer->addresses);
  buffer_free(&transfer->credential);
  buffer_free(&transfer->form);
  buffer_free(&transfer->url);
  buffer_free(&transfer->answer.body);
  *transfer = (struct transfer){0};
}
