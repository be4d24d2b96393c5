/* files.h - reads the files of the TLS options that are pipes. libcurl would wait for their writers
 * without a limit, and open some of them twice. They are read once, within the time limit of a
 * call, and libcurl gets their contents. */
#ifndef ICPTOKEN_FILES_H
#define ICPTOKEN_FILES_H

#include <lua.h>
#include <stdbool.h>

#include "call.h"

#pragma GCC visibility push(hidden)

/* Reads what has not been read yet, and passes it to the client's own transfers. For protected
 * bodies. False with the call's failure set. */
bool files_ready(lua_State *L, struct call *call);

#pragma GCC visibility pop

#endif
