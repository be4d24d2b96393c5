/* files.c - the files of the TLS options where they are pipes. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE = 1024 * 1024 };

static const char *const descriptions[CLIENT_FILES] = {"CA file", "client certificate",
                                                       "client key", "pinned public key"};

static const char *get_path(const struct settings *settings, int file) {
  const char *const paths[CLIENT_FILES] = {settings->cacert, settings->cert, settings->key,
                                           settings->pinned_public_key};
  return paths[file];
}

static bool is_pipe(const char *path) {
  struct stat status;
  return path != NULL && stat(path, &status) == 0 && S_ISFIFO(status.st_mode);
}

static bool fail(struct call *call, int file, const char *path, int problem) {
  struct failure *failure = &call->client->exchange.failure;
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

/* A name for what is in memory, for the one option of libcurl that takes nothing but a file.
 * Returns 0 or an errno. */
static int open_pin(struct client *client) {
  const struct buffer *content = &client->files[CLIENT_FILE_PIN];
  if (client->pin > 0 || content->length == 0) return 0;
#ifdef MFD_CLOEXEC
  int fd = memfd_create("pinned public key", MFD_CLOEXEC);
  if (fd < 0) return errno;
  if (write(fd, content->data, content->length) != (ssize_t)content->length) {
    close(fd);
    return ENOMEM;
  }
  client->pin = fd + 1;
  return 0;
#else
  return ENOSYS;
#endif
}

static CURLcode lend_blob(CURL *easy, CURLoption option, const struct buffer *content) {
  struct curl_blob blob = {content->data, content->length, CURL_BLOB_NOCOPY};
  return content->length > 0 ? curl_easy_setopt(easy, option, &blob) : CURLE_OK;
}

bool files_lend(struct client *client, struct transfer *transfer) {
  char path[40];
  CURL *easy = transfer->easy;
  if (easy == NULL) return true;
  CURLcode code = lend_blob(easy, CURLOPT_CAINFO_BLOB, &client->files[CLIENT_FILE_CA]);
  if (!code) code = lend_blob(easy, CURLOPT_SSLCERT_BLOB, &client->files[CLIENT_FILE_CERT]);
  if (!code) code = lend_blob(easy, CURLOPT_SSLKEY_BLOB, &client->files[CLIENT_FILE_KEY]);
  if (code || client->files[CLIENT_FILE_PIN].length == 0) return code == CURLE_OK;
  snprintf(path, sizeof path, "/proc/self/fd/%d", client->pin - 1);
  return curl_easy_setopt(easy, CURLOPT_PINNEDPUBLICKEY, path) == CURLE_OK;
}

bool files_ready(lua_State *L, struct call *call) {
  struct client *client = call->client;
  bool any = false;
  for (int file = 0; file < CLIENT_FILES; file++) {
    struct buffer *content = &client->files[file];
    const char *path = get_path(&client->settings, file);
    bool is_read = content->length > 0;
    if (!is_read && is_pipe(path)) {
      int problem = call_read_file(L, call, path, MAX_FILE, content);
      if (problem != 0) {
        buffer_clear(content);
        return fail(call, file, path, problem);
      }
      is_read = content->length > 0;
    }
    any = any || is_read;
  }
  if (!any) return true;
  int problem = open_pin(client);
  if (problem != 0)
    return fail(call, CLIENT_FILE_PIN, get_path(&client->settings, CLIENT_FILE_PIN), problem);
  if (files_lend(client, &client->exchange.transfer) && files_lend(client, &client->login.transfer))
    return true;
  return call_fail_no_memory(call);
}
