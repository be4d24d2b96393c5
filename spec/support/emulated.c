/* Replaces the Lua of another architecture: runs it under an emulator with the arguments that this
   program got. It is DIR/bin/NAME; DIR/emulator is a link to the emulator, and
   DIR/root/usr/bin/NAME is that Lua. Compiled static, as LD_PRELOAD and LD_LIBRARY_PATH may name
   libraries that only that Lua can load: they are taken out of the emulator's environment and given
   to Lua. */

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OWN_ARGUMENTS = 10 };

static _Noreturn void give_up(const char *what) {
  perror(what);
  exit(127);
}

/* Appends the options that move a variable from this environment into the emulated one. */
static char **move_variable(const char *name, char **next) {
  const char *value = getenv(name);
  char *setting;
  if (value == NULL) return next;
  if (asprintf(&setting, "%s=%s", name, value) < 0) give_up(name);
  unsetenv(name);
  *next++ = "-E";
  *next++ = setting;
  return next;
}

int main(int argc, char *argv[]) {
  char self[PATH_MAX + 1] = "", *emulator, *root, *program;
  char **arguments = calloc((size_t)argc + OWN_ARGUMENTS, sizeof *arguments), **next = arguments;
  if (arguments == NULL || readlink("/proc/self/exe", self, PATH_MAX) < 0)
    give_up("/proc/self/exe");
  const char *name = strrchr(self, '/') + 1, *directory = dirname(dirname(strdupa(self)));
  if (asprintf(&emulator, "%s/emulator", directory) < 0 ||
      asprintf(&root, "%s/root", directory) < 0 ||
      asprintf(&program, "%s/usr/bin/%s", root, name) < 0)
    give_up(name);
  *next++ = emulator;
  *next++ = "-L";
  *next++ = root;
  *next++ = "-0";
  *next++ = argv[0];
  next = move_variable("LD_PRELOAD", next);
  next = move_variable("LD_LIBRARY_PATH", next);
  *next++ = program;
  for (int i = 1; i < argc; i++)
    *next++ = argv[i];
  execv(emulator, arguments);
  give_up(emulator);
}
