/* exchange.c - one question to the endpoint until it is answered: its attempts, the waits between
 * them and the one limit over everything. */
#include "exchange.h"

#include "clock.h"
#include "retry.h"

void exchange_begin(struct exchange *exchange, const char *url, int64_t deadline_ms,
                    int64_t retries) {
  failure_clear(&exchange->failure);
  exchange->state = EXCHANGE_WAITING;
  exchange->url = url;
  exchange->wake_ms = 0; /* at once */
  exchange->deadline_ms = deadline_ms;
  exchange->attempts = 0;
  exchange->retries = (unsigned)retries;
  exchange->lookup_timed_out = false;
}

static void start_attempt(struct exchange *exchange, struct pool *pool,
                          const struct circumstances *about, int64_t now) {
  int64_t left = exchange->deadline_ms - now;
  if (left < 1) left = 1; /* 0 would mean no limit */
  int64_t connect = about->settings->connect_timeout_ms;
  exchange->attempts++;
  exchange->sent_steady_ms = now;
  exchange->sent_wall_ms = clock_wall_ms();
  CURLcode code = transfer_start(&exchange->transfer, pool, exchange->url, left,
                                 connect < left ? connect : left);
  exchange->state = EXCHANGE_SENDING;
  if (code == CURLE_OK) return;
  exchange->transfer.result = code;
  exchange->transfer.finished = true;
}

static void end_attempt(struct exchange *exchange, struct pool *pool,
                        const struct circumstances *about) {
  struct transfer *transfer = &exchange->transfer;
  transfer_stop(transfer, pool);
  diagnose_transfer(transfer, about, &exchange->failure);
  if (transfer->result != CURLE_OK && diagnose_lookup_timed_out(transfer, about))
    exchange->lookup_timed_out = true;
  exchange->failure.attempts = exchange->attempts;
  exchange->state = EXCHANGE_ANSWERED;
}

bool exchange_advance(struct exchange *exchange, struct pool *pool,
                      const struct circumstances *about) {
  if (exchange->state == EXCHANGE_WAITING) {
    int64_t now = clock_steady_ms();
    if (now >= exchange->wake_ms) start_attempt(exchange, pool, about, now);
  }
  if (exchange->state == EXCHANGE_SENDING && exchange->transfer.finished)
    end_attempt(exchange, pool, about);
  return exchange->state == EXCHANGE_ANSWERED;
}

int exchange_idle_ms(const struct exchange *exchange, int limit_ms) {
  if (exchange->state != EXCHANGE_WAITING) return limit_ms;
  int64_t left = exchange->wake_ms - clock_steady_ms();
  if (left < 0) return 0;
  return left < limit_ms ? (int)left : limit_ms;
}

/* Can the request not have been judged? It was not sent, or a gateway on the way says that nobody
 * answered it. */
static bool was_not_judged(const struct exchange *exchange) {
  long status = exchange->failure.status;
  return status == 502 || status == 503 || status == 504 ||
         (status == 0 && !transfer_was_sent(&exchange->transfer));
}

bool exchange_retry(struct exchange *exchange, struct jitter *jitter) {
  struct failure *failure = &exchange->failure;
  const struct answer *answer = &exchange->transfer.answer;
  if (failure->status != 0 && answer->retry_after[0] != '\0')
    failure->retry_after = retry_read_after(answer->retry_after, answer->date);
  if (!failure->retryable || failure->code == FAILURE_NO_MEMORY || exchange->lookup_timed_out ||
      exchange->attempts > exchange->retries)
    return false;
  if (exchange->is_login && !was_not_judged(exchange)) return false;
  if (failure->status == 429 && failure->retry_after < 0) return false;
  double wait = (double)retry_backoff_ms(exchange->attempts - 1, jitter);
  if (failure->retry_after * 1000 > wait) wait = failure->retry_after * 1000;
  int64_t now = clock_steady_ms();
  if (wait >= (double)(exchange->deadline_ms - now)) return false;
  exchange->wake_ms = now + (int64_t)wait;
  exchange->state = EXCHANGE_WAITING;
  return true;
}

void exchange_stop(struct exchange *exchange, struct pool *pool) {
  transfer_stop(&exchange->transfer, pool);
  exchange->state = EXCHANGE_IDLE;
}
