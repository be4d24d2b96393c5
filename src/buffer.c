/* buffer.c - a growing byte buffer that is wiped before its memory is freed. The bytes may be a
 * credential or a token, so realloc, which can leave a copy behind, is not used. Bytes that are
 * removed are wiped at once, so the memory after the length never holds data, and freeing only
 * needs to wipe the length. */
#include "buffer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_CAPACITY = 256 };

void buffer_wipe_memory(void *memory, size_t size) {
  if (size == 0) return;
  memset(memory, 0, size);
  __asm__ __volatile__("" : : "r"(memory) : "memory");
}

bool buffer_reserve(struct buffer *buffer, size_t size) {
  if (size >= SIZE_MAX - buffer->length - 1) return false;
  size_t needed = buffer->length + size + 1;
  if (needed <= buffer->capacity) return true;
  size_t capacity = buffer->capacity < MIN_CAPACITY ? MIN_CAPACITY : buffer->capacity;
  while (capacity < needed)
    capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
  char *grown = malloc(capacity);
  if (grown == NULL) return false;
  if (buffer->length > 0) memcpy(grown, buffer->data, buffer->length);
  grown[buffer->length] = '\0';
  if (buffer->data != NULL) buffer_wipe_memory(buffer->data, buffer->length);
  free(buffer->data);
  buffer->data = grown;
  buffer->capacity = capacity;
  return true;
}

bool buffer_append(struct buffer *buffer, const void *bytes, size_t size) {
  if (!buffer_reserve(buffer, size)) return false;
  if (size > 0) memcpy(buffer->data + buffer->length, bytes, size);
  buffer->length += size;
  buffer->data[buffer->length] = '\0';
  return true;
}

bool buffer_append_string(struct buffer *buffer, const char *string) {
  return buffer_append(buffer, string, strlen(string));
}

static bool is_unreserved(unsigned char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

bool buffer_append_encoded(struct buffer *buffer, const char *bytes, size_t size) {
  static const char hex[] = "0123456789ABCDEF";
  if (size > SIZE_MAX / 4 || !buffer_reserve(buffer, size * 3)) return false;
  char *out = buffer->data + buffer->length;
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)bytes[i];
    if (is_unreserved(c)) {
      *out++ = (char)c;
    } else {
      *out++ = '%';
      *out++ = hex[c >> 4];
      *out++ = hex[c & 15];
    }
  }
  *out = '\0';
  buffer->length = (size_t)(out - buffer->data);
  return true;
}

bool buffer_append_base64(struct buffer *buffer, const char *bytes, size_t size) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (size > SIZE_MAX / 4 || !buffer_reserve(buffer, (size + 2) / 3 * 4)) return false;
  char *out = buffer->data + buffer->length;
  for (size_t i = 0; i < size; i += 3) {
    size_t left = size - i;
    uint32_t group = (uint32_t)(unsigned char)bytes[i] << 16;
    if (left > 1) group |= (uint32_t)(unsigned char)bytes[i + 1] << 8;
    if (left > 2) group |= (uint32_t)(unsigned char)bytes[i + 2];
    *out++ = digits[group >> 18];
    *out++ = digits[(group >> 12) & 63];
    *out++ = left > 1 ? digits[(group >> 6) & 63] : '=';
    *out++ = left > 2 ? digits[group & 63] : '=';
  }
  *out = '\0';
  buffer->length = (size_t)(out - buffer->data);
  return true;
}

void buffer_truncate(struct buffer *buffer, size_t length) {
  if (length >= buffer->length) return;
  buffer_wipe_memory(buffer->data + length, buffer->length - length);
  buffer->length = length;
}

void buffer_clear(struct buffer *buffer) { buffer_truncate(buffer, 0); }

void buffer_free(struct buffer *buffer) {
  buffer_clear(buffer);
  free(buffer->data);
  *buffer = (struct buffer){0};
}
