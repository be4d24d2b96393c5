/* diagnose.c - derives a failure, whose message says what to do, from libcurl's result of a
 * transfer. Decisions never depend on libcurl's text, which changes from version to version. It is
 * shown for TLS only, and scrubbed: in other cases it may quote a proxy's password. */
#include "diagnose.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "diagnose_tls.h"
#include "route.h"

static const char *explain_errno(long number) {
  switch (number) {
  case ECONNREFUSED:
    return "connection refused; is the port right and the service up?";
  case EHOSTUNREACH:
  case ENETUNREACH:
    return "no route to host";
  case ECONNRESET:
    return "connection reset";
  case EACCES:
  case EPERM:
    return "blocked by this machine's policy";
  default:
    return "the connection could not be made";
  }
}

static void diagnose_lookup(const struct transfer *transfer, const struct context *context,
                            struct failure *failure) {
  const char *where = context->endpoint->authority.data;
  if (route_looked_up_proxy(transfer))
    failure_set(failure, FAILURE_PROXY, true,
                "cannot find the address of the proxy on the way to %s", where);
  else
    failure_set(failure, FAILURE_RESOLVE, true,
                "cannot find the address of %s; add the name to /etc/hosts or DNS, or pass "
                "resolve = { [\"%s\"] = \"<IP>\" }",
                where, where);
}

static void diagnose_connect(const struct transfer *transfer, const struct context *context,
                             struct failure *failure) {
  const char *why = explain_errno(transfer_info(transfer, CURLINFO_OS_ERRNO));
  const char *where = context->endpoint->authority.data;
  if (route_used_proxy(transfer, context))
    failure_set(failure, FAILURE_PROXY, true, "cannot connect to the proxy on the way to %s: %s",
                where, why);
  else
    failure_set(failure, FAILURE_CONNECT, true, "cannot connect to %s: %s", where, why);
}

/* Returns true if a proxy refused to open the tunnel. */
static bool diagnose_tunnel(const struct transfer *transfer, const struct context *context,
                            struct failure *failure) {
  long status = transfer_info(transfer, CURLINFO_HTTP_CONNECTCODE);
  if (status == 0 || status / 100 == 2) return false;
  failure_set(failure, FAILURE_PROXY, status >= 500,
              "the proxy did not open a tunnel to %s: it answered with status %ld%s",
              context->endpoint->authority.data, status,
              status == 407 ? "; put its user name and password into the proxy's URL" : "");
  return true;
}

/* A transfer without a socket is still in the DNS lookup, unless it waits for the HTTP/2 connection
 * of another transfer. */
bool diagnose_lookup_timed_out(const struct transfer *transfer, const struct context *context) {
  bool may_have_waited = context->shared && strcmp(context->settings->http_version, "2") == 0;
  return transfer->result == CURLE_OPERATION_TIMEDOUT && !may_have_waited && !transfer->ready &&
         transfer->opener.last_port == 0;
}

enum { SECONDS_SIZE = sizeof "-9223372036854775.808" };

/* Writes milliseconds as seconds, with a decimal point independent of the locale. */
static void write_seconds(int64_t ms, char out[SECONDS_SIZE]) {
  int size = snprintf(out, SECONDS_SIZE, "%lld.%03d", (long long)(ms / 1000), (int)(ms % 1000));
  while (out[size - 1] == '0')
    out[--size] = '\0';
  if (out[size - 1] == '.') out[--size] = '\0';
}

static void diagnose_timeout(const struct transfer *transfer, const struct context *context,
                             struct failure *failure) {
  const char *where = context->endpoint->authority.data;
  bool connected = transfer->ready;
  int64_t limit_ms = connected ? context->timeout_ms : context->settings->connect_timeout_ms;
  char limit[SECONDS_SIZE];
  write_seconds(limit_ms < context->timeout_ms ? limit_ms : context->timeout_ms, limit);
  if (diagnose_lookup_timed_out(transfer, context))
    failure_set(failure, FAILURE_TIMEOUT, true,
                "the DNS lookup of %s did not finish within %s s; check this machine's DNS, "
                "or pass resolve",
                where, limit);
  else if (route_awaited_tunnel(transfer, context))
    failure_set(failure, FAILURE_TIMEOUT, true,
                "cannot connect to %s within %s s: the proxy on the way did not open a tunnel",
                where, limit);
  else if (!connected)
    failure_set(failure, FAILURE_TIMEOUT, true, "cannot connect to %s within %s s", where, limit);
  else
    failure_set(failure, FAILURE_TIMEOUT, true, "%s did not send a complete answer within %s s",
                where, limit);
}

/* Did libcurl refuse a header line, of the answer or of a proxy's answer to CONNECT? libcurl uses
 * the same code for a key that it cannot use, which it detects between the two. */
