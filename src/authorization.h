/* authorization.h - stores the Authorization header of a call in the session, and logs in if
 * necessary. For the protected bodies of calls. */
#ifndef ICPTOKEN_AUTHORIZATION_H
#define ICPTOKEN_AUTHORIZATION_H

#include <lua.h>
#include <stdbool.h>

#include "call.h"

#pragma GCC visibility push(hidden)

/* Prepares the connection pool and the Authorization header, and starts the call's deadline. False
 * with the call's failure set and the server's errors, or nil, at the top. */
bool authorization_prepare(lua_State *L, struct call *call);

/* Reads the client's credential where it may change, so that the cache can tell whose tokens it
 * holds: session.identity is the last one that could be read, for tokens outlive a source that
 * fails for a while. authorization_prepare then uses what was read, or fails as the reading did.
 * False with the call's failure set if the source returned something that is no ID token: that may
 * stand for another user, so no cached token is returned for it. For client:token alone, before
 * anything else. */
bool authorization_identify(lua_State *L, struct call *call);

/* After a 401, which failure describes: logs in again, if the client has the login option and has
 * not logged in during this call. The errors of the refusal are at the top. Returns true and pops
 * them if there is a new ID token, else false with failure set and the server's errors, or nil, at
 * the top. */
bool authorization_renew(lua_State *L, struct call *call, struct failure *failure);

#pragma GCC visibility pop

#endif
