/* options.h - the tables that callers pass in: reads, checks and copies them.
 * All that is wrong is the caller's mistake and raises, naming the option and never quoting a
 * value. This file's table of options is the one list; docs and types are tested against it. */
#ifndef ICPTOKEN_OPTIONS_H
#define ICPTOKEN_OPTIONS_H

#include <lua.h>

#include "buffer.h"
#include "settings.h"

#pragma GCC visibility push(hidden)

/* The tables in which an option may stand. */
enum options_place { OPTIONS_CLIENT = 1, OPTIONS_REQUEST = 2 };

/* Reads the table at argument into settings and pushes a table that keeps every string that
 * settings now points to alive. For OPTIONS_CLIENT what is not given gets its default, and the
 * combination is checked (one credential, host or url). For OPTIONS_REQUEST only what is given
 * is changed; a credential replaces the one that was there. */
void options_read(lua_State *L, int argument, enum options_place place, struct settings *settings);

/* Appends the query ("?service=…&scope=…") that a request asks for; what the table at request does
 * not name comes from the one at defaults. Both are tables that options_read has pushed; request
 * may be 0 for none. False when memory is short. */
bool options_append_query(lua_State *L, int request, int defaults, bool has_query,
                          struct buffer *url);

#pragma GCC visibility pop

#endif
