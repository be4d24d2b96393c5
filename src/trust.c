/* trust.c - which certificates a handle accepts, and which one it presents. */
#include "trust.h"

#include <string.h>

/* A PEM file without a certificate that OpenSSL accepts: an empty revocation list. It has no
 * effect, as revocation is not checked. */
#define TRUST_NOBODY                                                                               \
  "-----BEGIN X509 CRL-----\n"                                                                     \
  "MIG5MGACAQEwCgYIKoZIzj0EAwIwITEfMB0GA1UEAwwWaWNwdG9rZW4gdHJ1c3Rz\n"                             \
  "IG5vYm9keRcNNzAwMTAxMDAwMDAwWhcNNzAwMTAxMDAwMDAxWqAOMAwwCgYDVR0U\n"                             \
  "BAMCAQEwCgYIKoZIzj0EAwIDSQAwRgIhANgbDUFEAYbazs2z64d5RCtiZuJGtYRf\n"                             \
  "G6v5zpbC0GPJAiEAr4vUGM4nws2QKiRWTTJn48CzRLRnokHZ4HmqUn1LiJI=\n"                                 \
  "-----END X509 CRL-----\n"

static bool is_openssl(CURL *easy) {
  const struct curl_tlssessioninfo *info = NULL;
  curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info);
  return info != NULL && info->backend == CURLSSLBACKEND_OPENSSL;
}

/* From 8.17 to 8.22 libcurl uses its built-in default for an option that is NULL. */
static bool brings_default_back(void) {
  unsigned version = curl_version_info(CURLVERSION_NOW)->version_num;
  return version >= 0x081100 && version < 0x081700;
}

/* Makes cacert, capath or both replace the trust that is built into libcurl, which has one default
 * for each. The one that was not set gets a value that trusts no CA: a directory that cannot exist,
 * and a blob, which replaces the file. */
static void replace_trust(const struct setup *setup, const struct settings *settings) {
  bool openssl = is_openssl(setup->easy);
  if (!openssl && brings_default_back()) setup_note(setup, CURLE_NOT_BUILT_IN, "CURLOPT_CAINFO");
  SETUP_SET(setup, CURLOPT_CAINFO, settings->cacert);
  if (settings->cacert == NULL && openssl) {
    char pem[] = TRUST_NOBODY;
    struct curl_blob blob = {pem, sizeof pem - 1, CURL_BLOB_COPY};
    SETUP_SET(setup, CURLOPT_CAINFO_BLOB, &blob);
  }
  if (settings->capath != NULL)
    SETUP_SET(setup, CURLOPT_CAPATH, settings->capath);
  else /* a libcurl without a built-in directory may refuse */
    curl_easy_setopt(setup->easy, CURLOPT_CAPATH, openssl ? "/dev/null" : NULL);
  curl_easy_setopt(setup->easy, CURLOPT_CA_CACHE_TIMEOUT, 0L); /* fails where there is none */
  SETUP_SET(setup, CURLOPT_SSL_SESSIONID_CACHE,
            0L); /* a resumed session would not look at the CA */
}

void trust_set(const struct setup *setup, const struct settings *settings) {
  if (settings->cacert != NULL || settings->capath != NULL) replace_trust(setup, settings);
  SETUP_SET(setup, CURLOPT_SSL_VERIFYPEER, settings->insecure ? 0L : 1L);
  SETUP_SET(setup, CURLOPT_SSL_VERIFYHOST, settings->insecure ? 0L : 2L);
  SETUP_SET(setup, CURLOPT_SSLVERSION,
            (long)(strcmp(settings->tls_min, "1.3") == 0 ? CURL_SSLVERSION_TLSv1_3
                                                         : CURL_SSLVERSION_TLSv1_2));
  if (settings->certificates)
    curl_easy_setopt(setup->easy, CURLOPT_CERTINFO, 1L); /* fails where TLS is not OpenSSL's */
  if (settings->pinned_public_key != NULL)
    SETUP_SET(setup, CURLOPT_PINNEDPUBLICKEY, settings->pinned_public_key);
  if (settings->cert != NULL) SETUP_SET(setup, CURLOPT_SSLCERT, settings->cert);
  if (settings->key != NULL) SETUP_SET(setup, CURLOPT_SSLKEY, settings->key);
  /* without one OpenSSL would prompt at the terminal, and wait */
  SETUP_SET(setup, CURLOPT_KEYPASSWD, settings->key_password != NULL ? settings->key_password : "");
}
