/* A preloaded getaddrinfo that never answers in time for names under .hang.test, like a resolver
   whose server does not answer; all other names go to the real one. It gives up after 2 minutes,
   so that nothing is left behind. LD_PRELOAD=build/slow_resolver.so */

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

enum { HANG_SECONDS = 120 };

typedef int (*Resolver)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static bool must_hang(const char *name) {
  static const char ending[] = ".hang.test";
  size_t length = name != NULL ? strlen(name) : 0;
  return length >= sizeof ending - 1 && strcmp(name + length - (sizeof ending - 1), ending) == 0;
}

/* Like a real lookup, it ends neither at a signal nor when the thread is cancelled. */
static void hang(void) {
  struct timespec end;
  int old_state;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old_state);
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += HANG_SECONDS;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
    continue;
  pthread_setcancelstate(old_state, &old_state);
}

__attribute__((visibility("default"))) int getaddrinfo(const char *name, const char *service,
                                                       const struct addrinfo *req,
                                                       struct addrinfo **pai) {
  Resolver resolve;
  void *symbol;
  if (must_hang(name)) {
    hang();
    return EAI_AGAIN;
  }
  /* ISO C has no conversion from an object pointer to a function pointer */
  symbol = dlsym(RTLD_NEXT, "getaddrinfo");
  memcpy(&resolve, &symbol, sizeof resolve);
  return resolve != NULL ? resolve(name, service, req, pai) : EAI_SYSTEM;
}
