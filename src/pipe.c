/* pipe.c - reads a file that may be a pipe, within the time limit of a call. */
#include "pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "clock.h"
#include "compat.h"

/* Reads the available bytes. Returns an errno, EAGAIN if it must wait for more, 0 at the end of the
 * file. */
static int read_some(int fd, size_t limit, struct buffer *content) {
  enum { PIECE = 4096 };
  for (;;) {
    if (content->length > limit) return EFBIG;
    if (!buffer_reserve(content, PIECE)) return ENOMEM;
    ssize_t got = read(fd, content->data + content->length, PIECE);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : 0;
    content->length += (size_t)got;
  }
}

/* read reports the end of a pipe that has no writer yet, but poll does so only once a writer has
 * closed it. */
int pipe_read(lua_State *L, struct call *call, const char *path, size_t limit,
              struct buffer *content) {
  int *opened = &call->client->reading;
  int problem = EAGAIN;
  *opened = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) + 1;
  if (*opened == 0) return errno;
  while (problem == EAGAIN) {
    struct pollfd waiting = {.fd = *opened - 1, .events = POLLIN};
    int64_t left = call->deadline_ms - clock_steady_ms();
    int ready = poll(&waiting, 1, left > CALL_SLICE_MS ? CALL_SLICE_MS : left > 0 ? (int)left : 0);
    if (ready > 0)
      problem = read_some(waiting.fd, limit, content);
    else if (left <= 0)
      problem = ETIMEDOUT;
    else
      compat_run_hook(L, lua_upvalueindex(CLIENT_NOTHING));
  }
  call_close_file(opened);
  return problem;
}
