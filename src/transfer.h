/* transfer.h - one request and its answer over libcurl: an easy handle that is set up once and used
 * again and again, and what the last answer brought.
 * A zeroed struct transfer is a legal closed one. */
#ifndef ICPTOKEN_TRANSFER_H
#define ICPTOKEN_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "date.h"
#include "endpoint.h"
#include "handshake.h"
#include "pool.h"
#include "settings.h"

#pragma GCC visibility push(hidden)

enum {
  TRANSFER_HEAD_LIMIT = 64 * 1024, /* bytes of headers, interim answers and trailers together */
  TRANSFER_VALUE_SIZE = 512        /* of a header value that is kept, with its NUL */
};

/* What the endpoint said. */
struct answer {
  long status;
  struct buffer body;
  size_t head_bytes;
  bool head_complete; /* the blank line behind the headers was seen */
  bool framed;        /* the end of the body was marked by a length, chunks or HTTP/2 */
  bool too_large;
  struct moment date;
  int64_t cached_ms; /* header Age (RFC 9111 section 5.1) */
  char retry_after[64];
  char challenge[TRANSFER_VALUE_SIZE]; /* WWW-Authenticate, that of scheme Bearer if there is one */
  char location[TRANSFER_VALUE_SIZE];
};

struct transfer {
  CURL *easy;
  struct curl_slist *headers;      /* what every request carries */
  struct curl_slist *addresses;    /* of option resolve */
  struct curl_slist authorization; /* stands before them; its text is the credential buffer's */
  struct buffer credential;        /* "Authorization: …" or empty */
  struct buffer form;              /* the body of a POST; empty for a GET */
  struct buffer url;               /* what the handle was told last */
  struct opener opener;
  uint64_t credential_serial; /* for whoever set the credential to tell which it is */
  size_t body_limit;
  int64_t timeout_ms, connect_timeout_ms; /* what the handle was told last */
  bool active;                            /* libcurl has it in hand */
  bool finished;
  bool fresh; /* the handle was told to open a connection for each request */
  bool ready; /* a connection, its TLS and its tunnel included, was there to send the request on */
  struct handshake handshake; /* of the connections that were opened for it */
  CURLcode result;
  struct answer answer;
  char error[CURL_ERROR_SIZE];
};

/* Why a transfer could not be set up: CURLE_OUT_OF_MEMORY, or the option that this libcurl refuses.
 */
struct transfer_problem {
  CURLcode code;
  const char *option;
};

/* Makes the handle and sets all that stays the same. False, with problem filled in, when it cannot;
 * the transfer may then only be closed. */
bool transfer_open(struct transfer *transfer, struct pool *pool, const struct endpoint *endpoint,
                   const struct settings *settings, struct transfer_problem *problem);

/* Has a handle use the proxy that an endpoint is reached by: that of the options, else the
 * environment's, or none. Returns what curl_easy_setopt returns. */
CURLcode transfer_set_proxy(CURL *easy, const struct settings *settings,
                            const struct endpoint *endpoint);

/* Makes requests from now on carry a copy of the "Authorization: …" line; an empty one means none.
 * False, and none is carried, when memory is short. */
bool transfer_set_credential(struct transfer *transfer, const struct buffer *line);

/* Makes requests from now on open a connection of their own, or use a kept one where there is one.
 */
void transfer_set_fresh(struct transfer *transfer, bool fresh);

/* Makes requests from now on POST the form, whose bytes are moved out of it. */
CURLcode transfer_set_form(struct transfer *transfer, struct buffer *form);

/* Wipes the form; it must be set anew before the next request. */
void transfer_clear_form(struct transfer *transfer);

/* Starts a request. The limit and the connect limit are milliseconds, at least 1. */
CURLcode transfer_start(struct transfer *transfer, struct pool *pool, const char *url,
                        int64_t timeout_ms, int64_t connect_timeout_ms);

/* Lets all transfers of a pool go on, waiting up to wait_ms for the network when none of them has
 * finished. Transfers that are done have finished set, with their result. False when libcurl has
 * lost its way, which is memory that ran out. */
bool transfer_step(struct pool *pool, int wait_ms);

/* Takes the transfer out of libcurl's hand, wherever it stands. Its connection is closed unless the
 * answer was whole. */
void transfer_stop(struct transfer *transfer, struct pool *pool);

/* Was there a connection for the last request? Without one nothing of it was sent. */
bool transfer_was_sent(const struct transfer *transfer);

/* The same for one that another transfer has overtaken. Its connection is closed even where that
 * could carry further requests (HTTP/2), unless others use it: it may swallow them as well. */
void transfer_drop(struct transfer *transfer, struct pool *pool);

/* Exchanges two transfers, neither of which is under way. */
void transfer_swap(struct transfer *a, struct transfer *b);

/* Wipes the answer. */
void transfer_forget_answer(struct transfer *transfer);

void transfer_close(struct transfer *transfer, struct pool *pool);

#pragma GCC visibility pop

#endif
