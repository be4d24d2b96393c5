/* decoder.h - a Lua state that has little more than cjson's decoder, as its only value. A target
 * collects garbage after each input, so that none of it is reported as a leak; that takes as long
 * as the state is big, and the libraries that cjson needs no more would be most of it. */
#ifndef ICPTOKEN_FUZZ_DECODER_H
#define ICPTOKEN_FUZZ_DECODER_H

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>

#include "../src/json.h"

static void decoder_open_library(lua_State *L, const char *name, lua_CFunction open) {
  lua_pushcfunction(L, open);
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
  lua_setglobal(L, name);
}

static lua_State *decoder_open(void) {
  lua_State *L = luaL_newstate();
  if (L == NULL) abort();
  decoder_open_library(L, "_G", luaopen_base);
  decoder_open_library(L, LUA_LOADLIBNAME, luaopen_package);
  json_push_decoder(L);
#ifdef LUA_LOADED_TABLE /* since Lua 5.3; scripts/fuzz builds with 5.4 */
  lua_newtable(L);
  lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_pushnil(L);
  lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  lua_setfield(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
#endif
  return L;
}

#endif
