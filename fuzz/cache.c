/* cache.c - fuzzes the cache beside a model that searches an array: the input is a list of
 * operations, and after each of them both must have the same entries, and the index and the heap
 * must be whole. scripts/fuzz links it with --wrap, so that any allocation can fail. The checks
 * take most of the time, and are not instrumented: which of their loops ran says nothing about the
 * input, and the accesses to the cache's memory that they make are made by cache.c as well. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cache.h"

/* Expiries are 0 to 255. With as many keys, a cache does not grow beyond this. */
enum { KEYS = 256, NOW = 128, MAX_CAPACITY = 256 };

#ifdef __clang__ /* which builds the targets; gcc only checks them */
#define CHECK __attribute__((no_sanitize("coverage", "address", "undefined")))
#else
#define CHECK
#endif

struct model {
  bool present[KEYS];
  int64_t usable_ms[KEYS];
  size_t count;
  uint64_t evictions;
};

static int allocations_left = -1; /* until one fails; negative: none does */

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
void *__real_malloc(size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *memory, size_t size);

static bool must_fail(void) {
  if (allocations_left < 0) return false;
  allocations_left--;
  return allocations_left < 0;
}

void *__wrap_malloc(size_t size) { return must_fail() ? NULL : __real_malloc(size); }

void *__wrap_realloc(void *memory, size_t size) {
  return must_fail() ? NULL : __real_realloc(memory, size);
}

/* Key n: no bytes at all, or up to four equal ones. */
static size_t make_key(int n, char key[4]) {
  memset(key, n, 4);
  return n == 0 ? 0 : 1 + (size_t)n % 4;
}

static int find(const struct cache *cache, int n) {
  char key[4];
  size_t length = make_key(n, key);
  return cache_find(cache, key, length);
}

CHECK static void check_heap(const struct cache *cache) {
  bool seen[MAX_CAPACITY] = {false};
  assert(cache->capacity <= MAX_CAPACITY);
  for (size_t position = 0; position < cache->capacity; position++) {
    int32_t slot = cache->heap[position];
    assert(slot >= 0 && (size_t)slot < cache->capacity && !seen[slot]);
    seen[slot] = true;
    const struct cache_entry *entry = &cache->entries[slot];
    assert((entry->key != NULL) == (position < cache->count));
    if (position >= cache->count) continue;
    assert(entry->position == position);
    assert(position == 0 ||
           cache->entries[cache->heap[(position - 1) / 2]].usable_ms <= entry->usable_ms);
  }
}

CHECK static void check_index(const struct cache *cache) {
  size_t used = 0;
  for (size_t cell = 0; cell < 2 * cache->capacity; cell++)
    used += cache->index[cell] != CACHE_NONE;
  assert(used == cache->count);
}

/* With as many entries as there should be, all of which are found, there is no other one: so only
 * after the last operation are those that should not be there searched for. */
CHECK static void compare(const struct cache *cache, const struct model *model, bool is_last) {
  assert(cache->count == model->count && cache->evictions == model->evictions);
  for (int n = 0; n < KEYS; n++) {
    if (!model->present[n] && !is_last) continue;
    int slot = find(cache, n);
    assert((slot != CACHE_NONE) == model->present[n]);
    if (slot != CACHE_NONE) assert(cache->entries[slot].usable_ms == model->usable_ms[n]);
  }
  check_heap(cache);
  check_index(cache);
}

/* Of several entries that expire first, the cache may evict any; it is looked up which. That it
 * evicted no other one as well is seen by the comparison after the operation. */
CHECK static void follow_eviction(const struct cache *cache, struct model *model) {
  int64_t first = INT64_MAX;
  int evicted = CACHE_NONE;
  for (int n = 0; n < KEYS; n++)
    if (model->present[n] && model->usable_ms[n] < first) first = model->usable_ms[n];
  for (int n = 0; n < KEYS; n++) {
    if (!model->present[n] || model->usable_ms[n] != first || find(cache, n) != CACHE_NONE)
      continue;
    assert(evicted == CACHE_NONE);
    evicted = n;
  }
  assert(evicted != CACHE_NONE);
  model->present[evicted] = false;
  model->count--;
  model->evictions += first > NOW;
}

static void put(struct cache *cache, struct model *model, int n, int64_t usable_ms, int failing) {
  char key[4];
  size_t length = make_key(n, key);
  allocations_left = failing;
  int slot = cache_put(cache, key, length, NOW);
  bool failed = failing >= 0 && allocations_left < 0;
  allocations_left = -1;
  assert((slot == CACHE_NONE) == failed);
  if (failed) return;
  cache_set_limits(cache, slot, usable_ms, usable_ms);
  if (!model->present[n]) {
    if (model->count == cache->max_entries) follow_eviction(cache, model);
    model->present[n] = true;
    model->count++;
  }
  model->usable_ms[n] = usable_ms;
}

static void remove_key(struct cache *cache, struct model *model, int n) {
  int slot = find(cache, n);
  if (slot == CACHE_NONE) return;
  cache_remove(cache, slot);
  model->present[n] = false;
  model->count--;
}

static void set_limits(struct cache *cache, struct model *model, int n, int64_t usable_ms) {
  int slot = find(cache, n);
  if (slot == CACHE_NONE) return;
  cache_set_limits(cache, slot, usable_ms, usable_ms);
  model->usable_ms[n] = usable_ms;
}

static void apply(struct cache *cache, struct model *model, const unsigned char *operation) {
  int n = operation[1], value = operation[2];
  switch (operation[0] % 8) {
  case 0:
  case 1:
    put(cache, model, n, value, -1);
    break;
  case 2:
    put(cache, model, n, value, operation[0] / 8 % 4);
    break;
  case 3:
    remove_key(cache, model, n);
    break;
  case 4:
    set_limits(cache, model, n, value);
    break;
  case 5: /* many, so that the cache grows */
    for (int i = 0; i < value; i++)
      put(cache, model, (n + i) % KEYS, (value * 7 + i * 31) % 256, -1);
    break;
  case 6:
    for (int i = 0; i < value; i++)
      remove_key(cache, model, (n + i * 3) % KEYS);
    break;
  default: { /* the client's own request */
    int slot = find(cache, n);
    if (slot != CACHE_NONE) cache->own_entry = slot + 1;
  }
  }
}

/* The first byte is the size of the cache; each operation has three. */
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct model model = {.count = 0};
  if (size == 0) return 0;
  struct cache cache = {.max_entries = 1 + (size_t)data[0]};
  for (size_t i = 1; i + 3 <= size; i += 3) {
    apply(&cache, &model, data + i);
    compare(&cache, &model, i + 6 > size);
    int own = cache_own_entry(&cache);
    assert(own == CACHE_NONE || (cache.entries != NULL && cache.entries[own].key != NULL));
  }
  cache_free(&cache);
  return 0;
}
