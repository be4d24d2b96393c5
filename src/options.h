/* options.h - the tables that callers pass in: reads, checks and copies them.
 * All that is wrong is the caller's mistake and raises, naming the option and never quoting a
 * value. This file's table of options is the one list; docs and types are tested against it. */
#ifndef ICPTOKEN_OPTIONS_H
#define ICPTOKEN_OPTIONS_H

#include <lua.h>
#include <stdbool.h>

#include "settings.h"

#pragma GCC visibility push(hidden)

/* The tables in which an option may stand: that of icptoken.new, a request of client:token or
 * fetch_all, one of client:fetch, that of icptoken.login. */
enum options_place {
  OPTIONS_CLIENT = 1,
  OPTIONS_REQUEST = 2,
  OPTIONS_FETCH = 4,
  OPTIONS_LOGIN = 8
};

/* Where a log-in goes unless option path says otherwise. */
#define OPTIONS_LOGIN_PATH "/idprovider/v1/auth/identitytoken"

/* Where a table of options comes from: its stack index, the argument that errors name, and its
 * number where it is one of a list of requests (else 0). */
struct options_origin {
  int index, argument, number;
};

/* Reads the table of an origin into settings and pushes a table that keeps every string that
 * settings now points to alive. For OPTIONS_CLIENT and OPTIONS_LOGIN what is not given gets its
 * default, and the combination is checked (one credential, host or url). For a request only what
 * is given is changed; a credential replaces the one that was there as a whole. Returns whether the
 * table brought a credential. */
bool options_read(lua_State *L, struct options_origin origin, enum options_place place,
                  struct settings *settings);

#pragma GCC visibility pop

#endif
