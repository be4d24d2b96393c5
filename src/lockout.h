/* lockout.h - keeps a client from locking an account: a refused credential is not sent again during
 * a pause. For the protected bodies of calls. */
#ifndef ICPTOKEN_LOCKOUT_H
#define ICPTOKEN_LOCKOUT_H

#include <lua.h>
#include <stdbool.h>

#include "call.h"

#pragma GCC visibility push(hidden)

/* After a failed login: records it if the identity provider refused user name and password. The
 * server's errors, or nil, are at the top and stay there. */
void lockout_note_login(lua_State *L, struct call *call, const struct failure *failure);

/* The same after a failed token request. */
void lockout_note_request(lua_State *L, struct call *call, const struct failure *failure);

/* After a token was read: records that the credential was accepted. */
void lockout_forget(struct call *call);

/* Must the client's own credential not be sent now? True with failure set and the server's errors,
 * or nil, at the top. */
bool lockout_holds(lua_State *L, struct call *call, struct failure *failure);

#pragma GCC visibility pop

#endif
