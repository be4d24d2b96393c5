/* compat.c - the differences between Lua 5.1 to 5.5 and LuaJIT. */
#include "compat.h"

void compat_setfuncs(lua_State *L, const luaL_Reg *functions, int first, int count) {
  luaL_checkstack(L, count + 1, "upvalues");
  for (; functions->name != NULL; functions++) {
    for (int i = 0; i < count; i++)
      lua_pushvalue(L, first + i);
    lua_pushcclosure(L, functions->func, count);
    lua_setfield(L, -2, functions->name);
  }
}

#if LUA_VERSION_NUM >= 502
/* Installs the main thread's hook in the coroutine L, if there is one and L has none. */
static bool lend_hook(lua_State *L) {
  bool is_main = lua_pushthread(L) == 1;
  lua_pop(L, 1);
  if (is_main) return false;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_State *main_thread = lua_tothread(L, -1);
  lua_pop(L, 1);
  lua_Hook hook = lua_gethook(main_thread);
  if (hook == NULL) return false;
  lua_sethook(L, hook, lua_gethookmask(main_thread), lua_gethookcount(main_thread));
  return true;
}
#else
static bool lend_hook(lua_State *L) {
  (void)L;
  return false;
}
#endif

void compat_run_hook(lua_State *L, int index) {
  bool own = lua_gethook(L) != NULL;
  if (!own && !lend_hook(L)) return;
  lua_pushvalue(L, index);
  int status = lua_pcall(L, 0, 0, 0);
  if (!own) lua_sethook(L, NULL, 0, 0);
  if (status != 0) lua_error(L);
}