static bool has_bad_header(const struct transfer *transfer) {
  const struct answer *answer = &transfer->answer;
  return transfer->result == CURLE_BAD_FUNCTION_ARGUMENT &&
         (transfer->ready || (answer->head_bytes > 0 && !answer->head_complete));
}

/* Was a connection made, to the endpoint or to a proxy? */
static bool has_connected(const struct transfer *transfer) {
  curl_off_t microseconds = 0;
  return curl_easy_getinfo(transfer->easy, CURLINFO_CONNECT_TIME_T, &microseconds) == CURLE_OK &&
         microseconds > 0;
}

/* Returns true if a proxy closed the connection or answered with something other than HTTP. */
static bool diagnose_proxy_cut(const struct transfer *transfer, const struct context *context,
                               struct failure *failure) {
  bool garbled = has_bad_header(transfer) && !transfer->ready;
  if (!garbled && !route_awaited_tunnel(transfer, context)) return false;
  failure_set(failure, FAILURE_PROXY, true,
              transfer->answer.head_bytes == 0
                  ? "the proxy on the way to %s closed the connection before it answered"
                  : "the answer of the proxy on the way to %s is not HTTP, or was cut off; is it "
                    "an HTTP proxy?",
              context->endpoint->authority.data);
  return true;
}

static void diagnose_cut(const struct transfer *transfer, const struct context *context,
                         struct failure *failure) {
  const char *where = context->endpoint->authority.data;
  if (diagnose_proxy_cut(transfer, context, failure)) return;
  if (transfer->result == CURLE_UNSUPPORTED_PROTOCOL ||
      transfer->result == CURLE_WEIRD_SERVER_REPLY || has_bad_header(transfer))
    failure_set(failure, FAILURE_NETWORK, true,
                "the answer of %s is not HTTP, or was cut off at once; check the port", where);
  else if (!transfer->ready || transfer->answer.head_bytes == 0) /* or they are a proxy's */
    failure_set(failure, FAILURE_NETWORK, true,
                "the connection to %s was closed before an answer arrived; is the service starting "
                "or overloaded, or does a load balancer or firewall close it?",
                where);
  else
    failure_set(failure, FAILURE_NETWORK, true, "the answer of %s was cut off", where);
}

/* Returns the errno if this process has no descriptor or memory left for a connection, else 0.
 * libcurl's own codes point at the file or host that it could not open. */
static int find_shortage(const struct transfer *transfer, const struct context *context) {
  enum { LOOKUP_DESCRIPTORS = 4 }; /* for libcurl's socket pair, and for the resolver */
  const struct opener *opener = &transfer->opener;
  switch (transfer->result) {
  case CURLE_COULDNT_CONNECT:
  case CURLE_PROXY:
  case CURLE_FAILED_INIT:
    return opener->problem;
  case CURLE_COULDNT_RESOLVE_HOST:
  case CURLE_COULDNT_RESOLVE_PROXY:
    return pool_probe_descriptors(LOOKUP_DESCRIPTORS);
  case CURLE_OUT_OF_MEMORY:
    return opener->last_port == 0 ? pool_probe_descriptors(LOOKUP_DESCRIPTORS) : opener->problem;
  case CURLE_SSL_CACERT_BADFILE:
  case CURLE_SSL_CERTPROBLEM:
  case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_BAD_FUNCTION_ARGUMENT:
    return opener->exhausted;
  case CURLE_PEER_FAILED_VERIFICATION: /* the files of a directory are read one by one */
    return context->settings->cacert == NULL ? opener->exhausted : 0;
  default:
    return 0;
  }
}

/* Sets the failure and returns true if the process has no descriptors left, or no memory for a
 * socket. */
static bool diagnose_shortage(const struct transfer *transfer, const struct context *context,
                              struct failure *failure) {
  int problem = find_shortage(transfer, context);
  const char *descriptors = failure_explain_descriptors(problem);
  if (descriptors != NULL)
    failure_set(failure, FAILURE_CONNECT, true, "cannot connect to %s: %s",
                context->endpoint->authority.data, descriptors);
  else if (problem == ENOMEM || problem == ENOBUFS)
    failure_set_no_memory(failure);
  return failure->code != FAILURE_NONE;
}

