/* handshake.c - records the TLS messages between libcurl and the peer during a handshake. */
#include "handshake.h"

/* The data that libcurl passes on is identified by its size: a record header has five bytes, an
 * alert two; a handshake message has a header of four bytes, and those of a peer's first answer are
 * longer than five. */
enum { ALERT_BYTES = 2, HEADER_BYTES = 5 };

enum { TYPE_FIRST = 20, TYPE_LAST = 24, VERSION_MAJOR = 3, LEVEL_FATAL = 2 };

static void note_received(struct handshake *handshake, const unsigned char *bytes, size_t size) {
  if (size == HEADER_BYTES && !handshake->heard) {
    handshake->heard = true;
    handshake->foreign = bytes[0] < TYPE_FIRST || bytes[0] > TYPE_LAST || bytes[1] != VERSION_MAJOR;
  } else if (size == ALERT_BYTES && bytes[0] == LEVEL_FATAL) {
    handshake->alert_received = bytes[1];
  } else if (size > HEADER_BYTES) {
    handshake->answered = true;
  }
}

void handshake_note(struct handshake *handshake, curl_infotype type, const char *data,
                    size_t size) {
  const unsigned char *bytes = (const unsigned char *)data;
  if (type == CURLINFO_SSL_DATA_IN)
    note_received(handshake, bytes, size);
  else if (type == CURLINFO_SSL_DATA_OUT && size == ALERT_BYTES && bytes[0] == LEVEL_FATAL)
    handshake->alert_sent = bytes[1];
}

/* OpenSSL also sends decode_error if the peer closed the connection within a record. */
bool handshake_was_refused(const struct handshake *handshake) {
  return handshake->foreign || handshake->alert_received != ALERT_NONE ||
         (handshake->alert_sent != ALERT_NONE && handshake->alert_sent != ALERT_DECODE_ERROR);
}
