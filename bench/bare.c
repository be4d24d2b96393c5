/* The lower limits: bare libcurl in C, without Lua. Usage: bare one|many|many2 <url> <CA file>
 * <ID token file>. It fetches one after the other, or 16 at once over HTTP/1.1 or HTTP/2. It prints
 * "ready", then for each count read from standard input it performs that many fetches and prints
 * the wall and CPU seconds that they took, as bench/driver.lua does for all other clients. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "many.h"

struct limit {
  struct easy one;
  struct many many;
  int at_once;
};

static double read_clock(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int read_line(const char *path, char *line, int size) {
  FILE *file = fopen(path, "r");
  if (!file) return -1;
  char *read = fgets(line, size, file);
  fclose(file);
  if (!read) return -1;
  line[strcspn(line, "\n")] = '\0';
  return 0;
}

static int open_limit(struct limit *limit, const char *way, char **argv, const char *id_token) {
  limit->at_once = strcmp(way, "one") != 0;
  if (!limit->at_once) return easy_open(&limit->one, argv[0], argv[1], id_token);
  return many_open(&limit->many, argv[0], argv[1], id_token, strcmp(way, "many2") == 0);
}

static const char *fetch_times(struct limit *limit, long count) {
  const char *failure = NULL;
  if (limit->at_once) return many_fetch(&limit->many, count);
  for (long i = 0; i < count && !failure; i++)
    failure = easy_fetch(&limit->one);
  return failure;
}

static const char *serve_counts(struct limit *limit) {
  char line[32];
  const char *failure = fetch_times(limit, 1);
  if (!failure) puts("ready");
  while (!failure && fgets(line, sizeof line, stdin)) {
    double wall = read_clock(CLOCK_MONOTONIC), cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    failure = fetch_times(limit, strtol(line, NULL, 10));
    wall = read_clock(CLOCK_MONOTONIC) - wall;
    cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    if (!failure) printf("%.9f %.9f\n", wall, cpu);
  }
  return failure;
}

int main(int argc, char **argv) {
  static char id_token[16384];
  static struct limit limit;
  if (argc != 5 || read_line(argv[4], id_token, sizeof id_token)) {
    fputs("usage: bare one|many|many2 <url> <CA file> <ID token file>\n", stderr);
    return 2;
  }
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  const char *failure =
      open_limit(&limit, argv[1], argv + 2, id_token) ? "no handle" : serve_counts(&limit);
  if (failure) printf("failed %s\n", failure);
  if (limit.at_once)
    many_close(&limit.many);
  else
    easy_close(&limit.one);
  curl_global_cleanup();
  return failure ? 1 : 0;
}
