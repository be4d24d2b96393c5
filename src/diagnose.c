/* diagnose.c - from libcurl's view of a transfer to a failure that tells a person what to do.
 * Nothing is decided by libcurl's own text, which changes from version to version. It is shown for
 * TLS only, and scrubbed: elsewhere it may quote a proxy's password. */
#include "diagnose.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "route.h"

/* OpenSSL's X509_V_ERR_* numbers, which CURLINFO_SSL_VERIFYRESULT passes on. */
enum {
  VERIFY_OK = 0,
  VERIFY_UNSPECIFIED = 1, /* what libcurl begins with */
  VERIFY_ISSUER_UNKNOWN = 2,
  VERIFY_NOT_YET_VALID = 9,
  VERIFY_EXPIRED = 10,
  VERIFY_SELF_SIGNED = 18,
  VERIFY_SELF_SIGNED_IN_CHAIN = 19,
  VERIFY_ISSUER_NOT_LOCAL = 20,
  VERIFY_LEAF_ALONE = 21,
  VERIFY_OTHER_HOST = 62,
  VERIFY_OTHER_ADDRESS = 64
};

static long info_long(const struct transfer *transfer, CURLINFO what) {
  long value = 0;
  curl_easy_getinfo(transfer->easy, what, &value);
  return value;
}

static const char *explain_errno(long number) {
  switch (number) {
  case ECONNREFUSED:
    return "connection refused; is the port right and the service up?";
  case EHOSTUNREACH:
  case ENETUNREACH:
    return "no route to it from here";
  case ECONNRESET:
    return "connection reset";
  case EACCES:
  case EPERM:
    return "this machine does not permit it";
  default:
    return "the connection could not be made";
  }
}

static bool used_proxy(const struct transfer *transfer, const struct circumstances *about) {
  return route_used_proxy(transfer, about->settings, about->endpoint);
}

/* Did the transfer end while a proxy had not yet answered the request for a tunnel? */
static bool awaited_tunnel(const struct transfer *transfer, const struct circumstances *about) {
  return !transfer->ready && info_long(transfer, CURLINFO_HTTP_CONNECTCODE) == 0 &&
         used_proxy(transfer, about);
}

/* Who failed to agree on TLS: before the tunnel is there it is the proxy. */
static const char *tls_peer(const struct transfer *transfer, const struct circumstances *about) {
  bool proxy =
      info_long(transfer, CURLINFO_PROXY_SSL_VERIFYRESULT) != 0 || awaited_tunnel(transfer, about);
  return proxy ? "the proxy on the way to " : "";
}

static void diagnose_connect(const struct transfer *transfer, const struct circumstances *about,
                             struct failure *failure) {
  const char *why = explain_errno(info_long(transfer, CURLINFO_OS_ERRNO));
  const char *where = about->endpoint->authority.data;
  if (used_proxy(transfer, about))
    failure_set(failure, FAILURE_PROXY, true, "cannot connect to the proxy on the way to %s: %s",
                where, why);
  else
    failure_set(failure, FAILURE_CONNECT, true, "cannot connect to %s: %s", where, why);
}

/* True when a proxy refused to open the tunnel. */
static bool diagnose_tunnel(const struct transfer *transfer, const struct circumstances *about,
                            struct failure *failure) {
  long status = info_long(transfer, CURLINFO_HTTP_CONNECTCODE);
  if (status == 0 || status / 100 == 2) return false;
  failure_set(failure, FAILURE_PROXY, status >= 500,
              "the proxy did not open a tunnel to %s: it answered with status %ld%s",
              about->endpoint->authority.data, status,
              status == 407 ? "; put its user name and password into the proxy's URL" : "");
  return true;
}

/* A transfer that has opened no socket is still looking its name up, unless it waits for the HTTP/2
 * connection of another one. */
bool diagnose_lookup_timed_out(const struct transfer *transfer, const struct circumstances *about) {
  bool may_have_waited = about->shared && strcmp(about->settings->http_version, "2") == 0;
  return transfer->result == CURLE_OPERATION_TIMEDOUT && !may_have_waited && !transfer->ready &&
         transfer->opener.last_port == 0;
}

enum { SECONDS_SIZE = sizeof "-9223372036854775.808" };

/* Writes milliseconds as seconds, with a decimal point in every locale. */
static void write_seconds(int64_t ms, char out[SECONDS_SIZE]) {
  int size = snprintf(out, SECONDS_SIZE, "%lld.%03d", (long long)(ms / 1000), (int)(ms % 1000));
  while (out[size - 1] == '0')
    out[--size] = '\0';
  if (out[size - 1] == '.') out[--size] = '\0';
}

