/* buffer.h - a growing run of bytes that is wiped before its memory goes back.
 * A zeroed struct buffer is a legal empty one; buffer_free may be called on it and again. */
#ifndef ICPTOKEN_BUFFER_H
#define ICPTOKEN_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

struct buffer {
  char *data; /* always NUL-terminated once anything was appended */
  size_t length;
  size_t capacity;
};

/* Overwrites memory in a way the compiler may not leave out. */
void buffer_wipe_memory(void *memory, size_t size);

/* Each append returns false, with the buffer unchanged, when memory is short. */
bool buffer_append(struct buffer *buffer, const void *bytes, size_t size);
bool buffer_append_string(struct buffer *buffer, const char *string);
/* Appends with every byte that RFC 3986 does not call unreserved percent-encoded. */
bool buffer_append_encoded(struct buffer *buffer, const char *bytes, size_t size);
/* Appends in base64 with padding (RFC 4648 section 4). */
bool buffer_append_base64(struct buffer *buffer, const char *bytes, size_t size);

/* Makes room for size more bytes without changing the contents. */
bool buffer_reserve(struct buffer *buffer, size_t size);
/* Wipes and empties; keeps the memory for the next use. */
void buffer_clear(struct buffer *buffer);
/* Cuts back to length bytes, wiping what falls away. */
void buffer_truncate(struct buffer *buffer, size_t length);
void buffer_free(struct buffer *buffer);

#pragma GCC visibility pop

#endif
