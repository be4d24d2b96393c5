/* compat.c - the one place for what differs between Lua 5.1, 5.2, 5.3, 5.4 and LuaJIT. */
#include "compat.h"

void compat_setfuncs(lua_State *L, const luaL_Reg *functions, int first, int count) {
  luaL_checkstack(L, count + 1, "upvalues");
  for (; functions->name != NULL; functions++) {
    for (int i = 0; i < count; i++) lua_pushvalue(L, first + i);
    lua_pushcclosure(L, functions->func, count);
    lua_setfield(L, -2, functions->name);
  }
}

#if LUA_VERSION_NUM >= 502
/* Runs the main thread's hook in the coroutine L, if there is one to run. */
static bool lend_hook(lua_State *L, int index) {
  if (lua_pushthread(L) == 1) {
    lua_pop(L, 1);
    return false;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_State *main_thread = lua_tothread(L, -1);
  lua_pop(L, 2);
  lua_Hook hook = lua_gethook(main_thread);
  if (hook == NULL || lua_gethook(L) != NULL) return false;
  lua_sethook(L, hook, lua_gethookmask(main_thread), lua_gethookcount(main_thread));
  lua_pushvalue(L, index);
  int status = lua_pcall(L, 0, 0, 0);
  lua_sethook(L, NULL, 0, 0);
  if (status != LUA_OK) lua_error(L);
  return true;
}
#else
static bool lend_hook(lua_State *L, int index) {
  (void)L;
  (void)index;
  return false;
}
#endif

void compat_run_hook(lua_State *L, int index) {
  if (lend_hook(L, index)) return;
  lua_pushvalue(L, index);
  lua_call(L, 0, 0);
}
