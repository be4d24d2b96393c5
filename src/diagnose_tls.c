/* diagnose_tls.c - derives a failure, whose message says what to do, from libcurl's result of a
 * failed TLS connection. libcurl's text is shown here, and scrubbed; decisions never depend on it.
 */
#include "diagnose_tls.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "route.h"

/* OpenSSL's X509_V_ERR_* numbers, which CURLINFO_SSL_VERIFYRESULT returns. */
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

/* Names the peer of the handshake: before the tunnel is open it is the proxy. */
static const char *tls_peer(const struct transfer *transfer, const struct context *context) {
  bool proxy = transfer_info(transfer, CURLINFO_PROXY_SSL_VERIFYRESULT) != 0 ||
               route_awaited_tunnel(transfer, context);
  return proxy ? "the proxy on the way to " : "";
}

/* Returns advice for a chain that does not verify. */
static void explain_chain(const struct settings *settings, char *out, size_t size) {
  if (settings->capath != NULL && access(settings->capath, R_OK | X_OK) != 0)
    snprintf(out, size, "; cannot read the directory %s of option capath", settings->capath);
  else if (settings->cacert != NULL)
    snprintf(out, size, "; no CA in %s has signed it: is it the CA of this cluster?",
             settings->cacert);
  else if (settings->capath != NULL)
    snprintf(out, size, "; no CA in %s has signed it (are its files hashed, as by c_rehash?)",
             settings->capath);
  else
    snprintf(out, size, "; pass cacert = the cluster's CA");
}

void diagnose_tls_certificate(const struct transfer *transfer, const struct context *context,
                              struct failure *failure) {
  static const char prefix[] = "SSL certificate problem: ";
  char sample[SCRUB_SIZE], hint[FAILURE_MESSAGE_SIZE / 2] = "";
  const char *text =
      transfer->error[0] != '\0' ? transfer->error : curl_easy_strerror(transfer->result);
  if (strncmp(text, prefix, sizeof prefix - 1) == 0) text += sizeof prefix - 1;
  switch (transfer_info(transfer, CURLINFO_SSL_VERIFYRESULT)) {
  case VERIFY_EXPIRED:
  case VERIFY_NOT_YET_VALID:
    snprintf(hint, sizeof hint, "; have it renewed, or check this machine's clock");
    break;
  case VERIFY_ISSUER_UNKNOWN:
  case VERIFY_SELF_SIGNED:
  case VERIFY_SELF_SIGNED_IN_CHAIN:
  case VERIFY_ISSUER_NOT_LOCAL:
  case VERIFY_LEAF_ALONE:
    explain_chain(context->settings, hint, sizeof hint);
    break;
  case VERIFY_OK: /* the chain is valid, so it is the name that does not match */
  case VERIFY_UNSPECIFIED:
  case VERIFY_OTHER_HOST:
  case VERIFY_OTHER_ADDRESS:
    snprintf(hint, sizeof hint, "; set host to a name in the certificate, and map it with resolve");
    break;
  default:
    snprintf(hint, sizeof hint, "; have it replaced");
    break;
  }
  failure_set(failure, FAILURE_TLS, false, "cannot verify the certificate of %s%s: %s%s",
              tls_peer(transfer, context), context->endpoint->authority.data,
              scrub_sample(context->secrets, text, strlen(text), sample), hint);
}

static const char *explain_file(int number) {
  switch (number) {
  case ENOENT:
    return "there is no such file";
  case EACCES:
    return "this user may not read it, or not enter a directory above it";
  case ENOTDIR:
    return "its path goes through a file that is no directory";
  default:
    return "it cannot be opened";
  }
}

void diagnose_tls_ca(const struct context *context, struct failure *failure) {
  const char *path = context->settings->cacert;
  struct stat status;
  if (path == NULL)
    failure_set(failure, FAILURE_TLS, false,
                "cannot read this machine's CA file, or it contains no CA; pass cacert = the "
                "cluster's CA");
  else if (access(path, R_OK) != 0 || stat(path, &status) != 0)
    failure_set(failure, FAILURE_TLS, false, "cannot read the CA file %s: %s", path,
                explain_file(errno));
  else if (S_ISDIR(status.st_mode))
    failure_set(failure, FAILURE_TLS, false,
                "the CA file %s is a directory; for a directory, use the option capath", path);
  else
    failure_set(failure, FAILURE_TLS, false,
                "the CA file %s contains no certificate in PEM format%s; it must have a line "
                "-----BEGIN CERTIFICATE-----",
                path, S_ISREG(status.st_mode) ? "" : ", or too much");
}

static bool is_unreadable(const char *path) { return path != NULL && access(path, R_OK) != 0; }

void diagnose_tls_client_certificate(const struct context *context, struct failure *failure) {
  const struct settings *settings = context->settings;
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

void diagnose_tls_pin(const struct context *context, struct failure *failure) {
  const char *pin = context->settings->pinned_public_key;
  if (strncmp(pin, "sha256//", 8) != 0 && is_unreadable(pin))
    failure_set(failure, FAILURE_TLS, false, "cannot read the pinned public key %s", pin);
  else
    failure_set(failure, FAILURE_TLS, false,
                "the public key of %s is not the pinned one; if the cluster has a new key, "
                "change pinned_public_key",
                context->endpoint->authority.data);
}

/* Returns advice for a handshake that one side rejected. */
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

void diagnose_tls_handshake(const struct transfer *transfer, const struct context *context,
                            struct failure *failure) {
  char sample[SCRUB_SIZE];
  failure_set(failure, FAILURE_TLS, false, "cannot agree on TLS with %s%s: %s%s",
              tls_peer(transfer, context), context->endpoint->authority.data,
              scrub_sample(context->secrets, transfer->error, strlen(transfer->error), sample),
              explain_refusal(&transfer->handshake));
}
