-- What bench/gateway/growth.lua runs inside a worker of nginx: each function gets the gateway and a number, and returns
-- numbers. Times are CPU seconds of the worker.

local clock = require "icptoken.gateway.clock"
local key = require "icptoken.gateway.key"
local tokens = require "icptoken.gateway.tokens"

local hooks = {}

local LOOKUPS, ROUNDS, WRITES = 1000, 21, 40000
local LIFE, REFRESH = 1800, 1500
local ID_TOKEN = ("i"):rep(677)
local JWT = ("j"):rep(760)

local dict = ngx.shared.icptoken

local function make_scope(n) return ("repository:team/app-%d:pull"):format(n) end

local function write(gateway, n)
  local token_key, time = key.compute(gateway.token_bases.bearer, ID_TOKEN, 1, make_scope(n)), clock.now()
  assert(gateway.store:put_token(token_key, "Bearer " .. JWT .. n, time + REFRESH, time + LIFE))
end

local function get_median(times)
  table.sort(times)
  return times[(#times + 1) / 2]
end

-- Writes that many tokens. Returns the time and the bytes of one.
function hooks.fill(gateway, count)
  local free, start = dict:free_space(), os.clock()
  for n = 1, count do write(gateway, n) end
  return (os.clock() - start) / count, (free - dict:free_space()) / count
end

-- Returns the time of a lookup among that many tokens, in an order that jumps.
function hooks.look_up(gateway, count)
  local scopes, times = {}, {}
  for i = 1, LOOKUPS do scopes[i] = make_scope(i * 7919 % count + 1) end
  for round = 1, ROUNDS do
    local start = os.clock()
    for i = 1, LOOKUPS do
      local authorization = tokens.obtain(gateway, gateway.token_bases.bearer, "bearer", ID_TOKEN, 1, scopes[i],
        gateway.defaults)
      if not authorization then error("a token is missing") end
    end
    times[round] = (os.clock() - start) / LOOKUPS
  end
  return get_median(times)
end

-- Fills the dict until a write evicts a token. Returns the time of further writes, and how many tokens there are.
function hooks.overfill(gateway)
  local count = 0
  repeat
    for _ = 1, 100 do
      count = count + 1
      write(gateway, count)
    end
  until gateway.counters:get "evictions" > 0
  local start = os.clock()
  for n = count + 1, count + WRITES do write(gateway, n) end
  return (os.clock() - start) / WRITES, count
end

-- Returns the time of gateway:token() with a list of that many scopes, from the cache.
function hooks.read_scopes(gateway, count)
  local scopes, times = {}, {}
  for i = 1, count do scopes[i] = make_scope(i * 7919 % 10007) end
  local function get()
    local token, source = gateway:token { id_token = "good", scope = scopes }
    if not token then error(source) end
    return source
  end
  get()
  for round = 1, ROUNDS do
    local start = os.clock()
    for _ = 1, 20 do assert(get() == "cached") end
    times[round] = (os.clock() - start) / 20
  end
  return get_median(times)
end

return hooks
