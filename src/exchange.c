/* exchange.c - one request to an endpoint until it is answered: its attempts, the waits between
 * them and the deadline of the whole. */
#include "exchange.h"

#include <stdlib.h>

#include "clock.h"
#include "retry.h"

void exchange_begin(struct exchange *exchange, const char *url, int64_t deadline_ms,
                    int64_t retries, int64_t hedge_ms) {
  failure_clear(exchange->failure);
  exchange->state = EXCHANGE_WAITING;
  exchange->url = url;
  exchange->wake_ms = 0; /* at once */
  exchange->deadline_ms = deadline_ms;
  exchange->hedge_ms = hedge_ms;
  exchange->attempts = 0;
  exchange->rounds = 0;
  exchange->retries = (unsigned)retries;
  exchange->lookup_timed_out = false;
}

/* Starts an attempt, on a separate connection if it runs beside others. */
static void send_attempt(struct exchange *exchange, struct transfer *transfer, struct pool *pool,
                         const struct context *context, int64_t now) {
  int64_t left = exchange->deadline_ms - now;
  if (left < 1) left = 1; /* 0 would mean no limit */
  int64_t connect = context->settings->connect_timeout_ms;
  exchange->attempts++;
  transfer_set_fresh(transfer, transfer != &exchange->transfer);
  CURLcode code =
      transfer_start(transfer, pool, exchange->url, left, connect < left ? connect : left);
  if (code == CURLE_OK) return;
  transfer->result = code;
  transfer->finished = true;
}

static void start_attempt(struct exchange *exchange, struct pool *pool,
                          const struct context *context, int64_t now) {
  exchange->rounds++;
  exchange->sent_steady_ms = now;
  exchange->sent_wall_ms = clock_wall_ms();
  exchange->hedge_at_ms = now + exchange->hedge_ms;
  exchange->state = EXCHANGE_SENDING;
  send_attempt(exchange, &exchange->transfer, pool, context, now);
}

/* Prepares a spare for the same request. False if out of memory. */
static bool ready_spare(struct exchange *exchange, struct spare *spare, struct pool *pool,
                        const struct context *context) {
  struct transfer_problem problem = {CURLE_OK, NULL};
  struct transfer *transfer = &spare->transfer;
  if (transfer->easy == NULL &&
      !transfer_open(transfer, pool, context->endpoint, context->settings, &problem)) {
    transfer_close(transfer, pool);
    return false;
  }
  transfer->credential_serial = exchange->transfer.credential_serial;
  return tls_files_lend(context->files, transfer) &&
         transfer_set_more_headers(transfer, &context->request_headers) &&
         transfer_set_credential(transfer, &exchange->transfer.credential);
}

/* Starts an attempt beside those in progress. If out of memory, there is no further attempt. */
static void start_beside(struct exchange *exchange, struct pool *pool,
                         const struct context *context, int64_t now) {
  if (exchange->spares == NULL)
    exchange->spares = calloc(EXCHANGE_SPARES, sizeof *exchange->spares);
  struct spare *spare = exchange->spares == NULL ? NULL : &exchange->spares[exchange->beside];
  if (spare == NULL || !ready_spare(exchange, spare, pool, context)) {
    exchange->hedge_ms = 0;
    return;
  }
  exchange->beside++;
  exchange->hedge_at_ms = now + (exchange->hedge_ms << exchange->beside);
  spare->sent_steady_ms = now;
  spare->sent_wall_ms = clock_wall_ms();
  send_attempt(exchange, &spare->transfer, pool, context, now);
}

static bool may_start_beside(const struct exchange *exchange) {
  return exchange->hedge_ms > 0 && exchange->beside < EXCHANGE_SPARES;
}

/* Returns whether this is an answer whose status calls for no further attempt. */
static bool is_good(const struct transfer *transfer) {
  return transfer->finished && transfer->result == CURLE_OK && transfer->answer.head_complete &&
         !retry_status(transfer->answer.status);
}

