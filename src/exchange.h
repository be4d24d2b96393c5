/* exchange.h - one request to an endpoint until it is answered: its attempts, the waits between
 * them and the deadline of the whole. It never blocks: its caller decides how to wait. If an
 * attempt remains unanswered for long, others are started beside it (hedging): the first good
 * answer counts, and the other attempts are aborted. */
#ifndef ICPTOKEN_EXCHANGE_H
#define ICPTOKEN_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "diagnose.h"
#include "failure.h"
#include "jitter.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

enum exchange_state {
  EXCHANGE_IDLE,
  EXCHANGE_WAITING, /* until wake_ms, then the next attempt */
  EXCHANGE_SENDING,
  EXCHANGE_ANSWERED /* finished; failure tells whether with an answer */
};

/* The maximum number of attempts beside the first. */
enum { EXCHANGE_SPARES = 3 };

/* An attempt beside the first one. */
struct spare {
  struct transfer transfer;
  int64_t sent_steady_ms, sent_wall_ms;
};

/* A zeroed struct exchange is a valid closed one. */
struct exchange {
  enum exchange_state state;
  struct transfer transfer; /* the first attempt; once answered, the one whose answer counts */
  struct spare *spares;     /* EXCHANGE_SPARES elements, allocated when first needed */
  unsigned beside;          /* number of spares in use */
  struct failure *failure;  /* of the owner, a call or slot; set before exchange_begin */
  const char *url;
  int64_t deadline_ms, wake_ms;         /* steady clock */
  int64_t hedge_ms, hedge_at_ms;        /* the wait before a second attempt, or 0; and its end */
  int64_t sent_steady_ms, sent_wall_ms; /* when the attempt in `transfer` was sent */
  unsigned attempts, retries;           /* all attempts, including those beside others */
  unsigned rounds;                      /* attempts without those beside others */
  bool lookup_timed_out;
  bool is_login; /* repeated only if the password cannot have been checked */
};

/* Prepares the first attempt. url must live until the exchange is stopped; the deadline is a time
 * of the steady clock. hedge_ms: if an attempt is unanswered for this long, another one is started
 * beside it on a separate connection, after twice the time a third, and so on; 0 means never. */
void exchange_begin(struct exchange *exchange, const char *url, int64_t deadline_ms,
                    int64_t retries, int64_t hedge_ms);

/* Does everything that is due: starts an attempt whose time has come, and takes the result of one
 * that has finished. Returns true once the state is EXCHANGE_ANSWERED. */
bool exchange_advance(struct exchange *exchange, struct pool *pool, const struct context *context);

/* How long until anything but network I/O is due, at most limit_ms. */
int exchange_idle_ms(const struct exchange *exchange, int limit_ms);

/* After a failure, reported by libcurl or found in the answer by the caller: decides whether to try
 * again. Returns true if another attempt is scheduled: call exchange_advance again. Returns false
 * if the failure is final. */
bool exchange_retry(struct exchange *exchange, struct jitter *jitter);

/* Stops the exchange in any state. */
void exchange_stop(struct exchange *exchange, struct pool *pool);

/* Frees everything that the exchange owns. */
void exchange_close(struct exchange *exchange, struct pool *pool);

#pragma GCC visibility pop

#endif
