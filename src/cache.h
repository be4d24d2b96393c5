/* cache.h - which tokens a client has cached, and until when: keys, limits and pauses. The tokens
 * themselves are Lua tables, which this file knows only by the number of their slot. All times are
 * milliseconds of the steady clock. A zeroed struct cache is a valid empty one;
 * max_entries must be set before the first cache_put. */
#ifndef ICPTOKEN_CACHE_H
#define ICPTOKEN_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

enum { CACHE_NONE = -1 };

struct cache_entry {
  char *key; /* NULL in a free slot */
  size_t key_length;
  uint32_t hash, position;       /* position: in the heap */
  int64_t refresh_ms, usable_ms; /* renew from; return until */
  int64_t pause_until_ms, pause_ms;
};

struct cache {
  struct cache_entry *entries;
  size_t count, capacity, max_entries;
  int32_t *index; /* 2 * capacity cells; CACHE_NONE where empty */
  int32_t *heap;  /* capacity slots */
  uint64_t evictions;
  int own_entry; /* 1 + the slot of the client's own request, as set by its owner; 0: none */
};

/* How an entry is to be used now. */
enum cache_state {
  CACHE_GOOD,   /* return it */
  CACHE_RENEW,  /* return it, but try to renew it first */
  CACHE_PAUSED, /* return it; the last attempt to renew it has just failed */
  CACHE_EXPIRED /* do not return it */
};

/* Returns the slot of the entry with this key, or CACHE_NONE. */
int cache_find(const struct cache *cache, const char *key, size_t length);

enum cache_state cache_judge(const struct cache_entry *entry, int64_t now);

/* Finds or creates the entry of a key, without a pause, and marks it as expired until its limits
 * are set. If the cache is full, the entry that expires first is removed, and counted if it has not
 * expired yet. CACHE_NONE if out of memory; then nothing was removed. */
int cache_put(struct cache *cache, const char *key, size_t length, int64_t now);

/* Sets from when the entry of a slot is to be renewed, and until when it is returned. */
void cache_set_limits(struct cache *cache, int slot, int64_t refresh_ms, int64_t usable_ms);

/* Allows no further renewal during a pause, which doubles from 1 s to 60 s. */
void cache_pause(struct cache_entry *entry, int64_t now);

/* Starts the pause now, and extends it to the time in Retry-After if that is longer (negative:
 * there was none). */
void cache_pause_for(struct cache_entry *entry, int64_t now, double retry_after_seconds);

/* Returns the slot of the client's own request while its entry exists, else CACHE_NONE. */
static inline int cache_own_entry(const struct cache *cache) { return cache->own_entry - 1; }

/* Frees the slot. */
void cache_remove(struct cache *cache, int slot);

void cache_free(struct cache *cache);

#pragma GCC visibility pop

#endif
