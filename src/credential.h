/* credential.h - from the credential options to the Authorization header of a request. */
#ifndef ICPTOKEN_CREDENTIAL_H
#define ICPTOKEN_CREDENTIAL_H

#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"
#include "failure.h"
#include "settings.h"

#pragma GCC visibility push(hidden)

/* The longest file of an ID token, in bytes. */
enum { CREDENTIAL_MAX_FILE = 64 * 1024 };

/* Is the credential read again for each call, because it may have changed? */
bool credential_may_change(const struct credential *credential);

/* Appends "Authorization: ..." to the empty line: Bearer for an ID token (RFC 6750), Basic for user
 * name and password (RFC 7617), nothing for anonymous. False with failure set if the credential is
 * not usable. */
bool credential_write(const struct settings *settings, struct buffer *line,
                      struct failure *failure);

/* Appends "Authorization: Bearer ..." for the ID token in text, which messages call by the name in
 * source. */
bool credential_write_token(const char *text, size_t length, const char *source,
                            struct buffer *line, struct failure *failure);

/* Appends "Authorization: Bearer ..." for the ID token in a file's content, or sets the failure for
 * the errno of reading the file if that is not 0. */
bool credential_write_file(const char *path, int problem, const struct buffer *content,
                           struct buffer *line, struct failure *failure);

/* Appends the base64 of "username:password" (RFC 7617). False if out of memory. */
bool credential_append_pair(const char *username, const char *password, struct buffer *out);

#pragma GCC visibility pop

#endif