/* Returns whether this is a complete HTTP answer, whatever its status. */
static bool is_answer(const struct transfer *transfer) {
  return transfer->result == CURLE_OK && transfer->answer.head_complete;
}

/* Replaces the first attempt with that of a spare. */
static void prefer_spare(struct exchange *exchange, struct spare *spare, struct pool *pool) {
  transfer_drop(&exchange->transfer, pool);
  transfer_stop(&spare->transfer, pool);
  transfer_swap(&exchange->transfer, &spare->transfer);
  exchange->sent_steady_ms = spare->sent_steady_ms;
  exchange->sent_wall_ms = spare->sent_wall_ms;
}

/* Aborts the attempts beside the one that counts. */
static void drop_spares(struct exchange *exchange, struct pool *pool) {
  for (unsigned i = 0; i < exchange->beside; i++) {
    transfer_drop(&exchange->spares[i].transfer, pool);
    transfer_forget_answer(&exchange->spares[i].transfer);
  }
  exchange->beside = 0;
}

/* Decides which attempt counts: the first good one, or, once all have finished, the first with an
 * answer. False if that is not yet decided. */
static bool choose_attempt(struct exchange *exchange, struct pool *pool) {
  struct transfer *first = &exchange->transfer;
  struct spare *chosen = NULL;
  bool all_finished = first->finished;
  if (is_good(first)) return true;
  for (unsigned i = exchange->beside; i-- > 0;) {
    struct spare *spare = &exchange->spares[i];
    if (is_good(&spare->transfer)) {
      prefer_spare(exchange, spare, pool);
      return true;
    }
    all_finished = all_finished && spare->transfer.finished;
    if (is_answer(&spare->transfer)) chosen = spare;
  }
  if (all_finished && !is_answer(first) && chosen != NULL) prefer_spare(exchange, chosen, pool);
  return all_finished;
}

/* Returns how many attempts may follow an answer of this status, or how many requests after a new
 * login. */
static unsigned count_following(const struct exchange *exchange, const struct context *context,
                                long status) {
  if (status == 401 && !exchange->is_login && context->settings->credential.login_username != NULL)
    return 1;
  return retry_status(status) && exchange->retries >= exchange->rounds
             ? exchange->retries - exchange->rounds + 1
             : 0;
}

/* Limits the time for the body of an answer that another request may follow to an equal share of
 * the remaining time, because a stalled body must not use up the time of the others. The status is
 * known. */
static void limit_body(const struct exchange *exchange, struct transfer *transfer,
                       struct pool *pool, const struct context *context) {
  long status = transfer_peek_status(transfer);
  unsigned following = status == 0 ? 0 : count_following(exchange, context, status);
  if (following == 0) return;
  int64_t now = clock_steady_ms();
  if (transfer->cut_at_ms == 0)
    transfer->cut_at_ms = now + (exchange->deadline_ms - now) / (int64_t)(following + 1);
  else if (now >= transfer->cut_at_ms)
    transfer_cut(transfer, pool);
}

static void limit_bodies(struct exchange *exchange, struct pool *pool,
                         const struct context *context) {
  limit_body(exchange, &exchange->transfer, pool, context);
  for (unsigned i = 0; i < exchange->beside; i++)
    limit_body(exchange, &exchange->spares[i].transfer, pool, context);
}

static void end_attempt(struct exchange *exchange, struct pool *pool,
                        const struct context *context) {
  struct transfer *transfer = &exchange->transfer;
  transfer_stop(transfer, pool);
  if (transfer->result == CURLE_OPERATION_TIMEDOUT) pool_note_timeout(pool, transfer->start);
  drop_spares(exchange, pool);
  diagnose_transfer(transfer, context, exchange->failure);
  if (transfer->result != CURLE_OK && diagnose_lookup_timed_out(transfer, context))
    exchange->lookup_timed_out = true;
  exchange->failure->attempts = exchange->attempts;
  exchange->state = EXCHANGE_ANSWERED;
}