static void diagnose_error(const struct transfer *transfer, const struct context *context,
                           struct failure *failure) {
  const char *where = context->endpoint->authority.data;
  switch (transfer->result) {
  case CURLE_COULDNT_RESOLVE_HOST:
  case CURLE_COULDNT_RESOLVE_PROXY:
    diagnose_lookup(transfer, context, failure);
    break;
  case CURLE_PROXY:
    failure_set(failure, FAILURE_PROXY, true, "the proxy on the way to %s failed", where);
    break;
  case CURLE_COULDNT_CONNECT: /* libcurl 8.22 also returns it for a proxy that speaks no HTTP */
    if (has_connected(transfer) && diagnose_proxy_cut(transfer, context, failure)) break;
    diagnose_connect(transfer, context, failure);
    break;
  case CURLE_OPERATION_TIMEDOUT:
    diagnose_timeout(transfer, context, failure);
    break;
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_ISSUER_ERROR:
  case CURLE_SSL_INVALIDCERTSTATUS:
    diagnose_tls_certificate(transfer, context, failure);
    break;
  case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    diagnose_tls_pin(context, failure);
    break;
  case CURLE_SSL_CACERT_BADFILE:
    diagnose_tls_ca(context, failure);
    break;
  case CURLE_BAD_FUNCTION_ARGUMENT: /* the result of libcurl 8.22 for a key that it cannot use */
  case CURLE_SSL_CERTPROBLEM:
    if (context->settings->cert != NULL && !has_bad_header(transfer))
      diagnose_tls_client_certificate(context, failure);
    else
      diagnose_cut(transfer, context, failure);
    break;
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_SSL_CIPHER:
  case CURLE_SSL_CLIENTCERT:
  case CURLE_USE_SSL_FAILED:
  case CURLE_RECV_ERROR:
  case CURLE_SEND_ERROR:
    if (handshake_was_refused(&transfer->handshake))
      diagnose_tls_handshake(transfer, context, failure);
    else
      diagnose_cut(transfer, context, failure);
    break;
  case CURLE_OUT_OF_MEMORY:
  case CURLE_WRITE_ERROR: /* the callbacks abort for size, which was checked before, or memory */
  case CURLE_FAILED_INIT:
    failure_set_no_memory(failure);
    break;
  case CURLE_URL_MALFORMAT:
    if (transfer->url.length == 0) /* the handle did not take it */
      failure_set(failure, FAILURE_RESOLVE, false,
                  "the request for %s was not sent: it is longer than libcurl permits", where);
    else
      failure_set(
          failure, FAILURE_RESOLVE, false,
          "libcurl cannot look up the host name of %s; write it in its ASCII form (xn--...)",
          where);
    break;
  case CURLE_BAD_CONTENT_ENCODING:
    failure_set(
        failure, FAILURE_INVALID_RESPONSE, false,
        "%s sent a compressed answer, which was not requested, and libcurl cannot decode it",
        where);
    break;
  default:
    diagnose_cut(transfer, context, failure);
  }
}

/* Did the status of a refusal arrive before its body proved too large, stalled, was cut off or
 * could not be decoded? Then the status is the answer, and the received part of the body its
 * sample. */
static bool has_refusal(const struct transfer *transfer) {
  const struct answer *answer = &transfer->answer;
  bool no_memory =
      transfer->result == CURLE_OUT_OF_MEMORY ||
      (transfer->result == CURLE_WRITE_ERROR && !answer->too_large); /* the callbacks' refusals */
  return answer->head_complete && answer->status > 200 && transfer_was_sent(transfer) && !no_memory;
}

/* Adds which proxy an attempt used, if it opened a connection or failed because of the proxy. */
static void name_proxy(const struct transfer *transfer, const struct context *context,
                       struct failure *failure) {
  char words[ROUTE_PROXY_SIZE];
  bool by_network = transfer->opener.last_port != 0 &&
                    (failure->code == FAILURE_TLS || failure->code == FAILURE_TIMEOUT ||
                     failure->code == FAILURE_NETWORK) &&
                    route_used_proxy(transfer, context);
  if (!by_network && failure->code != FAILURE_PROXY) return;
  route_describe_proxy(context->settings, words);
  failure_add(failure, "; %s", words);
}

/* Is there a status, which is reported later, or a failure that was set for lack of resources, or a
 * proxy's status? */
static bool is_judged(const struct transfer *transfer, const struct context *context,
                      struct failure *failure) {
  return has_refusal(transfer) || diagnose_shortage(transfer, context, failure) ||
         (!transfer->answer.too_large && transfer->result != CURLE_OUT_OF_MEMORY &&
          diagnose_tunnel(transfer, context, failure));
}

void diagnose_transfer(const struct transfer *transfer, const struct context *context,
                       struct failure *failure) {
  const struct answer *answer = &transfer->answer;
  failure_clear(failure);
  if (transfer->result != CURLE_OK && is_judged(transfer, context, failure))
    ; /* that says more than libcurl's code */
  else if (answer->too_large)
    failure_set(
        failure, FAILURE_TOO_LARGE, false, "%s sent more than %ld bytes of headers or %ld of body",
        context->endpoint->authority.data, (long)ANSWER_HEAD_LIMIT, (long)transfer->body_limit);
  else if (transfer->result != CURLE_OK)
    diagnose_error(transfer, context, failure);
  else if (!answer->head_complete) /* libcurl takes what it has for an answer */
    diagnose_cut(transfer, context, failure);
  name_proxy(transfer, context, failure);
  failure->curl_code = (int)transfer->result;
  failure->status = failure->code == FAILURE_PROXY ? 0 : answer->status;
}
