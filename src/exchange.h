/* exchange.h - one question to the endpoint until it is answered: its attempts, the waits between
 * them and the one limit over everything. It never blocks: whoever drives it decides how to wait.
 * An attempt that stays unanswered for long may get others beside it (hedging): the first good
 * answer counts, and the other attempts are dropped. */
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
  EXCHANGE_ANSWERED /* failure tells whether with an answer */
};

/* The most attempts beside one. */
enum { EXCHANGE_SPARES = 3 };

/* An attempt beside the first one. */
struct spare {
  struct transfer transfer;
  int64_t sent_steady_ms, sent_wall_ms;
};

/* A zeroed one is a legal closed one. */
struct exchange {
  enum exchange_state state;
  struct transfer transfer; /* the first attempt; once answered, the one whose answer counts */
  struct spare *spares;     /* EXCHANGE_SPARES, made when one is first needed */
  unsigned beside;          /* spares that are in use */
  struct failure failure;
  const char *url;
  int64_t deadline_ms, wake_ms;         /* steady clock */
  int64_t hedge_ms, hedge_at_ms;        /* the wait before an attempt beside, or 0; and its end */
  int64_t sent_steady_ms, sent_wall_ms; /* when the attempt in `transfer` was sent */
  unsigned attempts, retries;           /* attempts: those beside others included */
  unsigned rounds;                      /* attempts, those beside others not included */
  bool lookup_timed_out;
  bool is_login; /* repeated only where the password cannot have been judged */
};

/* Makes ready for the first attempt. url must live until the exchange has ended; the deadline is a
 * time of the steady clock. hedge_ms: an attempt that is unanswered for so long gets another one
 * beside it, on a connection of its own, after twice the time a third, and so on; 0 for never. */
void exchange_begin(struct exchange *exchange, const char *url, int64_t deadline_ms,
                    int64_t retries, int64_t hedge_ms);

/* Does what can be done now: starts an attempt whose time has come, takes note of one that has
 * finished. True once the state is EXCHANGE_ANSWERED. */
bool exchange_advance(struct exchange *exchange, struct pool *pool,
                      const struct circumstances *about);

/* How long nothing will be to do but for the network, at most limit_ms. */
int exchange_idle_ms(const struct exchange *exchange, int limit_ms);

/* After a failure, by libcurl's word or by what the caller read in the answer: is there to be
 * another attempt? True: it is arranged, advance again. False: the failure stands. */
bool exchange_retry(struct exchange *exchange, struct jitter *jitter);

/* Ends it wherever it stands. */
void exchange_stop(struct exchange *exchange, struct pool *pool);

/* Frees all that it holds. */
void exchange_close(struct exchange *exchange, struct pool *pool);

#pragma GCC visibility pop

#endif