static void diagnose_timeout(const struct transfer *transfer, const struct circumstances *about,
                             struct failure *failure) {
  const char *where = about->endpoint->authority.data;
  bool connected = transfer->ready;
  int64_t limit_ms = connected ? about->timeout_ms : about->settings->connect_timeout_ms;
  char limit[SECONDS_SIZE];
  write_seconds(limit_ms < about->timeout_ms ? limit_ms : about->timeout_ms, limit);
  if (diagnose_lookup_timed_out(transfer, about))
    failure_set(failure, FAILURE_TIMEOUT, true,
                "looking up the address of %s did not end within %s s; check this machine's DNS, "
                "or pass resolve",
                where, limit);
  else if (awaited_tunnel(transfer, about))
    failure_set(failure, FAILURE_TIMEOUT, true,
                "cannot connect to %s within %s s: the proxy on the way did not open a tunnel",
                where, limit);
  else if (!connected)
    failure_set(failure, FAILURE_TIMEOUT, true, "cannot connect to %s within %s s", where, limit);
  else
    failure_set(failure, FAILURE_TIMEOUT, true, "%s did not answer in full within %s s", where,
                limit);
}

/* What a person can do about a chain that does not verify. */
static void explain_chain(const struct settings *settings, char *out, size_t size) {
  if (settings->capath != NULL && access(settings->capath, R_OK | X_OK) != 0)
    snprintf(out, size, "; cannot read the directory %s of option capath", settings->capath);
  else if (settings->cacert != NULL)
    snprintf(out, size, "; no CA in %s has signed it", settings->cacert);
  else if (settings->capath != NULL)
    snprintf(out, size, "; no CA in %s has signed it (are its files hashed, as by c_rehash?)",
             settings->capath);
  else
    snprintf(out, size, "; pass cacert = the cluster's CA");
}

static void diagnose_certificate(const struct transfer *transfer, const struct circumstances *about,
                                 struct failure *failure) {
  static const char prefix[] = "SSL certificate problem: ";
  char sample[SCRUB_SIZE], mend[FAILURE_MESSAGE_SIZE / 2] = "";
  const char *text =
      transfer->error[0] != '\0' ? transfer->error : curl_easy_strerror(transfer->result);
  if (strncmp(text, prefix, sizeof prefix - 1) == 0) text += sizeof prefix - 1;
  switch (info_long(transfer, CURLINFO_SSL_VERIFYRESULT)) {
  case VERIFY_EXPIRED:
  case VERIFY_NOT_YET_VALID:
    snprintf(mend, sizeof mend, "; have it renewed, or check this machine's clock");
    break;
  case VERIFY_ISSUER_UNKNOWN:
  case VERIFY_SELF_SIGNED:
  case VERIFY_SELF_SIGNED_IN_CHAIN:
  case VERIFY_ISSUER_NOT_LOCAL:
  case VERIFY_LEAF_ALONE:
    explain_chain(about->settings, mend, sizeof mend);
    break;
  case VERIFY_OK: /* no fault in the chain, so it is the name that does not match */
  case VERIFY_UNSPECIFIED:
  case VERIFY_OTHER_HOST:
  case VERIFY_OTHER_ADDRESS:
    snprintf(mend, sizeof mend,
             "; use a name that the certificate holds as host, and resolve to say where it is");
    break;
  default:
    break;
  }
  failure_set(failure, FAILURE_TLS, false, "cannot verify the certificate of %s%s: %s%s",
              tls_peer(transfer, about), about->endpoint->authority.data,
              scrub_sample(about->secrets, text, strlen(text), sample), mend);
}

static bool is_unreadable(const char *path) { return path != NULL && access(path, R_OK) != 0; }

static void diagnose_client_certificate(const struct circumstances *about,
                                        struct failure *failure) {
  const struct settings *settings = about->settings;
  const char *key = settings->key != NULL ? settings->key : settings->cert;
  if (is_unreadable(settings->cert))
    failure_set(failure, FAILURE_TLS, false, "cannot read the client certificate %s",
                settings->cert);
  else if (is_unreadable(key))
    failure_set(failure, FAILURE_TLS, false, "cannot read the client key %s", key);
  else
    failure_set(failure, FAILURE_TLS, false,
                "cannot use the client certificate %s with the key %s: a wrong format, a wrong "
                "key_password, or they do not belong together",
                settings->cert, key);
}

