/* handshake.h - records the TLS messages between libcurl and the peer during a handshake. libcurl
 * has the same result code for a handshake that the peer rejected and for one that was cut off; the
 * records distinguish them. libcurl passes them to its debug callback when it is built with OpenSSL
 * or one of its derivatives; with another TLS library nothing is recorded. */
#ifndef ICPTOKEN_HANDSHAKE_H
#define ICPTOKEN_HANDSHAKE_H

#include <curl/curl.h>
#include <stdbool.h>

#pragma GCC visibility push(hidden)

/* Descriptions of alerts (RFC 8446 section 6). */
enum {
  ALERT_NONE = 0, /* the number of close_notify, which is never fatal */
  ALERT_HANDSHAKE_FAILURE = 40,
  ALERT_BAD_CERTIFICATE = 42,
  ALERT_DECODE_ERROR = 50,
  ALERT_PROTOCOL_VERSION = 70,
  ALERT_CERTIFICATE_REQUIRED = 116
};

/* A zeroed struct handshake is an empty record. */
struct handshake {
  bool heard;                               /* a record of the peer was received */
  bool answered;                            /* it contained a handshake message */
  bool foreign;                             /* the first bytes received were no TLS record */
  unsigned char alert_received, alert_sent; /* fatal alerts; ALERT_NONE if there was none */
};

/* Records the data of libcurl's debug callback (CURLOPT_DEBUGFUNCTION). Everything but TLS records
 * is ignored. */
void handshake_note(struct handshake *handshake, curl_infotype type, const char *data, size_t size);

/* Did one side reject the handshake? False for a complete handshake, and for one that was cut off.
 */
bool handshake_was_refused(const struct handshake *handshake);

#pragma GCC visibility pop

#endif
