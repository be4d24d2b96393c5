/* session.c - the client's identity towards the cluster: the current Authorization header, and the
 * login that it may need. */
#include "session.h"

#include <string.h>

bool session_authorize(const struct session *session, struct transfer *transfer) {
  if (transfer->credential_serial == session->serial) return true;
  bool authorized = transfer_set_credential(transfer, &session->line);
  transfer->credential_serial = authorized ? session->serial : 0;
  return authorized;
}

/* Registers a credential in base64, which others may write without its padding. */
static void add_base64(struct secrets *secrets, enum secret which, const char *text,
                       size_t length) {
  while (length > 0 && text[length - 1] == '=')
    length--;
  scrub_set_secret(secrets, which, text, length);
}

/* Registers the value of an "Authorization: <scheme> <value>" line. */
static void add_line(struct secrets *secrets, enum secret which, const struct buffer *line) {
  static const char name[] = "Authorization: ";
  if (line->length < sizeof name) return;
  const char *space = memchr(line->data + sizeof name - 1, ' ', line->length - sizeof name + 1);
  if (space != NULL)
    add_base64(secrets, which, space + 1, (size_t)(line->data + line->length - space - 1));
}

void session_add_secrets(const struct session *session, struct secrets *secrets) {
  add_line(secrets, SECRET_LINE, &session->line);
  add_line(secrets, SECRET_LOGIN_LINE, &session->login_line);
  add_base64(secrets, SECRET_LOGIN_PAIR, session->pair.data, session->pair.length);
}

void session_stop(struct session *session, struct pool *pool) {
  exchange_stop(&session->login, pool);
  transfer_forget_answer(&session->login.transfer);
  transfer_clear_form(&session->login.transfer);
  session->login.failure = NULL;
}

void session_close(struct session *session, struct pool *pool) {
  exchange_close(&session->login, pool);
  endpoint_free(&session->endpoint);
  buffer_free(&session->line);
  buffer_free(&session->login_line);
  buffer_free(&session->pair);
  buffer_free(&session->identity);
  refusal_free(&session->refusal);
}
