/* table.c - reads and fills Lua tables without calling metamethods of the caller. */
#include "table.h"

#include "compat.h"

int table_push_field(lua_State *L, int index, const char *name) {
  index = compat_absindex(L, index);
  lua_pushstring(L, name);
  lua_rawget(L, index);
  return lua_type(L, -1);
}

size_t table_count(lua_State *L, int index) {
  size_t count = 0;
  index = compat_absindex(L, index);
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1))
    count++;
  return count;
}

void table_set_number(lua_State *L, int index, const char *name, double value) {
  index = compat_absindex(L, index);
  lua_pushstring(L, name);
  if (compat_is_whole(value))
    compat_pushwhole(L, value);
  else
    lua_pushnumber(L, (lua_Number)value);
  lua_rawset(L, index);
}

void table_remove(lua_State *L, int index, const char *name) {
  index = compat_absindex(L, index);
  lua_pushstring(L, name);
  lua_pushnil(L);
  lua_rawset(L, index);
}
