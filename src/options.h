/* options.h - reads, checks and copies the tables that callers pass in. Every error in them raises,
 * naming the option and never quoting a value. This file's table of options is the only list; docs
 * and types are tested against it. */
#ifndef ICPTOKEN_OPTIONS_H
#define ICPTOKEN_OPTIONS_H

#include <lua.h>
#include <stdbool.h>

#include "option.h"
#include "settings.h"

#pragma GCC visibility push(hidden)

/* The path of the login endpoint unless option path is set. */
#define OPTIONS_LOGIN_PATH "/idprovider/v1/auth/identitytoken"

/* Reads the table at argument, of kind OPTIONS_CLIENT or OPTIONS_LOGIN, into settings and pushes a
 * table that keeps every string alive to which settings now points. Absent options get their
 * defaults, and the combination is checked (one credential, host or url). */
void options_read_client(lua_State *L, int argument, enum options_kind kind,
                         struct settings *settings);

/* Reads the table of a request and pushes a copy of it. settings is NULL for a request of
 * client:token or fetch_all. For one of client:fetch it is a copy of the client's settings, in
 * which only the options in the table are changed; a credential replaces the client's as a whole.
 * Returns whether the table contains a credential. */
bool options_read_request(lua_State *L, struct options_origin origin, struct settings *settings);

#pragma GCC visibility pop

#endif
