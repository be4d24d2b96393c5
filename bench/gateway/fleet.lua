-- Measures what the option `fleet` costs and saves: gateways with it compared with the same ones without it, in one
-- run, with a real Redis and an endpoint that takes 20 ms. Prints three tables and a model of a large fleet. `make
-- bench-fleet` runs it, and docs/fleet.md explains the tables.
--
-- Usage: luajit bench/gateway/fleet.lua [cold|cached|growth]...   all when none is named
-- ROUNDS (5) says how often the rows of a table alternate. PICTURE names a file to which the table of growth is also
-- written as a picture (see bench/pictures.lua).
package.path = "bench/gateway/?.lua;spec/?.lua;lua/?.lua;./?.lua;" .. package.path
package.cpath = "build/luajit/?.so;" .. package.cpath

local bed = require "bed"
local files = require "support.files"
local gateway = require "support.gateway"
local load = require "support.load"
local nginx = require "support.nginx"
local redis = require "support.redis"
local stub_client = require "stub.client"

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local COLD_REQUESTS = 400 -- in a round, for each gateway
local CACHED_SECONDS = 2
local CACHED_ROUNDS = 3 * ROUNDS
local GROWTH_KEYS, GROWTH_CLIENTS = 200, 8
local SIZES = { 1, 2, 4, 8 }
-- The model.
local MACHINES, KEYS, LIFE_SECONDS = 100, 100000, 1800
-- A token is renewed when this share of its life has passed, on average.
local RENEWAL_SHARE = 0.8

local ENDPOINT = [[
  lua_shared_dict counts 1m;
  server {
    listen 127.0.0.1:@PORT@ ssl backlog=4096;
    ssl_certificate %s;
    ssl_certificate_key %s;
    keepalive_requests 1000000;
    location = /counts { content_by_lua_block { ngx.print(ngx.shared.counts:get "all" or 0) } }
    location / {
      content_by_lua_block {
        ngx.shared.counts:incr("all", 1, 0)
        ngx.sleep(0.02)
        ngx.print '%s'
      }
    }
  }
]]

local stub, endpoint, upstream, server, secret_file

local function start_servers()
  stub, server, upstream = stub_client.start(), redis.start(), gateway.start_upstream()
  endpoint = nginx.start { workers = 1, log_level = "warn",
    http = ENDPOINT:format(stub.server_cert, stub.server_key, bed.read_answer(stub)) }
  secret_file = server.dir .. "/secret"
  files.write(secret_file, ("s"):rep(42) .. "o=\n")
  os.execute("chmod 600 " .. secret_file)
end

local function stop_servers()
  for _, one in ipairs { endpoint, upstream, server, stub } do one:stop() end
end

-- Starts a gateway. With more time for Redis than usual, so that a busy machine does not open the breaker unseen.
local function start_gateway(has_fleet, workers)
  local fleet = (", fleet = { redis = 'redis://127.0.0.1:%d', secret_file = %q, timeout = 2, connect_timeout = 2 }")
    :format(server.port, secret_file)
  return gateway.start { workers = workers, dict = "64m", upstream = upstream, log_level = "notice",
    gateway = ("{ host = 'localhost', port = %d, cacert = %q, service = 'token-service', hedge_after = false %s }")
      :format(endpoint.port, stub.ca, has_fleet and fleet or "") }
end

local function make_request(name)
  return { target = "/v2/" .. name .. "/manifests/latest", headers = { Authorization = "Bearer good" } }
end

local function request(one, name)
  local answer = load.request(one.port, make_request(name))
  assert(answer.status == 200, tostring(answer.status) .. one:log())
  return answer
end

local function count_fetches()
  return tonumber(bed.read_command(("curl -s --insecure https://localhost:%d/counts"):format(endpoint.port)))
end

-- The numbers that Redis has counted: scripts that gateways have run, and bytes in and out.
local function read_redis()
  local commands = 0
  for name, calls in server:command("INFO", "commandstats"):gmatch "cmdstat_(%w+):calls=(%d+)" do
    if name == "evalsha" or name == "eval" then commands = commands + tonumber(calls) end
  end
  local stats = server:command("INFO", "stats")
  return { commands = commands, received = tonumber(stats:match "total_net_input_bytes:(%d+)"),
    sent = tonumber(stats:match "total_net_output_bytes:(%d+)") }
end

