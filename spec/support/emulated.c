/* Stands for a Lua of another architecture: runs it under an emulator with the arguments it was
   called with. Compiled static, as LD_PRELOAD and LD_LIBRARY_PATH may name libraries that only that
   Lua can load; they are taken out of the emulator's environment and given to Lua. -DEMULATOR,
   -DROOT and -DPROGRAM are strings: the emulator's name, the directory that it looks for files in
   first, and Lua's path. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OWN_ARGUMENTS = 10 };

/* Appends the options that move a variable from this environment into the emulated one. */
static char **move_variable(const char *name, char **next) {
  const char *value = getenv(name);
  if (value == NULL) return next;
  size_t size = strlen(name) + strlen(value) + 2;
  char *setting = malloc(size);
  if (setting == NULL) abort();
  snprintf(setting, size, "%s=%s", name, value);
  unsetenv(name);
  *next++ = "-E";
  *next++ = setting;
  return next;
}

int main(int argc, char *argv[]) {
  char **arguments = calloc((size_t)argc + OWN_ARGUMENTS, sizeof *arguments), **next = arguments;
  if (arguments == NULL) abort();
  *next++ = EMULATOR;
  *next++ = "-L";
  *next++ = ROOT;
  *next++ = "-0";
  *next++ = argv[0];
  next = move_variable("LD_PRELOAD", next);
  next = move_variable("LD_LIBRARY_PATH", next);
  *next++ = PROGRAM;
  for (int i = 1; i < argc; i++)
    *next++ = argv[i];
  execvp(EMULATOR, arguments);
  perror(EMULATOR);
  return 127;
}
