/* files.c - reads the files of the TLS options that are pipes. */
#include "files.h"

#include <errno.h>
#include <sys/stat.h>

#include "pipe.h"
#include "tls_files.h"

enum { MAX_FILE = 1024 * 1024 };

static const char *const descriptions[TLS_FILES] = {"CA file", "client certificate", "client key",
                                                    "pinned public key"};

static const char *get_path(const struct settings *settings, int file) {
  const char *const paths[TLS_FILES] = {settings->cacert, settings->cert, settings->key,
                                        settings->pinned_public_key};
  return paths[file];
}

static bool is_pipe(const char *path) {
  struct stat status;
  return path != NULL && stat(path, &status) == 0 && S_ISFIFO(status.st_mode);
}

static bool fail_file(struct call *call, int file, const char *path, int problem) {
  struct failure *failure = &call->failure;
  if (problem == ENOMEM) return call_fail_no_memory(call);
  const char *descriptors = failure_explain_descriptors(problem);
  const char *why = problem == ETIMEDOUT ? "it is a pipe whose writer did not finish in time"
                    : problem == EFBIG   ? "it is larger than 1 MiB"
                    : problem == EACCES  ? "permission denied"
                                         : "reading failed";
  if (descriptors != NULL)
    failure_set(failure, FAILURE_CONNECT, true, "cannot read the %s %s: %s", descriptions[file],
                path, descriptors);
  else
    failure_set(failure, FAILURE_TLS, problem == ETIMEDOUT, "cannot read the %s %s: %s",
                descriptions[file], path, why);
  return false;
}

bool files_ready(lua_State *L, struct call *call) {
  struct client *client = call->client;
  bool any = false;
  for (int file = 0; file < TLS_FILES; file++) {
    struct buffer *content = &client->files.content[file];
    const char *path = get_path(&client->settings, file);
    bool is_read = content->length > 0;
    if (!is_read && is_pipe(path)) {
      int problem = pipe_read(L, call, path, MAX_FILE, content);
      if (problem != 0) {
        buffer_clear(content);
        return fail_file(call, file, path, problem);
      }
      is_read = content->length > 0;
    }
    any = any || is_read;
  }
  if (!any) return true;
  int problem = tls_files_open_pin(&client->files);
  if (problem != 0)
    return fail_file(call, TLS_FILE_PIN, get_path(&client->settings, TLS_FILE_PIN), problem);
  if (tls_files_lend(&client->files, &client->exchange.transfer) &&
      tls_files_lend(&client->files, &client->session.login.transfer))
    return true;
  return call_fail_no_memory(call);
}
