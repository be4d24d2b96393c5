/* buffer.h - a growing byte buffer that is wiped before its memory is freed. A zeroed struct buffer
 * is a valid empty one; buffer_free may be called repeatedly. */
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

/* Overwrites memory in a way that the compiler may not optimise away. */
void buffer_wipe_memory(void *memory, size_t size);

/* Each append returns false, with the buffer unchanged, if out of memory. */
bool buffer_append(struct buffer *buffer, const void *bytes, size_t size);
bool buffer_append_string(struct buffer *buffer, const char *string);
/* Appends text, with every byte percent-encoded that is not unreserved in RFC 3986. */
bool buffer_append_encoded(struct buffer *buffer, const char *bytes, size_t size);
/* Appends in base64 with padding (RFC 4648 section 4). */
bool buffer_append_base64(struct buffer *buffer, const char *bytes, size_t size);

/* Reserves room for size more bytes without changing the contents. */
bool buffer_reserve(struct buffer *buffer, size_t size);
/* Wipes and empties the buffer; keeps its memory for the next use. */
void buffer_clear(struct buffer *buffer);
/* Truncates the buffer to length bytes and wipes the bytes that are removed. */
void buffer_truncate(struct buffer *buffer, size_t length);
void buffer_free(struct buffer *buffer);

#pragma GCC visibility pop

#endif
