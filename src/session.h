/* session.h - who the client is to the cluster: the Authorization header of a call, and the log-in
 * that may be needed for it. For the protected halves of calls. */
#ifndef ICPTOKEN_SESSION_H
#define ICPTOKEN_SESSION_H

#include <lua.h>
#include <stdbool.h>

#include "call.h"

#pragma GCC visibility push(hidden)

/* Sees to connections and credential, and starts the clock of the call. False with the call's
 * failure set and the server's errors, or nil, at the top. */
bool session_ready(lua_State *L, struct call *call);

/* Reads the client's credential where it may change, so that the cache can tell whose tokens it
 * holds: client->identity is the last one that could be read, for tokens outlive a source that
 * fails for a while. session_ready then uses what was read, or fails as the reading did. For
 * client:token alone, before anything else. */
void session_identify(lua_State *L, struct call *call);

/* Gives the transfer the credential in use. False when memory is short. */
bool session_lend(const struct client *client, struct transfer *transfer);

/* After a 401: logs in anew, where the client logs in by itself and has not in this call. The
 * server's errors of the refusal are at the top; true without them when there is a new ID token,
 * else false with those of the failure that stands. */
bool session_log_in_again(lua_State *L, struct call *call);

/* After a failure that stands: where the credential was refused and is the client's own, it is not
 * sent again for a pause. The server's errors, or nil, are at the top and stay there. */
void session_note_refusal(lua_State *L, struct call *call, const struct failure *failure);

/* After a token was read: the credential was accepted. */
void session_note_acceptance(struct call *call);

/* Is the client's own credential not to be sent now? True with the failure set and the server's
 * errors, or nil, at the top. */
bool session_is_refused(lua_State *L, struct call *call, struct failure *failure);

/* icptoken.login, with a client made for it at index. Pushes the identity provider's answer and
 * returns 1, or nil, message, code, details and 4. */
int session_login(lua_State *L, int index);

/* Its protected half. */
int session_run_login(lua_State *L);

#pragma GCC visibility pop

#endif
