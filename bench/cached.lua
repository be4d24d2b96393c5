-- The ways to a token that is there already. Each is a function that sets up (see driver.lua) and returns the
-- function that asks that many times. Every loop stands for itself: a call through a shared one would cost as much.

local setup = ...

local scope = "repository:default/app:pull"
local clients = {}

-- The limit of a plain call, and of a method: an empty C function that reads the clock.
function clients.empty()
  local read = require("meter").read
  return function(count)
    for _ = 1, count do read() end
  end
end

function clients.method()
  local object = require("meter").new()
  return function(count)
    for _ = 1, count do object:read() end
  end
end

local function open_client()
  return require("icptoken").new {
    url = setup.url, cacert = setup.cacert, id_token = setup.id_token, service = "token-service", scope = scope,
  }
end

-- Stops the run unless the client answers this request from its cache by now.
local function check_cached(client, request)
  local token, _, source = client:token(request)
  setup.check_answer(token)
  assert(source == "cached", source)
end

function clients.token()
  local client = open_client()
  assert(client:token())
  check_cached(client)
  return function(count)
    for _ = 1, count do client:token() end
  end
end

-- With a request that is kept, and with one made for each call.
function clients.request()
  local client, request = open_client(), { scope = scope }
  assert(client:token(request))
  check_cached(client, request)
  return function(count)
    for _ = 1, count do client:token(request) end
  end
end

function clients.literal()
  local client = open_client()
  assert(client:token { scope = scope })
  check_cached(client, { scope = scope })
  return function(count)
    for _ = 1, count do client:token { scope = scope } end
  end
end

-- What a script without the module would write: a table and os.time().
function clients.table()
  local key, now = "token-service " .. scope, os.time
  local entries = { [key] = { token = "token", refresh_at = now() + 1500 } }
  local function get_token(name)
    local entry = entries[name]
    if entry and now() < entry.refresh_at then return entry end
  end
  assert(get_token(key))
  return function(count)
    for _ = 1, count do get_token(key) end
  end
end

-- Runs inside nginx, whose ngx.now it needs: that reads a time which nginx itself refreshes, no clock.
function clients.lrucache()
  local cache, key = require("resty.lrucache").new(1024), "token-service " .. scope
  cache:set(key, { token = "token" }, 1500)
  assert(cache:get(key))
  return function(count)
    for _ = 1, count do cache:get(key) end
  end
end

-- No timing: fails unless 10,000 calls of client:token() leave Lua's allocator alone, LuaJIT's compiler being done.
function clients.allocations()
  local ask, count_lua = clients.token(), require("testkit").count_lua
  ask(10000)
  return function()
    local count = count_lua(ask, 10000)
    assert(count == 0, count .. " allocations in 10,000 calls")
  end
end

return clients
