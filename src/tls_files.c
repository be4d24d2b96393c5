/* tls_files.c - the contents of those files of the TLS options that are pipes, for libcurl to use
 * instead. */
#include "tls_files.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int tls_files_open_pin(struct tls_files *files) {
  const struct buffer *content = &files->content[TLS_FILE_PIN];
  if (files->pin > 0 || content->length == 0) return 0;
#ifdef MFD_CLOEXEC
  int fd = memfd_create("pinned public key", MFD_CLOEXEC);
  if (fd < 0) return errno;
  if (write(fd, content->data, content->length) != (ssize_t)content->length) {
    close(fd);
    return ENOMEM;
  }
  files->pin = fd + 1;
  return 0;
#else
  return ENOSYS;
#endif
}

static CURLcode lend_blob(CURL *easy, CURLoption option, const struct buffer *content) {
  struct curl_blob blob = {content->data, content->length, CURL_BLOB_NOCOPY};
  return content->length > 0 ? curl_easy_setopt(easy, option, &blob) : CURLE_OK;
}

bool tls_files_lend(const struct tls_files *files, struct transfer *transfer) {
  char path[40];
  CURL *easy = transfer->easy;
  if (easy == NULL) return true;
  CURLcode code = lend_blob(easy, CURLOPT_CAINFO_BLOB, &files->content[TLS_FILE_CA]);
  if (!code) code = lend_blob(easy, CURLOPT_SSLCERT_BLOB, &files->content[TLS_FILE_CERT]);
  if (!code) code = lend_blob(easy, CURLOPT_SSLKEY_BLOB, &files->content[TLS_FILE_KEY]);
  if (code || files->content[TLS_FILE_PIN].length == 0) return code == CURLE_OK;
  snprintf(path, sizeof path, "/proc/self/fd/%d", files->pin - 1);
  return curl_easy_setopt(easy, CURLOPT_PINNEDPUBLICKEY, path) == CURLE_OK;
}

void tls_files_close_pin(struct tls_files *files) {
  if (files->pin > 0) close(files->pin - 1);
  files->pin = 0;
}

void tls_files_free(struct tls_files *files) {
  for (int i = 0; i < TLS_FILES; i++)
    buffer_free(&files->content[i]);
}
