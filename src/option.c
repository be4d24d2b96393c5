/* option.c - an option as its row describes it, and the table that it is read from. */
#include "option.h"

#include <lauxlib.h>

enum { MAX_TEXT = 1024 * 1024 };

void *option_member(const struct reading *reading, const struct option *option) {
  return (char *)reading->settings + option->offset;
}

int option_refuse_table(const struct reading *reading, const char *what) {
  if (reading->origin.number > 0)
    what = lua_pushfstring(reading->L, "request %d: %s", reading->origin.number, what);
  return luaL_argerror(reading->L, reading->origin.argument, what);
}

int option_refuse(const struct reading *reading, const char *name, const char *what) {
  return option_refuse_table(reading, lua_pushfstring(reading->L, "option '%s' %s", name, what));
}

int option_refuse_type(const struct reading *reading, const char *name, const char *wanted) {
  const char *what =
      lua_pushfstring(reading->L, "must be %s, not %s", wanted, luaL_typename(reading->L, -1));
  return option_refuse(reading, name, what);
}

void option_refuse_inherited(const struct reading *reading, int index, const char *name) {
  static const char what[] =
      "must contain its values itself, not inherit them through a metatable's __index";
  lua_State *L = reading->L;
  if (!lua_getmetatable(L, index)) return;
  lua_pushliteral(L, "__index");
  lua_rawget(L, -2);
  bool inherits = !lua_isnil(L, -1);
  lua_pop(L, 2);
  if (!inherits) return;
  if (name != NULL) option_refuse(reading, name, what);
  option_refuse_table(reading, lua_pushfstring(L, "the table %s", what));
}

const char *option_check_text(const struct reading *reading, const char *name) {
  size_t length;
  if (lua_type(reading->L, -1) != LUA_TSTRING) option_refuse_type(reading, name, "a string");
  const char *text = lua_tolstring(reading->L, -1, &length);
  if (length > MAX_TEXT) option_refuse(reading, name, "must not be longer than 1 MiB");
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
      option_refuse(reading, name, "must not contain a control character");
  return text;
}
