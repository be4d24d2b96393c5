/* handshake.h - what passed between libcurl's TLS library and the peer while a connection was set
 * up. libcurl has one result code for a handshake that the peer refused and for one that was cut
 * off; the records themselves tell them apart. libcurl shows them to its debug callback when it is
 * built with OpenSSL or one of its derivatives; with another TLS library nothing is seen. */
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

/* A zeroed struct handshake has seen nothing. */
struct handshake {
  bool heard;                               /* a record of the peer came */
  bool answered;                            /* it held a handshake message */
  bool foreign;                             /* what came first was no TLS record */
  unsigned char alert_received, alert_sent; /* fatal ones; ALERT_NONE until then */
};

/* Notes what libcurl's debug callback was called with (CURLOPT_DEBUGFUNCTION). Everything but TLS
 * records is ignored. */
void handshake_note(struct handshake *handshake, curl_infotype type, const char *data, size_t size);

/* Did one side refuse to go on? False for a handshake that is whole, and for one that was cut off.
 */
bool handshake_was_refused(const struct handshake *handshake);

#pragma GCC visibility pop

#endif
