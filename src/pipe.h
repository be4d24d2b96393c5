/* pipe.h - reads a file that may be a pipe, within the time limit of a call. */
#ifndef ICPTOKEN_PIPE_H
#define ICPTOKEN_PIPE_H

#include <lua.h>
#include <stddef.h>

#include "buffer.h"
#include "call.h"

#pragma GCC visibility push(hidden)

/* Reads a file of at most limit bytes into content, which is the client's own. Waits for the writer
 * of a pipe until the call's deadline, and runs pending hooks meanwhile. Returns 0, or an errno:
 * ETIMEDOUT for a pipe whose writer has not finished, EFBIG, ENOMEM. */
int pipe_read(lua_State *L, struct call *call, const char *path, size_t limit,
              struct buffer *content);

#pragma GCC visibility pop

#endif
