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
Asks an IBM Cloud Private (ICP) cluster for a registry JWT over verified HTTPS and gives the answer
to Lua as a table. Written in C on libcurl; for Lua 5.1 to 5.5 and LuaJIT.]],
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
build = {
  type = "builtin",
  modules = {
    icptoken = {
      sources = {
        "lua_icptoken.c",
        "src/batch.c",
        "src/buffer.c",
        "src/cache.c",
        "src/call.c",
        "src/challenge.c",
        "src/client.c",
        "src/compat.c",
        "src/credential.c",
        "src/date.c",
        "src/diagnose.c",
        "src/endpoint.c",
        "src/exchange.c",
        "src/failure.c",
        "src/files.c",
        "src/handshake.c",
        "src/jitter.c",
        "src/json.c",
        "src/jwt.c",
        "src/lifetime.c",
        "src/options.c",
        "src/pool.c",
        "src/refusal.c",
        "src/request.c",
        "src/response.c",
        "src/retry.c",
        "src/route.c",
        "src/scrub.c",
        "src/session.c",
        "src/token.c",
        "src/transfer.c",
      },
      defines = { "_GNU_SOURCE", "_FILE_OFFSET_BITS=64", "_TIME_BITS=64" },
      incdirs = { "$(CURL_INCDIR)" },
      libdirs = { "$(CURL_LIBDIR)" },
      libraries = { "curl" },
    },
    ["icptoken.gateway"] = "lua/icptoken/gateway.lua",
    ["icptoken.gateway.answer"] = "lua/icptoken/gateway/answer.lua",
    ["icptoken.gateway.challenge"] = "lua/icptoken/gateway/challenge.lua",
    ["icptoken.gateway.client"] = "lua/icptoken/gateway/client.lua",
    ["icptoken.gateway.clock"] = "lua/icptoken/gateway/clock.lua",
    ["icptoken.gateway.credential"] = "lua/icptoken/gateway/credential.lua",
    ["icptoken.gateway.endpoint"] = "lua/icptoken/gateway/endpoint.lua",
    ["icptoken.gateway.flights"] = "lua/icptoken/gateway/flights.lua",
    ["icptoken.gateway.key"] = "lua/icptoken/gateway/key.lua",
    ["icptoken.gateway.latency"] = "lua/icptoken/gateway/latency.lua",
    ["icptoken.gateway.metrics"] = "lua/icptoken/gateway/metrics.lua",
    ["icptoken.gateway.options"] = "lua/icptoken/gateway/options.lua",
    ["icptoken.gateway.permits"] = "lua/icptoken/gateway/permits.lua",
    ["icptoken.gateway.queue"] = "lua/icptoken/gateway/queue.lua",
    ["icptoken.gateway.scope"] = "lua/icptoken/gateway/scope.lua",
    ["icptoken.gateway.seal"] = "lua/icptoken/gateway/seal.lua",
    ["icptoken.gateway.store"] = "lua/icptoken/gateway/store.lua",
    ["icptoken.gateway.worker_thread"] = "lua/icptoken/gateway/worker_thread.lua",
  },
}
test = {
  type = "command",
  script = "spec/run.lua",
}