static void diagnose_pin(const struct circumstances *about, struct failure *failure) {
  const char *pin = about->settings->pinned_public_key;
  if (strncmp(pin, "sha256//", 8) != 0 && is_unreadable(pin))
    failure_set(failure, FAILURE_TLS, false, "cannot read the pinned public key %s", pin);
  else
    failure_set(failure, FAILURE_TLS, false,
                "the public key of %s is not the pinned one; if the cluster has a new key, "
                "change pinned_public_key",
                about->endpoint->authority.data);
}

/* What a person can do about a handshake that one side refused to go on with. */
static const char *explain_refusal(const struct handshake *handshake) {
  if (handshake->foreign) return "; is there a TLS service at that port?";
  if (handshake->alert_received == ALERT_PROTOCOL_VERSION ||
      handshake->alert_sent == ALERT_PROTOCOL_VERSION)
    return "; the server speaks no TLS version that tls_min allows";
  if (handshake->alert_received == ALERT_CERTIFICATE_REQUIRED ||
      handshake->alert_received == ALERT_HANDSHAKE_FAILURE ||
      handshake->alert_received == ALERT_BAD_CERTIFICATE)
    return "; if the server wants a client certificate, pass cert and key";
  return "";
}

static void diagnose_handshake(const struct transfer *transfer, const struct circumstances *about,
                               struct failure *failure) {
  char sample[SCRUB_SIZE];
  failure_set(failure, FAILURE_TLS, false, "cannot agree on TLS with %s%s: %s%s",
              tls_peer(transfer, about), about->endpoint->authority.data,
              scrub_sample(about->secrets, transfer->error, strlen(transfer->error), sample),
              explain_refusal(&transfer->handshake));
}

/* True when a proxy closed the connection or answered with something else than a status. */
static bool diagnose_proxy_cut(const struct transfer *transfer, const struct circumstances *about,
                               struct failure *failure) {
  if (!awaited_tunnel(transfer, about)) return false;
  failure_set(failure, FAILURE_PROXY, true,
              transfer->answer.head_bytes == 0
                  ? "the proxy on the way to %s closed the connection before it answered"
                  : "what the proxy on the way to %s answered is not HTTP, or was cut off; is it "
                    "an HTTP proxy?",
              about->endpoint->authority.data);
  return true;
}

static void diagnose_cut(const struct transfer *transfer, const struct circumstances *about,
                         struct failure *failure) {
  const char *where = about->endpoint->authority.data;
  if (diagnose_proxy_cut(transfer, about, failure)) return;
  if (transfer->result == CURLE_UNSUPPORTED_PROTOCOL ||
      transfer->result == CURLE_WEIRD_SERVER_REPLY)
    failure_set(failure, FAILURE_NETWORK, true,
                "what %s answered is not HTTP, or was cut off at once; is the port right?", where);
  else if (!transfer->ready || transfer->answer.head_bytes == 0) /* or they are a proxy's */
    failure_set(failure, FAILURE_NETWORK, true,
                "the connection to %s ended before there was an answer", where);
  else
    failure_set(failure, FAILURE_NETWORK, true, "the answer of %s was cut off", where);
}

/* The errno of what this process lacks for a connection, a descriptor or memory; 0 when it lacks
 * nothing. libcurl's codes name what it could not open for want of a descriptor as if that were at
 * fault. */
static int find_shortage(const struct transfer *transfer, const struct circumstances *about) {
  enum { LOOKUP_DESCRIPTORS = 4 }; /* libcurl's pair, and what the resolver opens */
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
    return about->settings->cacert == NULL ? opener->exhausted : 0;
  default:
    return 0;
  }
}

/* True when the process lacks descriptors, or memory for a socket. */
static bool diagnose_shortage(const struct transfer *transfer, const struct circumstances *about,
                              struct failure *failure) {
  int problem = find_shortage(transfer, about);
  const char *descriptors = failure_explain_descriptors(problem);
  if (descriptors != NULL)
    failure_set(failure, FAILURE_CONNECT, true, "cannot connect to %s: %s",
                about->endpoint->authority.data, descriptors);
  else if (problem == ENOMEM || problem == ENOBUFS)
    failure_set_no_memory(failure);
  return failure->code != FAILURE_NONE;
}

