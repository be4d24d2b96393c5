/* cache.h - which tokens a client holds, and until when: keys, limits and pauses. The tokens
 * themselves are Lua tables; this file knows them by the number of their place alone.
 * All times are milliseconds of the steady clock. A zeroed struct cache is a legal empty one. */
#ifndef ICPTOKEN_CACHE_H
#define ICPTOKEN_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

enum { CACHE_MOST = 1024, CACHE_NONE = -1 };

struct cache_entry {
  char *key; /* NULL in a free place */
  size_t key_length;
  uint32_t hash;
  int64_t refresh_ms, usable_ms; /* renew from; hand out until */
  int64_t pause_until_ms, pause_ms;
};

struct cache {
  struct cache_entry *entries;
  size_t count, capacity;
  int16_t *index; /* 2 * capacity places; CACHE_NONE where empty */
  int favourite;  /* 1 + the place that is asked for most, as its owner has noted; 0 for none */
};

/* What is to be done with an entry now. */
enum cache_state {
  CACHE_GOOD,    /* hand it out */
  CACHE_RENEW,   /* hand it out, but try to get a new one first */
  CACHE_RESTING, /* hand it out; the last try to renew failed a short while ago */
  CACHE_ENDED    /* do not */
};

/* The place of the entry with this key, or CACHE_NONE. */
int cache_find(const struct cache *cache, const char *key, size_t length);

enum cache_state cache_judge(const struct cache_entry *entry, int64_t now);

/* Finds or makes the entry of a key, without a pause, and has it ended until its limits are set;
 * when the cache is full, the entry that ends soonest makes room. CACHE_NONE when memory is
 * short. */
int cache_put(struct cache *cache, const char *key, size_t length);

/* No further renewal from now on for a pause, which doubles from 1 s to 60 s. */
void cache_rest(struct cache_entry *entry, int64_t now);

/* Has the pause begin now, and last as long as the server asked (negative: it did not) where that
 * is longer. */
void cache_rest_for(struct cache_entry *entry, int64_t now, double retry_after_seconds);

/* The noted place, while its entry lives, or CACHE_NONE. */
static inline int cache_favourite(const struct cache *cache) { return cache->favourite - 1; }

/* Frees the place. */
void cache_remove(struct cache *cache, int place);

void cache_free(struct cache *cache);

#pragma GCC visibility pop

#endif
