/* Baseline (a): bare libcurl in C, no Lua. Usage: bare <url> <CA file> <ID token file>; prints
 * "ready", then for each count read from standard input performs that many fetches and prints the
 * wall and the CPU seconds they took, as bench/driver.lua does for all others. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "easy.h"

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

static const char *fetch_times(struct easy *easy, long count) {
  const char *failure = NULL;
  for (long i = 0; i < count && !failure; i++)
    failure = easy_fetch(easy);
  return failure;
}

static const char *serve_counts(struct easy *easy) {
  char line[32];
  const char *failure = fetch_times(easy, 1);
  if (!failure) puts("ready");
  while (!failure && fgets(line, sizeof line, stdin)) {
    double wall = read_clock(CLOCK_MONOTONIC), cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    failure = fetch_times(easy, strtol(line, NULL, 10));
    wall = read_clock(CLOCK_MONOTONIC) - wall;
    cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    if (!failure) printf("%.9f %.9f\n", wall, cpu);
  }
  return failure;
}

int main(int argc, char **argv) {
  static char id_token[16384];
  struct easy easy = {0};
  if (argc != 4 || read_line(argv[3], id_token, sizeof id_token)) {
    fputs("usage: bare <url> <CA file> <ID token file>\n", stderr);
    return 2;
  }
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  const char *failure =
      easy_open(&easy, argv[1], argv[2], id_token) ? "no handle" : serve_counts(&easy);
  if (failure) printf("failed %s\n", failure);
  easy_close(&easy);
  curl_global_cleanup();
  return failure ? 1 : 0;
}
