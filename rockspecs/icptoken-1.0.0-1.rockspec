rockspec_format = "3.0"
package = "icptoken"
version = "1.0.0-1"
source = {
  url = "git+https://github.com/icptoken/icptoken.git",
  tag = "v1.0.0",
}
description = {
  summary = "Registry tokens from an IBM Cloud Private cluster",
  detailed = [[
Requests a registry JWT from an IBM Cloud Private (ICP) cluster over verified HTTPS and returns the
answer as a Lua table. Written in C on top of libcurl; for Lua 5.1 to 5.5 and LuaJIT.]],
  homepage = "https://github.com/icptoken/icptoken",
  issues_url = "https://github.com/icptoken/icptoken/issues",
  license = "MIT",
  labels = { "http", "jwt", "token", "docker", "registry" },
}
supported_platforms = { "unix" }
dependencies = {
  "lua >= 5.1, < 5.6",
  "lua-cjson >= 2.1.0",
}
external_dependencies = {
  CURL = { library = "curl" },
}
-- Not "builtin": that type installs all of lua/, so that this rock would have the programs' modules as well.
build = {
  type = "make",
  build_target = "--always-make all",
  install_target = "install-module",
  variables = {
    LUA = "$(LUA)",
    LUA_CFLAGS = "-I$(LUA_INCDIR)",
    CFLAGS = "$(CFLAGS)",
    CURL_CFLAGS = "-I$(CURL_INCDIR)",
    CURL_LIBS = "-L$(CURL_LIBDIR) -Wl,-rpath,$(CURL_LIBDIR) -lcurl",
  },
  install_variables = { INST_LIBDIR = "$(LIBDIR)", INST_LUADIR = "$(LUADIR)" },
}
test = {
  type = "command",
  script = "spec/run.lua",
}
