/* files.h - the files of the TLS options where they are pipes: libcurl would wait for their writer
 * without a limit, and open some of them twice. They are read once, within the time limit of a
 * call, and libcurl gets what was in them. */
#ifndef ICPTOKEN_FILES_H
#define ICPTOKEN_FILES_H

#include <lua.h>
#include <stdbool.h>

#include "call.h"

#pragma GCC visibility push(hidden)

/* Reads what is not read yet, and gives it to the client's own transfers. For protected halves.
 * False with the call's failure set. */
bool files_ready(lua_State *L, struct call *call);

/* Gives a transfer what was read. False when memory is short. */
bool files_lend(struct client *client, struct transfer *transfer);

#pragma GCC visibility pop

#endif
