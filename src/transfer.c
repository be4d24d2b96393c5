/* transfer.c - one request and its answer with libcurl: an easy handle that is set up once and
 * reused, and its last answer. No Lua runs inside libcurl's callbacks: an error there would longjmp
 * across libcurl's frames. */
#include "transfer.h"

#include <stdio.h>
#include <string.h>

#include "trust.h"
#include "version.h"

static size_t take_header(char *line, size_t size, size_t count, void *data) {
  struct transfer *transfer = data;
  size_t length = size * count;
  transfer->opener.pool->received++;
  return answer_read_line(&transfer->answer, line, length) ? length : 0;
}

static size_t take_body(char *bytes, size_t size, size_t count, void *data) {
  struct transfer *transfer = data;
  size_t length = size * count;
  transfer->opener.pool->received++;
  return answer_append_body(&transfer->answer, bytes, length, transfer->body_limit) ? length : 0;
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

static void set_headers(const struct setup *setup, struct transfer *transfer,
                        const struct settings *settings) {
  bool whole = settings->own_accept || append_line(&transfer->headers, "Accept: application/json");
  if (!whole || !append_all(&transfer->headers, &settings->headers))
    setup_note(setup, CURLE_OUT_OF_MEMORY, "CURLOPT_HTTPHEADER");
  else
    SETUP_SET(setup, CURLOPT_HTTPHEADER, transfer->headers);
}

/* Stores the address of a transfer in its handle. */
static void set_transfer(const struct setup *setup, struct transfer *transfer) {
  SETUP_SET(setup, CURLOPT_PRIVATE, transfer);
  SETUP_SET(setup, CURLOPT_ERRORBUFFER, transfer->error);
  SETUP_SET(setup, CURLOPT_HEADERDATA, transfer);
  SETUP_SET(setup, CURLOPT_WRITEDATA, transfer);
  SETUP_SET(setup, CURLOPT_DEBUGDATA, transfer);
  SETUP_SET(setup, CURLOPT_PREREQDATA, transfer);
}

static void set_behaviour(const struct setup *setup, struct transfer *transfer) {
  set_transfer(setup, transfer);
  SETUP_SET(setup, CURLOPT_HEADERFUNCTION, take_header);
  SETUP_SET(setup, CURLOPT_WRITEFUNCTION, take_body);
  SETUP_SET(setup, CURLOPT_DEBUGFUNCTION, take_debug);
  SETUP_SET(setup, CURLOPT_PREREQFUNCTION, take_readiness);
  SETUP_SET(setup, CURLOPT_NOSIGNAL, 1L);
  SETUP_SET(setup, CURLOPT_QUICK_EXIT,
            1L); /* otherwise a limit would wait for the thread of the DNS lookup */
  SETUP_SET(setup, CURLOPT_FOLLOWLOCATION, 0L);
  SETUP_SET(setup, CURLOPT_HTTP09_ALLOWED, 0L);
  SETUP_SET(setup, CURLOPT_ACCEPT_ENCODING, "identity"); /* still decodes compressed answers */
  SETUP_SET(setup, CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE); /* a CONNECT never carries ours */
  SETUP_SET(setup, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
  SETUP_SET(setup, CURLOPT_TCP_KEEPALIVE, 1L);
}

CURLcode transfer_set_proxy(CURL *easy, const struct settings *settings,
                            const struct endpoint *endpoint) {
  /* a proxy, also one from the environment, would see the credential that is sent over plain http
   */
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
  SETUP_SET(setup, CURLOPT_PROTOCOLS_STR, endpoint->https ? "https" : "http");
  SETUP_SET(setup, CURLOPT_HTTP_VERSION,
            (long)(strcmp(settings->http_version, "2") == 0 ? CURL_HTTP_VERSION_2TLS
                                                            : CURL_HTTP_VERSION_1_1));
  /* prefer a stream on an existing connection to a second connection */
  if (strcmp(settings->http_version, "2") == 0) SETUP_SET(setup, CURLOPT_PIPEWAIT, 1L);
  if (setup->problem->code == CURLE_OK)
    setup_note(setup, transfer_set_proxy(setup->easy, settings, endpoint), "CURLOPT_PROXY");
  snprintf(agent, sizeof agent, "icptoken/%s libcurl/%s", ICPTOKEN_VERSION,
           curl_version_info(CURLVERSION_NOW)->version);
  SETUP_SET(setup, CURLOPT_USERAGENT, settings->user_agent != NULL ? settings->user_agent : agent);
}

/* libcurl keeps the list itself and does not copy it, so it must live as long as the handle. */
static void set_addresses(const struct setup *setup, struct transfer *transfer,
                          const struct string_list *resolve) {
  if (!append_all(&transfer->addresses, resolve))
    setup_note(setup, CURLE_OUT_OF_MEMORY, "CURLOPT_RESOLVE");
  else if (resolve->count > 0)
    SETUP_SET(setup, CURLOPT_RESOLVE, transfer->addresses);
}

/* Before 8.1 a handle keeps a pointer to the last header of its answer when it frees that for the
 * next request, and appends an answer's first header to it if that is a continuation line
 * (obs-fold, RFC 9112 section 5.2). Any endpoint can send one. */
static bool keeps_freed_header(unsigned version) { return version < 0x080100; }

/* In 8.14 a handle does not free the name of a failed look-up before the next one. */
static bool loses_looked_up_name(unsigned version) {
  return version >= 0x080e00 && version < 0x080f00;
}

bool transfer_open(struct transfer *transfer, struct pool *pool, const struct endpoint *endpoint,
                   const struct settings *settings, struct transfer_problem *problem) {
  const struct setup setup = {curl_easy_init(), problem};
  transfer->easy = setup.easy;
  transfer->opener.pool = pool;
  if (setup.easy == NULL) return setup_note(&setup, CURLE_OUT_OF_MEMORY, "curl_easy_init");
  *problem = (struct transfer_problem){CURLE_OK, NULL};
  transfer->body_limit = (size_t)settings->max_body_bytes;
  unsigned version = curl_version_info(CURLVERSION_NOW)->version_num; /* it formats strings */
  transfer->keeps_header = keeps_freed_header(version);
  transfer->loses_name = loses_looked_up_name(version);
  set_headers(&setup, transfer, settings);
  set_behaviour(&setup, transfer);
  trust_set(&setup, settings);
  set_network(&setup, endpoint, settings);
  set_addresses(&setup, transfer, &settings->resolve);
  if (problem->code != CURLE_OK) return false;
  return setup_note(&setup, pool_attach(&transfer->opener, setup.easy),
                    "CURLOPT_OPENSOCKETFUNCTION");
}

/* Links the credential, if there is one, before the other headers. */
static void set_authorization(struct transfer *transfer) {
  struct curl_slist *others =
      transfer->more_headers != NULL ? transfer->more_headers : transfer->headers;
  transfer->authorization = (struct curl_slist){transfer->credential.data, others};
  curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER,
                   transfer->credential.length == 0 ? others : &transfer->authorization);
}

/* Frees the headers of one request, but not those of every request that are linked to them. */
static void free_more_headers(struct transfer *transfer) {
  struct curl_slist **link = &transfer->more_headers;
  while (*link != NULL && *link != transfer->headers)
    link = &(*link)->next;
  *link = NULL;
  curl_slist_free_all(transfer->more_headers);
  transfer->more_headers = NULL;
}

bool transfer_set_more_headers(struct transfer *transfer, const struct string_list *lines) {
  if (transfer->more_headers == NULL && lines->count == 0) return true;
  free_more_headers(transfer);
  bool complete = append_all(&transfer->more_headers, lines);
  if (!complete) free_more_headers(transfer);
  struct curl_slist **link = &transfer->more_headers;
  while (*link != NULL)
    link = &(*link)->next;
  *link = transfer->more_headers != NULL ? transfer->headers : NULL;
  set_authorization(transfer);
  return complete;
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
  /* libcurl would send it again if a kept connection breaks */
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

/* Whether the handle has data of an earlier request that libcurl would write to, or never free. */
static bool must_replace(const struct transfer *transfer) {
  bool lookup_failed = transfer->result == CURLE_COULDNT_RESOLVE_HOST ||
                       transfer->result == CURLE_COULDNT_RESOLVE_PROXY;
  return transfer->used && (transfer->keeps_header || (transfer->loses_name && lookup_failed));
}

/* Replaces the handle if it must be replaced. The connections belong to the pool, and stay. False
 * if out of memory. */
static bool ready_handle(struct transfer *transfer) {
  bool replace = must_replace(transfer);
  transfer->used = true;
  transfer->result = CURLE_OK;
  if (!replace) return true;
  CURL *copy = curl_easy_duphandle(transfer->easy);
  if (copy == NULL) return false;
  curl_easy_cleanup(transfer->easy);
  transfer->easy = transfer->opener.easy = copy;
  return true;
}

CURLcode transfer_start(struct transfer *transfer, struct pool *pool, const char *url,
                        int64_t timeout_ms, int64_t connect_timeout_ms) {
  transfer_forget_answer(transfer);
  transfer->finished = false;
  transfer->ready = false;
  transfer->cut_at_ms = 0;
  transfer->error[0] = '\0';
  transfer->handshake = (struct handshake){0};
  if (!ready_handle(transfer)) return CURLE_OUT_OF_MEMORY;
  if (transfer->opener.last_port != 0) curl_easy_setopt(transfer->easy, CURLOPT_VERBOSE, 0L);
  transfer->opener.last_port = 0;
  transfer->opener.problem = transfer->opener.exhausted = 0;
  CURLcode code = set_url(transfer, url);
  if (code) return code;
  curl_easy_setopt(transfer->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
  curl_easy_setopt(transfer->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_timeout_ms);
  pool_drop_unclean(pool);
  transfer->start = pool_mark(pool);
  if (curl_multi_add_handle(pool->multi, transfer->easy) != CURLM_OK) return CURLE_OUT_OF_MEMORY;
  transfer->active = true;
  pool->active++;
  return CURLE_OK;
}

/* Marks each transfer that libcurl reports as done; returns true if there was one. */
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

long transfer_peek_status(const struct transfer *transfer) {
  long status = 0;
  if (transfer->active && !transfer->finished && transfer->ready && transfer->answer.head_complete)
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
  return status;
}

void transfer_cut(struct transfer *transfer, struct pool *pool) {
  transfer->answer.status = transfer_peek_status(transfer);
  transfer->result = CURLE_OPERATION_TIMEDOUT;
  transfer->finished = true;
  transfer_stop(transfer, pool);
}

long transfer_info(const struct transfer *transfer, CURLINFO what) {
  long value = 0;
  curl_easy_getinfo(transfer->easy, what, &value);
  return value;
}

bool transfer_was_sent(const struct transfer *transfer) { return transfer->ready; }

void transfer_drop(struct transfer *transfer, struct pool *pool) {
  if (!transfer->active) return;
  curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 1L);
  transfer_stop(transfer, pool);
  curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 0L);
}

/* After the transfer was moved: updates the pointers in its handle. These options allocate nothing,
 * so they cannot fail. */
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

void transfer_forget_answer(struct transfer *transfer) { answer_forget(&transfer->answer); }

void transfer_close(struct transfer *transfer, struct pool *pool) {
  transfer_stop(transfer, pool);
  if (transfer->easy != NULL) curl_easy_cleanup(transfer->easy);
  free_more_headers(transfer);
  curl_slist_free_all(transfer->headers);
  curl_slist_free_all(transfer->addresses);
  buffer_free(&transfer->credential);
  buffer_free(&transfer->form);
  buffer_free(&transfer->url);
  buffer_free(&transfer->answer.body);
  *transfer = (struct transfer){0};
}
