/* login.h - exchanges user name and password for an ID token of the identity provider. */
#ifndef ICPTOKEN_LOGIN_H
#define ICPTOKEN_LOGIN_H

#include <lua.h>
#include <stdbool.h>

#include "call.h"

#pragma GCC visibility push(hidden)

/* Logs in and stores the ID token in session.login_line. For protected bodies. False with failure
 * set and the server's errors, or nil, at the top. */
bool login_perform(lua_State *L, struct call *call, struct failure *failure);

/* icptoken.login, with a client made for it at index. Pushes the identity provider's answer and
 * returns 1, or nil, message, code, details and 4. */
int login_fetch(lua_State *L, int index);

#pragma GCC visibility pop

#endif
