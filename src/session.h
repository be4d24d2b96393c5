/* session.h - the client's identity towards the cluster: the current Authorization header, and the
 * login that it may need. A zeroed struct session is a valid closed one. */
#ifndef ICPTOKEN_SESSION_H
#define ICPTOKEN_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "endpoint.h"
#include "exchange.h"
#include "pool.h"
#include "refusal.h"
#include "scrub.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

struct session {
  struct endpoint endpoint; /* of the identity provider; empty without option login */
  struct exchange login;    /* with it */
  struct buffer line;       /* the current Authorization header */
  struct buffer login_line; /* the header that the last login returned */
  struct buffer pair;       /* base64 of the login's user name and password, for messages to hide */
  struct buffer identity;   /* the last line that the id_token function or file returned to
                               client:token */
  struct refusal refusal;   /* of the client's own credential */
  bool accepted;    /* the client's own user name and password were, and were not refused since */
  bool line_is_own; /* `line` holds the client's own credential, and that is constant */
  uint64_t serial;  /* counts the changes of `line` */
};

/* Sets the current credential in the transfer, unless it is already set. False if out of memory. */
bool session_authorize(const struct session *session, struct transfer *transfer);

/* Registers the secrets of the session that no message may contain. */
void session_add_secrets(const struct session *session, struct secrets *secrets);

/* Aborts a login in progress and wipes its answer and its form. */
void session_stop(struct session *session, struct pool *pool);

/* Frees everything that the session owns. */
void session_close(struct session *session, struct pool *pool);

#pragma GCC visibility pop

#endif
