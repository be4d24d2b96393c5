/* cache.c - which tokens a client has cached, and until when: keys, limits and pauses. A slot keeps
 * its number as long as its entry exists. The index uses open addressing over twice as many cells.
 * The heap is a permutation of all slots: the first count are those of entries, ordered as a binary
 * heap by expiry, and the rest are free. */
#include "cache.h"
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

enum { MIN_CAPACITY = 16, MIN_PAUSE_MS = 1000, MAX_PAUSE_MS = 60000 };

/* FNV-1a. Keys are a client's own requests, so no attacker chooses them. */
static uint32_t hash_key(const char *key, size_t length) {
  uint32_t hash = UINT32_C(2166136261);
  for (size_t i = 0; i < length; i++)
    hash = (hash ^ (unsigned char)key[i]) * UINT32_C(16777619);
  return hash;
}

static size_t index_mask(const struct cache *cache) { return 2 * cache->capacity - 1; }

/* Returns the cell of the key, or the empty one where it belongs. */
static size_t find_cell(const struct cache *cache, const char *key, size_t length, uint32_t hash) {
  size_t mask = index_mask(cache), cell = hash & mask;
  for (; cache->index[cell] != CACHE_NONE; cell = (cell + 1) & mask) {
    const struct cache_entry *entry = &cache->entries[cache->index[cell]];
    if (entry->hash == hash && entry->key_length == length && memcmp(entry->key, key, length) == 0)
      break;
  }
  return cell;
}

static void build_index(struct cache *cache) {
  for (size_t cell = 0; cell <= index_mask(cache); cell++)
    cache->index[cell] = CACHE_NONE;
  for (size_t slot = 0; slot < cache->capacity; slot++) {
    const struct cache_entry *entry = &cache->entries[slot];
    if (entry->key == NULL) continue;
    cache->index[find_cell(cache, entry->key, entry->key_length, entry->hash)] = (int32_t)slot;
  }
}

int cache_find(const struct cache *cache, const char *key, size_t length) {
  if (cache->count == 0) return CACHE_NONE;
  return cache->index[find_cell(cache, key, length, hash_key(key, length))];
}

enum cache_state cache_judge(const struct cache_entry *entry, int64_t now) {
  if (now < entry->refresh_ms) return CACHE_GOOD;
  if (now >= entry->usable_ms) return CACHE_EXPIRED;
  return now < entry->pause_until_ms ? CACHE_PAUSED : CACHE_RENEW;
}

/* Doubles the capacity, which is the room that all three arrays have. If one of them cannot grow,
 * those that have grown keep their size. False if out of memory. */
static bool grow_slots(struct cache *cache) {
  size_t capacity = cache->capacity == 0 ? MIN_CAPACITY : cache->capacity * 2;
  struct cache_entry *entries = realloc(cache->entries, capacity * sizeof *entries);
  if (entries == NULL) return false;
  cache->entries = entries;
  int32_t *heap = realloc(cache->heap, capacity * sizeof *heap);
  if (heap == NULL) return false;
  cache->heap = heap;
  int32_t *index = malloc(2 * capacity * sizeof *index);
  if (index == NULL) return false;
  free(cache->index);
  cache->index = index;
  memset(entries + cache->capacity, 0, (capacity - cache->capacity) * sizeof *entries);
  for (size_t slot = cache->capacity; slot < capacity; slot++)
    heap[slot] = (int32_t)slot;
  cache->capacity = capacity;
  build_index(cache);
  return true;
}

static void place_in_heap(struct cache *cache, size_t position, int32_t slot) {
  cache->heap[position] = slot;
  cache->entries[slot].position = (uint32_t)position;
}

/* Restores the heap's order after the expiry of the entry at this position was changed. */
static void reorder_heap(struct cache *cache, size_t position) {
  int32_t *heap = cache->heap, slot = heap[position];
  const struct cache_entry *entries = cache->entries;
  int64_t expiry = entries[slot].usable_ms;
  for (; position > 0 && expiry < entries[heap[(position - 1) / 2]].usable_ms;
       position = (position - 1) / 2)
    place_in_heap(cache, position, heap[(position - 1) / 2]);
  for (size_t child; (child = 2 * position + 1) < cache->count; position = child) {
    if (child + 1 < cache->count &&
        entries[heap[child + 1]].usable_ms < entries[heap[child]].usable_ms)
      child++;
    if (expiry <= entries[heap[child]].usable_ms) break;
    place_in_heap(cache, position, heap[child]);
  }
  place_in_heap(cache, position, slot);
}

