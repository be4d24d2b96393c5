/* For clang-tidy only: declares that these functions of Lua do not return. Lua's own headers do not
   declare it, so the analyzer would follow paths that do not exist. */
#ifndef SCRIPTS_NORETURN_H
#define SCRIPTS_NORETURN_H

struct lua_State;
int lua_error(struct lua_State *L) __attribute__((noreturn));
int luaL_error(struct lua_State *L, const char *format, ...) __attribute__((noreturn));
int luaL_argerror(struct lua_State *L, int arg, const char *message) __attribute__((noreturn));

#endif
