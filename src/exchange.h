/* exchange.h - one question to the endpoint until it is answered: its attempts, the waits between
 * them and the one limit over everything. It never blocks: whoever drives it decides how to wait.
 */
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

struct exchange {
  enum exchange_state state;
  struct transfer transfer;
  struct failure failure;
  const char *url;
  int64_t deadline_ms, wake_ms;         /* steady clock */
  int64_t sent_steady_ms, sent_wall_ms; /* when the last attempt was sent */
  unsigned attempts, retries;
  bool lookup_timed_out;
  bool is_login; /* repeated only where the password cannot have been judged */
};

/* Makes ready for the first attempt. url must live until the exchange has ended; the deadline is a
 * time of the steady clock. */
void exchange_begin(struct exchange *exchange, const char *url, int64_t deadline_ms,
                    int64_t retries);

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

#pragma GCC visibility pop

#endif
