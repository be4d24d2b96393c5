/* tls_files.h - the contents of those files of the TLS options that are pipes, for libcurl to use
 * instead. A zeroed struct tls_files is a valid empty one. */
#ifndef ICPTOKEN_TLS_FILES_H
#define ICPTOKEN_TLS_FILES_H

#include <stdbool.h>

#include "buffer.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

enum { TLS_FILE_CA, TLS_FILE_CERT, TLS_FILE_KEY, TLS_FILE_PIN, TLS_FILES };

struct tls_files {
  struct buffer content[TLS_FILES];
  int pin; /* 1 + the descriptor of a file with the pinned public key; 0 for none */
};

/* Creates a file with the pinned public key, if there is one, because its option accepts only a
 * file. Returns 0 or an errno. */
int tls_files_open_pin(struct tls_files *files);

void tls_files_close_pin(struct tls_files *files);

/* Sets the contents in a transfer. False if out of memory. */
bool tls_files_lend(const struct tls_files *files, struct transfer *transfer);

void tls_files_free(struct tls_files *files);

#pragma GCC visibility pop

#endif
