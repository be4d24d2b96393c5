/* lockout.c - keeps a client from locking an account: a refused credential is not sent again during
 * a pause. */
#include "lockout.h"

#include "clock.h"
#include "compat.h"

/* Returns the identity of a refusal: the Authorization header, or an empty one for a client that
 * logs in, whose user name and password never change. NULL if it is not remembered: for a
 * credential that is not the client's own, and for an ID token, which locks no account, where a
 * call must send it. */
static const struct buffer *own_credential(const struct call *call) {
  static const struct buffer of_login = {0};
  const struct client *client = call->client;
  const struct settings *settings = &client->settings;
  if (call->settings != settings || settings->credential.anonymous) return NULL;
  if (settings->credential.login_username != NULL) return &of_login;
  return settings->credential.username != NULL || call->polls ? &client->session.line : NULL;
}

void lockout_note_login(lua_State *L, struct call *call, const struct failure *failure) {
  const struct buffer *credential = own_credential(call);
  if (credential == NULL || failure->code != FAILURE_UNAUTHORIZED) return;
  call->client->session.accepted = false;
  compat_getown(L, CALL_CLIENT);
  if (lua_istable(L, -2))
    lua_pushvalue(L, -2);
  else
    lua_pushboolean(L, 0);
  lua_rawseti(L, -2, CLIENT_REFUSAL_ERRORS);
  lua_pop(L, 1);
  refusal_note(&call->client->session.refusal, credential, failure, call->shown_url,
               clock_steady_ms());
}

void lockout_note_request(lua_State *L, struct call *call, const struct failure *failure) {
  bool logs_in = call->settings->credential.login_username != NULL;
  /* a failed login says nothing about the credential of token requests */
  if (!logs_in || call->client->session.login_line.length > 0) lockout_note_login(L, call, failure);
}

void lockout_forget(struct call *call) {
  if (own_credential(call) == NULL) return;
  refusal_forget(&call->client->session.refusal);
  call->client->session.accepted = true;
}

bool lockout_holds(lua_State *L, struct call *call, struct failure *failure) {
  const struct refusal *refusal = &call->client->session.refusal;
  const struct buffer *credential = own_credential(call);
  int64_t now = clock_steady_ms();
  if (credential == NULL || !refusal_holds(refusal, credential, now)) return false;
  call->shown_url = refusal_tell(refusal, failure, now);
  compat_getown(L, CALL_CLIENT);
  lua_rawgeti(L, -1, CLIENT_REFUSAL_ERRORS);
  lua_remove(L, -2);
  if (lua_istable(L, -1)) return true;
  lua_pop(L, 1);
  lua_pushnil(L);
  return true;
}