static void diagnose_error(const struct transfer *transfer, const struct circumstances *about,
                           struct failure *failure) {
  const char *where = about->endpoint->authority.data;
  switch (transfer->result) {
  case CURLE_COULDNT_RESOLVE_HOST:
    failure_set(failure, FAILURE_RESOLVE, true,
                "cannot find the address of %s; add the name to /etc/hosts or DNS, or pass "
                "resolve = { [\"%s\"] = \"<IP>\" }",
                where, where);
    break;
  case CURLE_COULDNT_RESOLVE_PROXY:
    failure_set(failure, FAILURE_PROXY, true,
                "cannot find the address of the proxy on the way to %s", where);
    break;
  case CURLE_PROXY:
    failure_set(failure, FAILURE_PROXY, true, "the proxy on the way to %s failed", where);
    break;
  case CURLE_COULDNT_CONNECT:
    diagnose_connect(transfer, about, failure);
    break;
  case CURLE_OPERATION_TIMEDOUT:
    diagnose_timeout(transfer, about, failure);
    break;
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_ISSUER_ERROR:
  case CURLE_SSL_INVALIDCERTSTATUS:
    diagnose_certificate(transfer, about, failure);
    break;
  case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    diagnose_pin(about, failure);
    break;
  case CURLE_SSL_CACERT_BADFILE:
    failure_set(failure, FAILURE_TLS, false, "cannot read the CA file %s, or it holds no CA",
                about->settings->cacert != NULL ? about->settings->cacert : "of this machine");
    break;
  case CURLE_BAD_FUNCTION_ARGUMENT: /* what libcurl 8.22 says of a key that it cannot use */
  case CURLE_SSL_CERTPROBLEM:
    if (about->settings->cert != NULL)
      diagnose_client_certificate(about, failure);
    else
      diagnose_cut(transfer, about, failure);
    break;
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_SSL_CIPHER:
  case CURLE_SSL_CLIENTCERT:
  case CURLE_USE_SSL_FAILED:
  case CURLE_RECV_ERROR:
  case CURLE_SEND_ERROR:
    if (handshake_was_refused(&transfer->handshake))
      diagnose_handshake(transfer, about, failure);
    else
      diagnose_cut(transfer, about, failure);
    break;
  case CURLE_OUT_OF_MEMORY:
  case CURLE_WRITE_ERROR: /* the callbacks refuse for size, which was looked at before, or memory */
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
        "the answer of %s came compressed, though that was not asked for, and libcurl cannot "
        "decode it",
        where);
    break;
  default:
    diagnose_cut(transfer, about, failure);
  }
}

/* Was the status of a refusal there before its body proved too large, stalled, was cut off or could
 * not be decoded? Then it is the answer, and what came of the body a sample. */
static bool has_refusal(const struct transfer *transfer) {
  const struct answer *answer = &transfer->answer;
  bool no_memory =
      transfer->result == CURLE_OUT_OF_MEMORY ||
      (transfer->result == CURLE_WRITE_ERROR && !answer->too_large); /* the callbacks' refusals */
  return answer->head_complete && answer->status > 200 && transfer_was_sent(transfer) && !no_memory;
}

/* Adds which proxy an attempt was made through, where it opened a connection or failed for the
 * proxy. */
static void name_proxy(const struct transfer *transfer, const struct circumstances *about,
                       struct failure *failure) {
  char words[ROUTE_PROXY_SIZE];
  bool by_network = transfer->opener.last_port != 0 &&
                    (failure->code == FAILURE_TLS || failure->code == FAILURE_TIMEOUT ||
                     failure->code == FAILURE_NETWORK) &&
                    used_proxy(transfer, about);
  if (!by_network && failure->code != FAILURE_PROXY) return;
  route_describe_proxy(about->settings, words);
  failure_add(failure, "; %s", words);
}

/* Is there a status, which is told later, or was something told that the process lacks, or a
 * proxy's status? */
static bool is_judged(const struct transfer *transfer, const struct circumstances *about,
                      struct failure *failure) {
  return has_refusal(transfer) || diagnose_shortage(transfer, about, failure) ||
         (!transfer->answer.too_large && transfer->result != CURLE_OUT_OF_MEMORY &&
          diagnose_tunnel(transfer, about, failure));
}

void diagnose_transfer(const struct transfer *transfer, const struct circumstances *about,
                       struct failure *failure) {
  const struct answer *answer = &transfer->answer;
  failure_clear(failure);
  if (transfer->result != CURLE_OK && is_judged(transfer, about, failure))
    ; /* that says more than libcurl's code */
  else if (answer->too_large)
    failure_set(
        failure, FAILURE_TOO_LARGE, false, "%s sent more than %ld bytes of headers or %ld of body",
        about->endpoint->authority.data, (long)TRANSFER_HEAD_LIMIT, (long)transfer->body_limit);
  else if (transfer->result != CURLE_OK)
    diagnose_error(transfer, about, failure);
  else if (!answer->head_complete) /* libcurl takes what it has for an answer */
    diagnose_cut(transfer, about, failure);
  name_proxy(transfer, about, failure);
  failure->curl_code = (int)transfer->result;
  failure->status = failure->code == FAILURE_PROXY ? 0 : answer->status;
}
