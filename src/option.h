/* option.h - an option as its row describes it, and the table that it is read from. */
#ifndef ICPTOKEN_OPTION_H
#define ICPTOKEN_OPTION_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "settings.h"

#pragma GCC visibility push(hidden)

/* The kinds of tables: that of icptoken.new, a request of client:token or fetch_all, one of
 * client:fetch, that of icptoken.login. */
enum options_kind { OPTIONS_CLIENT = 1, OPTIONS_REQUEST = 2, OPTIONS_FETCH = 4, OPTIONS_LOGIN = 8 };

/* Where a table of options comes from: its stack index, the argument that errors name, and its
 * number if it is in a list of requests (else 0). */
struct options_origin {
  int index, argument, number;
};

/* The table that is being read. */
struct reading {
  lua_State *L;
  struct options_origin origin;
  enum options_kind kind;
  struct settings *settings; /* NULL for a request that cannot change settings */
  int copy;                  /* stack index of the private copy */
};

struct option;

/* Checks the value at the top of the stack and stores it in the settings. Leaves the value for the
 * private copy at the top. */
typedef void option_reader(const struct reading *reading, const struct option *option);

struct option {
  const char *name;
  unsigned kinds; /* kinds of tables that may contain it, OPTIONS_ */
  option_reader *read;
  size_t offset;            /* in struct settings; OPTION_NOWHERE: it stays in the Lua table */
  const char *text, *other; /* the default and, for a choice, the other value */
  int64_t number, min, max; /* the default (times are milliseconds), and the limits of an integer */
};

#define OPTION_NOWHERE SIZE_MAX

/* Where an option is stored. */
void *option_member(const struct reading *reading, const struct option *option);

/* Raises "bad argument #n to 'new' (…)". */
int option_refuse_table(const struct reading *reading, const char *what);

/* The same for the option with this name. */
int option_refuse(const struct reading *reading, const char *name, const char *what);

/* The same for a value of a wrong type, which is at the top. */
int option_refuse_type(const struct reading *reading, const char *name, const char *wanted);

/* Raises if the table at index has a metatable with __index. Tables are read raw, so an inherited
 * option such as cacert would be ignored silently. name is the option whose value the table is, or
 * NULL. */
void option_refuse_inherited(const struct reading *reading, int index, const char *name);

/* Returns the string at the top; raises if it is no string or contains a control character. */
const char *option_check_text(const struct reading *reading, const char *name);

#pragma GCC visibility pop

#endif
