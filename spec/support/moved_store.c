/* Preloaded fopen, stat and lstat that find the system's store of CAs elsewhere, as if a CA had
   been installed there; this needs neither root nor a mount. LD_PRELOAD=build/moved_store.so
   MOVED_STORE=FROM=TO:FROM=TO… A FROM is a file or a directory with all that is in it; the first
   that fits counts. */

#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define EXPORT __attribute__((visibility("default")))

/* ISO C has no conversion from an object pointer to a function pointer. */
#define FIND_NEXT(function, name)                                                                  \
  do {                                                                                             \
    void *symbol = dlsym(RTLD_NEXT, name);                                                         \
    memcpy(&(function), &symbol, sizeof symbol);                                                   \
  } while (0)

static bool fits(const char *path, const char *from, size_t length) {
  return strncmp(path, from, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

/* Returns the path to use: a changed one in room, or the path itself. */
static const char *move(const char *path, char room[PATH_MAX]) {
  const char *rule = getenv("MOVED_STORE");
  while (rule != NULL && *rule != '\0') {
    size_t from = strcspn(rule, "=");
    const char *target = rule + from + (rule[from] == '=');
    size_t to = strcspn(target, ":");
    if (fits(path, rule, from)) {
      int length = snprintf(room, PATH_MAX, "%.*s%s", (int)to, target, path + from);
      return length < PATH_MAX ? room : path;
    }
    rule = target + to + (target[to] == ':');
  }
  return path;
}

/* The C library's own headers name the parameters in its reserved way, and a name that is declared
   cannot be put in parentheses. */
// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name, bugprone-macro-parentheses)
#define MOVE_OPENER(name)                                                                          \
  EXPORT FILE *name(const char *restrict path, const char *restrict mode) {                        \
    char room[PATH_MAX];                                                                           \
    FILE *(*next)(const char *, const char *);                                                     \
    FIND_NEXT(next, #name);                                                                        \
    return next(move(path, room), mode);                                                           \
  }

#define MOVE_STAT(name, type)                                                                      \
  EXPORT int name(const char *restrict path, type *restrict found) {                               \
    char room[PATH_MAX];                                                                           \
    int (*next)(const char *, type *);                                                             \
    FIND_NEXT(next, #name);                                                                        \
    return next(move(path, room), found);                                                          \
  }

MOVE_OPENER(fopen)
MOVE_OPENER(fopen64)
MOVE_STAT(stat, struct stat)
MOVE_STAT(stat64, struct stat64)
MOVE_STAT(lstat, struct stat)
MOVE_STAT(lstat64, struct stat64)
// NOLINTEND(readability-inconsistent-declaration-parameter-name, bugprone-macro-parentheses)