static void evict_first(struct cache *cache, int64_t now) {
  int first = cache->heap[0];
  if (cache_judge(&cache->entries[first], now) != CACHE_EXPIRED) cache->evictions++;
  cache_remove(cache, first);
}

static int add_entry(struct cache *cache, const char *key, size_t length, int64_t now) {
  char *copy = malloc(length + 1); /* a key may be empty */
  if (copy == NULL) return CACHE_NONE;
  if (cache->count == cache->max_entries) evict_first(cache, now);
  if (cache->count == cache->capacity && !grow_slots(cache)) {
    free(copy);
    return CACHE_NONE;
  }
  memcpy(copy, key, length);
  size_t position = cache->count++;
  int slot = cache->heap[position];
  struct cache_entry *entry = &cache->entries[slot];
  *entry = (struct cache_entry){.key = copy,
                                .key_length = length,
                                .hash = hash_key(key, length),
                                .position = (uint32_t)position,
                                .usable_ms = INT64_MAX};
  cache->index[find_cell(cache, key, length, entry->hash)] = slot;
  return slot;
}

int cache_put(struct cache *cache, const char *key, size_t length, int64_t now) {
  int slot = cache_find(cache, key, length);
  if (slot == CACHE_NONE) slot = add_entry(cache, key, length, now);
  if (slot == CACHE_NONE) return CACHE_NONE;
  struct cache_entry *entry = &cache->entries[slot];
  cache_set_limits(cache, slot, INT64_MIN, INT64_MIN);
  entry->pause_ms = entry->pause_until_ms = 0;
  return slot;
}

void cache_set_limits(struct cache *cache, int slot, int64_t refresh_ms, int64_t usable_ms) {
  struct cache_entry *entry = &cache->entries[slot];
  entry->refresh_ms = refresh_ms;
  entry->usable_ms = usable_ms;
  reorder_heap(cache, entry->position);
}

void cache_pause(struct cache_entry *entry, int64_t now) {
  int64_t pause = entry->pause_ms == 0 ? MIN_PAUSE_MS : entry->pause_ms * 2;
  entry->pause_ms = pause < MAX_PAUSE_MS ? pause : MAX_PAUSE_MS;
  entry->pause_until_ms = now + entry->pause_ms;
}

void cache_pause_for(struct cache_entry *entry, int64_t now, double retry_after_seconds) {
  int64_t wait = entry->pause_ms;
  if (retry_after_seconds * 1000 > (double)wait)
    wait = retry_after_seconds < 1e9 ? (int64_t)(retry_after_seconds * 1000) : INT32_MAX;
  entry->pause_until_ms = now + wait;
}

/* A key may hold a credential. */
static void free_key(struct cache_entry *entry) {
  if (entry->key == NULL) return;
  buffer_wipe_memory(entry->key, entry->key_length);
  free(entry->key);
}

/* Empties a cell, and moves up those behind it that could no longer be found. */
static void empty_cell(struct cache *cache, size_t cell) {
  size_t mask = index_mask(cache), next = cell;
  for (;;) {
    next = (next + 1) & mask;
    if (cache->index[next] == CACHE_NONE) break;
    size_t home = cache->entries[cache->index[next]].hash & mask;
    if (((next - home) & mask) < ((next - cell) & mask)) continue; /* its home is behind the cell */
    cache->index[cell] = cache->index[next];
    cell = next;
  }
  cache->index[cell] = CACHE_NONE;
}

void cache_remove(struct cache *cache, int slot) {
  struct cache_entry *entry = &cache->entries[slot];
  size_t position = entry->position, last = --cache->count;
  empty_cell(cache, find_cell(cache, entry->key, entry->key_length, entry->hash));
  if (position != last) {
    place_in_heap(cache, position, cache->heap[last]);
    reorder_heap(cache, position);
  }
  cache->heap[last] = slot;
  free_key(entry);
  *entry = (struct cache_entry){0};
  if (cache_own_entry(cache) == slot) cache->own_entry = 0;
}

void cache_free(struct cache *cache) {
  for (size_t slot = 0; slot < cache->capacity; slot++)
    free_key(&cache->entries[slot]);
  free(cache->entries);
  free(cache->index);
  free(cache->heap);
  *cache = (struct cache){0};
}
