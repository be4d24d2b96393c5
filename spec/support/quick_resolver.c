/* Makes the creator of a thread wait until the thread has exited, so that a DNS lookup is complete
   before libcurl first looks for its result. The creator waits when it next unlocks a mutex,
   because the new thread may need that mutex. If the thread does not end, as in a thread pool, the
   creator waits for a second. LD_PRELOAD=build/quick_resolver.so */

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HOLD_SECONDS = 1 };

typedef int (*Creator)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
typedef int (*Unlocker)(pthread_mutex_t *);

/* Freed by the last of its two holders, the thread and its creator. */
struct watched {
  void *(*body)(void *);
  void *argument;
  sem_t ended;
  atomic_int holders;
};

/* The last thread that this one has created, until it has waited for it. */
static _Thread_local struct watched *created;

static void discard(struct watched *watched) {
  sem_destroy(&watched->ended);
  free(watched);
}

static void let_go(struct watched *watched) {
  if (atomic_fetch_sub(&watched->holders, 1) == 1) discard(watched);
}

static void *run(void *argument) {
  struct watched *watched = argument;
  void *result = watched->body(watched->argument);
  sem_post(&watched->ended);
  let_go(watched);
  return result;
}

static void await_created(void) {
  struct watched *watched = created;
  struct timespec end;
  if (watched == NULL) return;
  created = NULL;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += HOLD_SECONDS;
  while (sem_timedwait(&watched->ended, &end) != 0 && errno == EINTR)
    continue;
  let_go(watched);
}

__attribute__((visibility("default"))) int pthread_mutex_unlock(pthread_mutex_t *mutex) {
  static _Atomic(void *) found;
  Unlocker unlock;
  void *symbol = found;
  if (symbol == NULL) found = symbol = dlsym(RTLD_NEXT, "pthread_mutex_unlock");
  /* ISO C has no conversion from an object pointer to a function pointer */
  memcpy(&unlock, &symbol, sizeof unlock);
  int result = unlock(mutex);
  await_created();
  return result;
}

__attribute__((visibility("default"))) int pthread_create(pthread_t *thread,
                                                          const pthread_attr_t *attr,
                                                          void *(*start_routine)(void *),
                                                          void *arg) {
  Creator create;
  void *symbol = dlsym(RTLD_NEXT, "pthread_create");
  memcpy(&create, &symbol, sizeof create);
  struct watched *watched = malloc(sizeof *watched);
  if (create == NULL || watched == NULL) abort();
  await_created();
  *watched = (struct watched){.body = start_routine, .argument = arg};
  atomic_init(&watched->holders, 2);
  sem_init(&watched->ended, 0, 0);
  int result = create(thread, attr, run, watched);
  if (result == 0)
    created = watched;
  else
    discard(watched);
  return result;
}
