-- Measures how the cost of the module grows, and writes lines for bench/growth_report.lua. bench/growth starts it.
-- Usage: lua5.4 growth.lua <url> <CA file> <ID token file> <file to append to>

local icptoken = require "icptoken"
local testkit = require "testkit"

local url, cacert, id_token_file, path = ...
local results = assert(io.open(path, "a"))
local clock = os.clock -- CPU time of this process, so that neither the server nor other load counts

local LOOKUPS, ROUNDS, EVICTIONS = 1000, 21, 300

local function read_line(name)
  local file = assert(io.open(name))
  local line = file:read "*l"
  file:close()
  return line
end

local id_token = read_line(id_token_file)

-- The client has a connection, so that memory that is measured from here on is that of tokens.
local function open_client(cache_size)
  local client = assert(icptoken.new { url = url, cacert = cacert, id_token = id_token, cache_size = cache_size })
  assert(client:fetch())
  return client
end

-- Returns the median CPU time of a call of run, in seconds, divided by count.
local function measure(count, rounds, run)
  local times = {}
  for i = 1, rounds do
    local start = clock()
    run()
    times[i] = (clock() - start) / count
  end
  table.sort(times)
  return times[(#times + 1) // 2]
end

local function count_bytes()
  collectgarbage()
  collectgarbage()
  return collectgarbage "count" * 1024 + testkit.heap()
end

local function make_request(n) return { scope = ("repository:team/app-%d:pull"):format(n) } end

local function fill(client, first, last)
  for n = first, last do
    local token, message = client:token(make_request(n))
    if not token then error(message, 0) end
  end
end

-- Chooses that many keys in an order that jumps between the first and the last one.
local function choose_requests(keys)
  local requests = {}
  for i = 1, LOOKUPS do requests[i] = make_request(i * 7919 % keys + 1) end
  return requests
end

-- Measures a lookup, an eviction and an invalidation in a cache with that many keys, and its memory.
local function measure_cache(keys)
  local client = open_client(keys)
  local before = count_bytes()
  fill(client, 1, keys)
  local bytes = (count_bytes() - before) / keys
  local requests = choose_requests(keys)
  local lookup = measure(LOOKUPS, ROUNDS, function()
    for i = 1, LOOKUPS do client:token(requests[i]) end
  end)
  local invalidate = measure(1, ROUNDS, function() client:invalidate "unknown" end)
  local start = clock()
  fill(client, keys + 1, keys + EVICTIONS)
  local evicting = (clock() - start) / EVICTIONS
  assert(client:stats().evictions == EVICTIONS)
  client:close()
  return { lookup = lookup * 1e9, invalidate = invalidate * 1e9, evicting = evicting * 1e9, bytes = bytes }
end

-- Returns the microseconds and the bytes of each request of a fetch_all of that many.
local function measure_batch(count)
  local client, requests = open_client(), {}
  for n = 1, count do requests[n] = make_request(n) end
  assert(client:fetch_all { {}, {} })
  local before, bytes = count_bytes(), nil
  local each = measure(count, math.max(1, 10000 // count), function()
    local tokens, errors = client:fetch_all(requests)
    assert(not errors)
    bytes = bytes or (count_bytes() - before) / #tokens
  end)
  client:close()
  return each * 1e6, bytes
end

-- Returns the microseconds of a lookup with a list of that many scopes, which are sorted for the key of the cache.
local function measure_scopes(count)
  local client, scopes = open_client(), {}
  for n = 1, count do scopes[n] = ("r:a/%d:pull"):format(n * 7919 % 10007) end
  local request = { scope = scopes }
  assert(client:token(request))
  local lookup = measure(1, ROUNDS, function() client:token(request) end)
  client:close()
  return lookup * 1e6
end

local function add(title, n, columns)
  for i = 1, #columns, 2 do results:write(("%s\t%d\t%s\t%.17g\n"):format(title, n, columns[i], columns[i + 1])) end
  results:flush()
end

for _, keys in ipairs { 10, 1000, 100000 } do
  local row = measure_cache(keys)
  add("keys in the cache of a client", keys, { "lookup, ns", row.lookup, "fetch that evicts, ns", row.evicting,
    "invalidate, ns", row.invalidate, "bytes a token", row.bytes })
end
for _, count in ipairs { 10, 1000, 20000 } do
  local each, bytes = measure_batch(count)
  add("requests of one fetch_all", count, { "each, us", each, "bytes a result", bytes })
end
for _, count in ipairs { 1, 10, 100, 500 } do
  add("scopes of client:token()", count, { "cached, us", measure_scopes(count) })
end
results:close()
