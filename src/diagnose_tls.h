/* diagnose_tls.h - derives a failure, whose message says what to do, from libcurl's result of a
 * failed TLS connection. */
#ifndef ICPTOKEN_DIAGNOSE_TLS_H
#define ICPTOKEN_DIAGNOSE_TLS_H

#include "context.h"
#include "failure.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

/* Sets failure for a certificate that does not verify. */
void diagnose_tls_certificate(const struct transfer *transfer, const struct context *context,
                              struct failure *failure);

/* The same for a CA file that libcurl cannot use. */
void diagnose_tls_ca(const struct context *context, struct failure *failure);

/* The same for the client's own certificate and key. */
void diagnose_tls_client_certificate(const struct context *context, struct failure *failure);

/* The same for a public key that differs from the pinned one. */
void diagnose_tls_pin(const struct context *context, struct failure *failure);

/* The same for a handshake that failed. */
void diagnose_tls_handshake(const struct transfer *transfer, const struct context *context,
                            struct failure *failure);

#pragma GCC visibility pop

#endif
