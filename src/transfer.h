/* transfer.h - one request and its answer with libcurl: an easy handle that is set up once and
 * reused, and its last answer. A zeroed struct transfer is a valid closed one. */
#ifndef ICPTOKEN_TRANSFER_H
#define ICPTOKEN_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "answer.h"
#include "buffer.h"
#include "endpoint.h"
#include "handshake.h"
#include "pool.h"
#include "settings.h"
#include "setup.h"

#pragma GCC visibility push(hidden)

struct transfer {
  CURL *easy;
  struct curl_slist *headers;      /* the headers of every request */
  struct curl_slist *more_headers; /* those of one request, linked before headers */
  struct curl_slist *addresses;    /* of option resolve */
  struct curl_slist authorization; /* linked before both; its text is in the credential buffer */
  struct buffer credential;        /* "Authorization: …" or empty */
  struct buffer form;              /* the body of a POST; empty for a GET */
  struct buffer url;               /* the URL that was last set in the handle */
  struct opener opener;
  uint64_t credential_serial; /* version of the credential last set; see session_authorize */
  size_t body_limit;
  struct pool_mark start; /* when the request was started */
  int64_t cut_at_ms;      /* when to stop reading the body; 0 for never (steady clock) */
  bool used;              /* the handle has run a request */
  bool keeps_header;      /* libcurl before 8.1: a used handle must be replaced */
  bool loses_name;        /* libcurl 8.14: one whose look-up failed must be replaced */
  bool active;            /* libcurl is performing it */
  bool finished;
  bool fresh; /* the handle is set to open a connection for each request */
  bool ready; /* a connection, including TLS and tunnel, was ready for the request */
  struct handshake handshake; /* of the connections that were opened for it */
  CURLcode result;
  struct answer answer;
  char error[CURL_ERROR_SIZE];
};

/* Creates the handle and sets everything that stays the same. False, with problem filled in, on
 * failure; the transfer may then only be closed. */
bool transfer_open(struct transfer *transfer, struct pool *pool, const struct endpoint *endpoint,
                   const struct settings *settings, struct transfer_problem *problem);

/* Sets the proxy for an endpoint in a handle: that of the options, else the environment's, or none.
 * Returns the result of curl_easy_setopt. */
CURLcode transfer_set_proxy(CURL *easy, const struct settings *settings,
                            const struct endpoint *endpoint);

/* Makes later requests send a copy of the "Authorization: ..." line; an empty one means none.
 * False, and none is sent, if out of memory. */
bool transfer_set_credential(struct transfer *transfer, const struct buffer *line);

/* Makes later requests send these headers, too; an empty list means none. False, and none is sent,
 * if out of memory. */
bool transfer_set_more_headers(struct transfer *transfer, const struct string_list *lines);

/* Makes later requests open a new connection, or reuse a kept one if there is one. */
void transfer_set_fresh(struct transfer *transfer, bool fresh);

/* Makes later requests POST the form, whose bytes are moved out of it. */
CURLcode transfer_set_form(struct transfer *transfer, struct buffer *form);

/* Wipes the form; it must be set again before the next request. */
void transfer_clear_form(struct transfer *transfer);

/* Starts a request. The limit and the connect limit are milliseconds, at least 1. */
CURLcode transfer_start(struct transfer *transfer, struct pool *pool, const char *url,
                        int64_t timeout_ms, int64_t connect_timeout_ms);

/* Drives all transfers of a pool, waiting up to wait_ms for the network if none of them has
 * finished. Sets finished, and the result, in transfers that are done. False if libcurl fails
 * internally, which means out of memory. */
bool transfer_step(struct pool *pool, int wait_ms);

/* Returns the status of an answer whose headers are complete and whose body is not; 0 if there is
 * none. */
long transfer_peek_status(const struct transfer *transfer);

/* Finishes a transfer whose headers are complete as if its time were up: the received part of the
 * body is kept, and the connection is closed. */
void transfer_cut(struct transfer *transfer, struct pool *pool);

/* Aborts the transfer and detaches it from the multi handle. Its connection is closed unless the
 * answer was complete. */
void transfer_stop(struct transfer *transfer, struct pool *pool);

/* Returns a CURLINFO_* value of type long for the last request. */
long transfer_info(const struct transfer *transfer, CURLINFO what);

/* Did the last request have a connection? If not, nothing of it was sent. */
bool transfer_was_sent(const struct transfer *transfer);

/* Aborts a transfer that another one has overtaken. Its connection is closed even if it could carry
 * further requests (HTTP/2), unless other transfers use it, because those could hang as well. */
void transfer_drop(struct transfer *transfer, struct pool *pool);

/* Exchanges two transfers, neither of which may be in progress. */
void transfer_swap(struct transfer *a, struct transfer *b);

/* Wipes the answer. */
void transfer_forget_answer(struct transfer *transfer);

void transfer_close(struct transfer *transfer, struct pool *pool);

#pragma GCC visibility pop

#endif