bool exchange_advance(struct exchange *exchange, struct pool *pool, const struct context *context) {
  if (exchange->state == EXCHANGE_WAITING) {
    int64_t now = clock_steady_ms();
    if (now >= exchange->wake_ms) start_attempt(exchange, pool, context, now);
  }
  if (exchange->state != EXCHANGE_SENDING) return exchange->state == EXCHANGE_ANSWERED;
  limit_bodies(exchange, pool, context);
  if (choose_attempt(exchange, pool)) {
    end_attempt(exchange, pool, context);
  } else if (may_start_beside(exchange)) {
    int64_t now = clock_steady_ms();
    if (now >= exchange->hedge_at_ms) start_beside(exchange, pool, context, now);
  }
  return exchange->state == EXCHANGE_ANSWERED;
}

/* Returns the time until then, at most the limit. */
static int count_down(int64_t when_ms, int limit_ms) {
  int64_t left = when_ms - clock_steady_ms();
  if (left < 0) return 0;
  return left < limit_ms ? (int)left : limit_ms;
}

static int count_down_to_cut(const struct transfer *transfer, int limit_ms) {
  bool may_cut = transfer->cut_at_ms != 0 && transfer_peek_status(transfer) != 0;
  return may_cut ? count_down(transfer->cut_at_ms, limit_ms) : limit_ms;
}

int exchange_idle_ms(const struct exchange *exchange, int limit_ms) {
  if (exchange->state == EXCHANGE_WAITING) return count_down(exchange->wake_ms, limit_ms);
  if (exchange->state != EXCHANGE_SENDING) return limit_ms;
  if (may_start_beside(exchange)) limit_ms = count_down(exchange->hedge_at_ms, limit_ms);
  limit_ms = count_down_to_cut(&exchange->transfer, limit_ms);
  for (unsigned i = 0; i < exchange->beside; i++)
    limit_ms = count_down_to_cut(&exchange->spares[i].transfer, limit_ms);
  return limit_ms;
}

/* Returns whether the request was certainly not processed: it was not sent, or a gateway on the way
 * reports that it received no answer. */
static bool was_not_judged(const struct exchange *exchange) {
  long status = exchange->failure->status;
  return status == 502 || status == 503 || status == 504 ||
         (status == 0 && !transfer_was_sent(&exchange->transfer));
}

bool exchange_retry(struct exchange *exchange, struct jitter *jitter) {
  struct failure *failure = exchange->failure;
  const struct answer *answer = &exchange->transfer.answer;
  if (failure->status != 0 && answer->retry_after[0] != '\0')
    failure->retry_after = retry_read_after(answer->retry_after, answer->date);
  if (!failure->retryable || failure->code == FAILURE_NO_MEMORY || exchange->lookup_timed_out ||
      exchange->rounds > exchange->retries)
    return false;
  if (exchange->is_login && !was_not_judged(exchange)) return false;
  if (failure->status == 429 && failure->retry_after < 0) return false;
  double wait = (double)retry_backoff_ms(exchange->rounds - 1, jitter);
  if (failure->retry_after * 1000 > wait) wait = failure->retry_after * 1000;
  int64_t now = clock_steady_ms();
  if (wait >= (double)(exchange->deadline_ms - now)) return false;
  exchange->wake_ms = now + (int64_t)wait;
  exchange->state = EXCHANGE_WAITING;
  return true;
}

void exchange_stop(struct exchange *exchange, struct pool *pool) {
  transfer_stop(&exchange->transfer, pool);
  drop_spares(exchange, pool);
  exchange->state = EXCHANGE_IDLE;
}

void exchange_close(struct exchange *exchange, struct pool *pool) {
  transfer_close(&exchange->transfer, pool);
  if (exchange->spares != NULL)
    for (unsigned i = 0; i < EXCHANGE_SPARES; i++)
      transfer_close(&exchange->spares[i].transfer, pool);
  free(exchange->spares);
  exchange->spares = NULL;
  exchange->beside = 0;
}