-- The bytes that Redis needs for a token, with its name.
local function measure_record()
  local sum, count = 0, 0
  for _, name in ipairs(server:command("SCAN", "0", "COUNT", 1000)[2]) do
    local bytes = name:find ":t$" and server:command("MEMORY", "USAGE", name)
    if bytes then sum, count = sum + bytes, count + 1 end
  end
  return sum / count
end

local function await_results()
  repeat
    load.together(function() load.sleep(0.05) end)
    local has_leases = false
    local cursor = "0"
    repeat
      local reply = server:command("SCAN", cursor, "COUNT", 10000)
      cursor = reply[1]
      for _, name in ipairs(reply[2]) do has_leases = has_leases or name:find ":l$" ~= nil end
    until cursor == "0"
  until not has_leases
end

local function say(text, ...)
  print(text:format(...))
  io.stdout:flush()
end

local function get_median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

-- ---- Tables ----

-- One request at a time, each for another key, to both gateways in turn.
local function measure_cold()
  local rows = { { name = "without" }, { name = "with", has_fleet = true } }
  for _, row in ipairs(rows) do
    row.gateway, row.answers = start_gateway(row.has_fleet, 2), {}
    for i = 1, 20 do request(row.gateway, "before/image" .. i) end
  end
  await_results()
  local before = read_redis()
  for round = 1, ROUNDS do
    for i = 1, COLD_REQUESTS do
      for k = 1, 2 do
        local row = rows[(round + i + k) % 2 + 1]
        table.insert(row.answers, request(row.gateway, ("cold-%s/%d-%d"):format(row.name, round, i)))
      end
    end
  end
  await_results()
  local commands = read_redis().commands - before.commands
  say("\nCold: %d requests for new keys to each gateway, one at a time, in ms\n", #rows[1].answers)
  say("%-10s %8s %8s %8s", "fleet", "p50", "p90", "p99")
  for _, row in ipairs(rows) do
    row.p50, row.p99 = load.percentile(row.answers, 0.5) * 1000, load.percentile(row.answers, 0.99) * 1000
    say("%-10s %8.2f %8.2f %8.2f", row.name, row.p50, load.percentile(row.answers, 0.9) * 1000, row.p99)
    row.gateway:stop()
  end
  say("%-10s %+8.2f %8s %+8.2f   (allowed: +1, +3)", "difference", rows[2].p50 - rows[1].p50, "",
    rows[2].p99 - rows[1].p99)
  say("Redis commands per cold fetch: %.2f (allowed: 2)", commands / #rows[2].answers)
end

-- Requests per second of a cached token. Each gateway is started again for each round, as LuaJIT's choice of what to
-- compile differs from start to start.
local function measure_cached()
  local rows = { { name = "without" }, { name = "with", has_fleet = true } }
  local commands = 0
  for _, row in ipairs(rows) do row.rates, row.times = {}, {} end
  for round = 1, CACHED_ROUNDS do
    for k = 1, 2 do
      local row = rows[(round + k) % 2 + 1]
      local one = start_gateway(row.has_fleet, 2)
      request(one, "cached/image")
      bed.run_wrk(one, 1)
      await_results()
      local before = read_redis()
      row.rates[round], row.times[round] = bed.run_wrk(one, CACHED_SECONDS)
      commands = commands + read_redis().commands - before.commands
      one:stop()
    end
  end
  say("\nCached: requests per second, medians of %d starts of nginx\n", CACHED_ROUNDS)
  say("%-10s %8s %16s", "fleet", "rps", "CPU µs/request")
  for _, row in ipairs(rows) do
    row.rate, row.time = get_median(row.rates), get_median(row.times)
    say("%-10s %8.0f %15.2f", row.name, row.rate, row.time * 1e6)
  end
  say("ratio %.3f, by CPU time %.3f (allowed: 0.99); Redis commands: %d", rows[2].rate / rows[1].rate,
    rows[1].time / rows[2].time, commands)
end

-- All gateways request the same keys, each in an order of its own. Returns the requests, how long that took, and what
-- the cluster and Redis saw.
local function run_growth(size, has_fleet, round)
  local gateways = {}
  for i = 1, size do
    gateways[i] = start_gateway(has_fleet, 1)
    request(gateways[i], "growth-before/image" .. i)
  end
  await_results()
  local before, fetches, started, tasks = read_redis(), count_fetches(), load.read_time(), {}
  for _, one in ipairs(gateways) do
    local order, next_index = {}, 1
    for i = 1, GROWTH_KEYS do order[i] = i end
    for i = GROWTH_KEYS, 2, -1 do
      local j = math.random(i)
      order[i], order[j] = order[j], order[i]
    end
    for _ = 1, GROWTH_CLIENTS do
      tasks[#tasks + 1] = function()
        while next_index <= GROWTH_KEYS do
          local key = order[next_index]
          next_index = next_index + 1
          local answer = load.perform(one.port, make_request(("growth%d-%d/image%d"):format(size, round, key)))
          assert(answer.status == 200)
        end
      end
    end
  end
  load.together(unpack(tasks))
  local seconds = load.read_time() - started
  await_results()
  local after = read_redis()
  for name, value in pairs(after) do after[name] = value - before[name] end
  after.seconds, after.fetches = seconds, count_fetches() - fetches
  for _, one in ipairs(gateways) do one:stop() end
  return after
end

-- Prints a model of a large fleet in which all machines use all keys, made of what one key costs.
local function print_model(key)
  local fetches = KEYS / (LIFE_SECONDS * RENEWAL_SHARE)
  local commands = fetches * (MACHINES + 1)
  say("\nModel: %d machines, %d keys, tokens of %d s that are renewed after %d s; every machine uses every key\n",
    MACHINES, KEYS, LIFE_SECONDS, LIFE_SECONDS * RENEWAL_SHARE)
  say("token requests per second: %.0f (without the fleet: %.0f)", fetches, fetches * MACHINES)
  say("Redis commands per second: %.0f", commands)
  say("Redis memory: %.0f MB (%.0f bytes for a key)", KEYS * key.memory / 1e6, key.memory)
  say("bytes per second: to Redis %.1f MB, from Redis %.1f MB", commands * key.received / 1e6,
    commands * key.sent / 1e6)
end

-- Writes the table of growth as a picture. rows: { size, without, with } each, the latter two from run_growth.
local function write_picture(path, rows)
  local points = { without = {}, with = {}, commands = {}, model = {} }
  for i, row in ipairs(rows) do
    points.without[i] = ("%d %d"):format(row.size, row.without.fetches)
    points.with[i] = ("%d %d"):format(row.size, row.with.fetches)
    points.commands[i] = ("%d %.4g"):format(row.size, row.with.commands / GROWTH_KEYS)
    points.model[i] = ("%d %d"):format(row.size, row.size + 1)
  end
  for name, list in pairs(points) do points[name] = table.concat(list, ", ") end
  files.write(path, table.concat({
    ("# Gateways of one worker each request the same %d keys at the same time, each in an order of its own."):format(
      GROWTH_KEYS),
    "title How a fleet grows",
    "x gateways",
    "panel token requests at the cluster",
    "line with a fleet | " .. points.with,
    "line without a fleet | " .. points.without,
    "panel Redis commands for a key",
    "dashes one for each gateway, and one for the result | " .. points.model,
    "line with a fleet | " .. points.commands,
  }, "\n") .. "\n")
end

local function measure_growth()
  say("\nGrowth: all gateways request the same %d keys at the same time, in orders of their own\n", GROWTH_KEYS)
  say("%8s %12s %12s %10s %10s %12s %10s", "gateways", "fetches", "fetches", "seconds", "seconds", "commands", "model")
  say("%8s %12s %12s %10s %10s %12s %10s", "", "without", "with", "without", "with", "for a key", "")
  local last
  local rows = {}
  for i, size in ipairs(SIZES) do
    local without, with = run_growth(size, false, 1), run_growth(size, true, 2)
    rows[i] = { size = size, without = without, with = with }
    say("%8d %12d %12d %10.2f %10.2f %12.2f %10d", size, without.fetches, with.fetches, without.seconds, with.seconds,
      with.commands / GROWTH_KEYS, size + 1)
    last = with
  end
  if os.getenv "PICTURE" then write_picture(os.getenv "PICTURE", rows) end
  print_model { memory = measure_record(), received = last.received / last.commands,
    sent = last.sent / last.commands }
end

local TABLES = { { "cold", measure_cold }, { "cached", measure_cached }, { "growth", measure_growth } }

local wanted = {}
for _, name in ipairs { ... } do wanted[name] = true end
start_servers()
local ok, problem = pcall(function()
  for _, row in ipairs(TABLES) do
    if not next(wanted) or wanted[row[1]] then row[2]() end
  end
end)
stop_servers()
if not ok then error(problem, 0) end
