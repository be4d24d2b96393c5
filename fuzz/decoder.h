/* decoder.h - a Lua state that has little more than cjson's decoder, as its only value. A target
 * collects garbage after each input, so that none of it is reported as a leak; that takes as long
 * as the state is big, and the libraries that cjson needs no more would be most of it. */
#ifndef ICPTOKEN_FUZZ_DECODER_H
#define ICPTOKEN_FUZZ_DECODER_H

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>

#include "../src/json.h"

static lua_State *decoder_open(void) {
  lua_State *L = luaL_newstate();
  if (L == NULL) abort();
  luaL_requiref(L, LUA_GNAME, luaopen_base, 1);
  luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
  lua_settop(L, 0);
  json_push_decoder(L);
  lua_newtable(L);
  lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_pushnil(L);
  lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  lua_setfield(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  return L;
}

#endif
