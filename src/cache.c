/* cache.c - which tokens a client holds, and until when: keys, limits and pauses.
 * A place keeps its number while its entry lives. The index beside the places is open addressing
 * over twice as many cells, and is made anew when an entry goes, which is rare. */
#include "cache.h"
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 16, FIRST_PAUSE_MS = 1000, LAST_PAUSE_MS = 60000 };

/* FNV-1a. Keys are a client's own requests: nobody gains by making them collide. */
static uint32_t hash_key(const char *key, size_t length) {
  uint32_t hash = UINT32_C(2166136261);
  for (size_t i = 0; i < length; i++)
    hash = (hash ^ (unsigned char)key[i]) * UINT32_C(16777619);
  return hash;
}

static size_t index_mask(const struct cache *cache) { return 2 * cache->capacity - 1; }

/* The cell of the key, or the empty one where it belongs. */
static size_t find_cell(const struct cache *cache, const char *key, size_t length, uint32_t hash) {
  size_t mask = index_mask(cache), cell = hash & mask;
  for (; cache->index[cell] != CACHE_NONE; cell = (cell + 1) & mask) {
    const struct cache_entry *entry = &cache->entries[cache->index[cell]];
    if (entry->hash == hash && entry->key_length == length && memcmp(entry->key, key, length) == 0)
      break;
  }
  return cell;
}

static void rebuild_index(struct cache *cache) {
  for (size_t cell = 0; cell <= index_mask(cache); cell++)
    cache->index[cell] = CACHE_NONE;
  for (size_t place = 0; place < cache->capacity; place++) {
    const struct cache_entry *entry = &cache->entries[place];
    if (entry->key == NULL) continue;
    cache->index[find_cell(cache, entry->key, entry->key_length, entry->hash)] = (int16_t)place;
  }
}

int cache_find(const struct cache *cache, const char *key, size_t length) {
  if (cache->count == 0) return CACHE_NONE;
  return cache->index[find_cell(cache, key, length, hash_key(key, length))];
}

enum cache_state cache_judge(const struct cache_entry *entry, int64_t now) {
  if (now < entry->refresh_ms) return CACHE_GOOD;
  if (now >= entry->usable_ms) return CACHE_ENDED;
  return now < entry->pause_until_ms ? CACHE_RESTING : CACHE_RENEW;
}

static bool grow(struct cache *cache) {
  size_t capacity = cache->capacity == 0 ? FIRST_CAPACITY : cache->capacity * 2;
  int16_t *index = malloc(2 * capacity * sizeof *index);
  struct cache_entry *entries = realloc(cache->entries, capacity * sizeof *entries);
  if (entries != NULL) cache->entries = entries;
  if (index == NULL || entries == NULL) {
    free(index);
    return false;
  }
  memset(entries + cache->capacity, 0, (capacity - cache->capacity) * sizeof *entries);
  free(cache->index);
  cache->index = index;
  cache->capacity = capacity;
  rebuild_index(cache);
  return true;
}

static int soonest_to_end(const struct cache *cache) {
  int soonest = CACHE_NONE;
  for (size_t place = 0; place < cache->capacity; place++) {
    const struct cache_entry *entry = &cache->entries[place];
    if (entry->key == NULL) continue;
    if (soonest == CACHE_NONE || entry->usable_ms < cache->entries[soonest].usable_ms)
      soonest = (int)place;
  }
  return soonest;
}

static int free_place(struct cache *cache) {
  if (cache->count == CACHE_MOST) cache_remove(cache, soonest_to_end(cache));
  if (cache->count == cache->capacity && !grow(cache)) return CACHE_NONE;
  size_t place = 0;
  while (cache->entries[place].key != NULL)
    place++;
  return (int)place;
}

static int add_entry(struct cache *cache, const char *key, size_t length) {
  char *copy = malloc(length + 1); /* a key may be empty */
  int place = copy == NULL ? CACHE_NONE : free_place(cache);
  if (place == CACHE_NONE) {
    free(copy);
    return CACHE_NONE;
  }
  memcpy(copy, key, length);
  struct cache_entry *entry = &cache->entries[place];
  *entry = (struct cache_entry){.key = copy, .key_length = length, .hash = hash_key(key, length)};
  cache->index[find_cell(cache, key, length, entry->hash)] = (int16_t)place;
  cache->count++;
  return place;
}

int cache_put(struct cache *cache, const char *key, size_t length) {
  int place = cache_find(cache, key, length);
  if (place == CACHE_NONE) place = add_entry(cache, key, length);
  if (place == CACHE_NONE) return CACHE_NONE;
  struct cache_entry *entry = &cache->entries[place];
  entry->refresh_ms = entry->usable_ms = INT64_MIN;
  entry->pause_ms = entry->pause_until_ms = 0;
  return place;
}

void cache_rest(struct cache_entry *entry, int64_t now) {
  int64_t pause = entry->pause_ms == 0 ? FIRST_PAUSE_MS : entry->pause_ms * 2;
  entry->pause_ms = pause < LAST_PAUSE_MS ? pause : LAST_PAUSE_MS;
  entry->pause_until_ms = now + entry->pause_ms;
}

void cache_rest_for(struct cache_entry *entry, int64_t now, double retry_after_seconds) {
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

void cache_remove(struct cache *cache, int place) {
  struct cache_entry *entry = &cache->entries[place];
  free_key(entry);
  *entry = (struct cache_entry){0};
  if (cache_favourite(cache) == place) cache->favourite = 0;
  cache->count--;
  rebuild_index(cache);
}

void cache_free(struct cache *cache) {
  for (size_t place = 0; place < cache->capacity; place++)
    free_key(&cache->entries[place]);
  free(cache->entries);
  free(cache->index);
  *cache = (struct cache){0};
}
