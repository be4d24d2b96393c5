-- The ways to look up a cached token. Each is a function that sets up (see driver.lua) and returns the function that
-- looks it up that many times. The loops are not shared, because a call through a shared one would cost as much.

local setup = ...

local scope = "repository:default/app:pull"
local clients = {}

-- The lower limits: an empty C function that reads the clock, the same as a method, and a method that reads the clock
-- and returns what client:token() does.
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

function clients.least()
  local object = require("meter").new()
  assert(select(3, object:get()) == "cached")
  return function(count)
    for _ = 1, count do object:get() end
  end
end

local function open_client()
  return require("icptoken").new {
    url = setup.url, cacert = setup.cacert, id_token = setup.id_token, service = "token-service", scope = scope,
  }
end

-- Stops the run unless the client now returns the token of this request from its cache.
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

-- With a request table that is reused, and with one made for each call.
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

-- A script without the module would use a table and os.time().
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

-- Runs inside nginx, as it needs ngx.now, which reads the time that nginx caches instead of a clock.
function clients.lrucache()
  local cache, key = require("resty.lrucache").new(1024), "token-service " .. scope
  cache:set(key, { token = "token" }, 1500)
  assert(cache:get(key))
  return function(count)
    for _ = 1, count do cache:get(key) end
  end
end

-- Measures no time: fails if 10,000 calls of client:token() allocate memory once LuaJIT has compiled the loop.
function clients.allocations()
  local ask, count_lua = clients.token(), require("testkit").count_lua
  ask(10000)
  return function()
    local count = count_lua(ask, 10000)
    assert(count == 0, count .. " allocations in 10,000 calls")
  end
end

return clients
