-- Measures how the cost of the gateway grows with workers, keys, waiting requests, queries and scopes, and writes lines
-- for bench/growth_report.lua. bench/growth starts it.
-- Usage: luajit bench/gateway/growth.lua <file to append to> [workers|waiting|refused|dict|full|queries|scopes]...
package.path = "bench/gateway/?.lua;spec/?.lua;lua/?.lua;./?.lua;" .. package.path
package.cpath = "build/luajit/?.so;" .. package.cpath

local bed = require "bed"
local gateway = require "support.gateway"
local load = require "support.load"
local nginx = require "support.nginx"
local stub_client = require "stub.client"

local WAITING, KEYS, DICTS = { 100, 1000, 10000 }, { 10, 1000, 100000 }, { "1m", "16m", "128m" }
local QUERIES, SCOPES, WORKERS = { 100, 1000, 30000 }, { 1, 10, 100, 500 }, { 1, 2, 4 }
-- Waiting requests have this long, so that a busy machine refuses none.
local TIMEOUT = 300
local REFUSALS, REPEATS, STAMPEDE_KEYS, WRK_SECONDS = 500, 500, 50, 2

-- It answers at once, or, while the gate is shut, not at all.
local ENDPOINT = [[
  lua_shared_dict gate 1m;
  server {
    listen 127.0.0.1:@PORT@ ssl backlog=4096;
    ssl_certificate %s;
    ssl_certificate_key %s;
    keepalive_requests 1000000;
    location = /gate { content_by_lua_block { ngx.shared.gate:set("shut", ngx.var.arg_shut == "1") } }
    location = /count { content_by_lua_block { ngx.print(ngx.shared.gate:get "count" or 0) } }
    location / {
      content_by_lua_block {
        ngx.shared.gate:incr("count", 1, 0)
        while ngx.shared.gate:get "shut" do ngx.sleep(0.01) end
        ngx.print '%s'
      }
    }
  }
]]

-- /v2/held/ asks for no registry, as that would need as many connections again. /idle/ is what nginx itself needs for a
-- request that waits. The other locations run Lua code of this benchmark, and answer with numbers.
local LOCATIONS = [[
  location = /state { stub_status; }
  location /v2/held/ {
    set $icptoken_authorization "";
    access_by_lua_block { gateway:authorize() }
    content_by_lua_block { ngx.print "ok" }
  }
  location /idle/ {
    access_by_lua_block { idle = idle or require("ngx.semaphore").new(); idle:wait(300) }
    content_by_lua_block { ngx.print "ok" }
  }
  location = /wake { content_by_lua_block { idle:post(tonumber(ngx.var.arg_count)) } }
  location = /growth/ {
    content_by_lua_block {
      local growth = require "growth_hooks"
      ngx.say(table.concat({ growth[ngx.var.arg_run](gateway, tonumber(ngx.var.arg_count)) }, " "))
    }
  }
]]

local stub, endpoint, upstream, results

local function start_servers()
  stub, upstream = stub_client.start(), gateway.start_upstream()
  endpoint = nginx.start { workers = 1, log_level = "warn",
    http = ENDPOINT:format(stub.server_cert, stub.server_key, bed.read_answer(stub)) }
end

local function stop_servers()
  for _, one in ipairs { endpoint, upstream, stub } do one:stop() end
end

local function start_gateway(options)
  return gateway.start { workers = options.workers or 1, dict = options.dict or "64m", upstream = upstream,
    log_level = "warn", connections = 16384, locations = LOCATIONS, lua_path = "@ROOT@/bench/gateway/?.lua;",
    gateway = ("{ host = 'localhost', port = %d, cacert = %q, service = 'token-service', hedge_after = false, "
      .. "timeout = %d, max_queue = %d, client_address = 'http_x_client' }")
      :format(endpoint.port, stub.ca, TIMEOUT, options.max_queue or 20000) }
end

local function ask_endpoint(target)
  return bed.read_command(("curl -s --insecure 'https://localhost:%d%s'"):format(endpoint.port, target))
end

local function set_gate(is_shut) ask_endpoint("/gate?shut=" .. (is_shut and 1 or 0)) end

-- The bytes of memory that belong to the workers alone, so the dict is not among them.
local function read_memory(one)
  return bed.sum_of_workers(one, "smaps_rollup", "Private_Dirty:%s+(%d+)") * 1024
end

local function make_request(target, user, client)
  return { target = target, timeout = TIMEOUT,
    headers = { Authorization = "Bearer " .. (user or "good"), ["X-Client"] = client or "1" } }
end

local function perform(one, target)
  local answer = load.perform(one.port, make_request(target))
  assert(answer.status == 200, answer.status or answer.problem)
  return answer.body
end

local function request(one, target)
  local body
  load.together(function() body = perform(one, target) end)
  return body
end

local function add(title, n, columns)
  for i = 1, #columns, 2 do
    results:write(("%s\t%d\t%s\t%.17g\n"):format(title, n, columns[i], columns[i + 1]))
  end
  results:flush()
end

-- --- requests that wait

-- Waits until that many requests are in progress, besides this one.
local function await_waiting(one, count)
  repeat
    load.sleep(0.05)
    local writing, waiting = perform(one, "/state"):match "Writing: (%d+) Waiting: (%d+)"
    assert(waiting)
  until tonumber(writing) - 1 >= count
end

-- Sends requests that wait until release is called, all at once. Returns the seconds of CPU time until all wait, those
-- until all are answered, and the bytes of memory while they wait.
local function hold(one, count, make, release)
  local before, memory_before, tasks, answers = bed.read_cpu(one), read_memory(one), {}, {}
  local all_wait, memory
  for i = 1, count do
    tasks[i] = function() answers[i] = load.perform(one.port, make(i)) end
  end
  tasks[count + 1] = function()
    await_waiting(one, count)
    all_wait, memory = bed.read_cpu(one), read_memory(one)
    release()
  end
  load.run_tasks(tasks)
  local counts = load.count(answers)
  assert(counts[200] == count, "requests failed: " .. one:log():sub(1, 2000))
  return all_wait - before, bed.read_cpu(one) - before, memory - memory_before
end

local function hold_row(title, count, make, is_idle)
  local one = start_gateway {}
  request(one, "/v2/held/before/manifests/1")
  if not is_idle then set_gate(true) end
  local arrival, whole, memory = hold(one, count, make, function()
    if is_idle then perform(one, "/wake?count=" .. count) else set_gate(false) end
  end)
  one:stop()
  add(title, count, { "until it waits, us", arrival / count * 1e6, "until it is answered, us", whole / count * 1e6,
    "bytes", memory / count })
end

local measure = {}

function measure.waiting()
  for _, count in ipairs(WAITING) do
    hold_row("waiting in nginx, without the gateway", count,
      function() return make_request "/idle/" end, true)
    hold_row("waiting for one key", count,
      function() return make_request "/v2/held/one/manifests/1" end)
    hold_row("waiting for a key each", count,
      function(i) return make_request(("/v2/held/app%d/manifests/1"):format(i)) end)
    hold_row("waiting, a credential each", count,
      function(i) return make_request("/v2/held/app/manifests/1", "user" .. i, "client" .. i % 1000) end)
  end
end

-- Requests that come when the queue is full, each from a client of its own.
function measure.refused()
  for _, count in ipairs(WAITING) do
    local one = start_gateway { max_queue = count }
    request(one, "/v2/held/before/manifests/1")
    set_gate(true)
    local more, seconds = {}, nil
    hold(one, count, function(i) return make_request("/v2/held/app/manifests/1", "user" .. i, "client" .. i) end,
      function()
        -- some of those are with a runner, so as many more have room
        for i = 1, 16 do
          more[i] = load.send(one.port, make_request("/v2/held/more/manifests/1", "more" .. i, "more" .. i))
        end
        await_waiting(one, count)
        local before, refused = bed.read_cpu(one), 0
        for i = 1, REFUSALS do
          local answer = load.perform(one.port, make_request("/v2/held/app/manifests/1", "late" .. i, "late" .. i))
          if answer.status == 503 then refused = refused + 1 end
        end
        assert(refused == REFUSALS, refused)
        seconds = bed.read_cpu(one) - before
        set_gate(false)
      end)
    for _, connection in ipairs(more) do load.receive(connection) end
    one:stop()
    add("requests in a full queue", count, { "refusal, us", seconds / REFUSALS * 1e6 })
  end
end

-- --- workers

function measure.workers()
  for _, workers in ipairs(WORKERS) do
    local one = start_gateway { workers = workers }
    request(one, "/v2/cached/image/manifests/latest")
    bed.run_wrk(one, WRK_SECONDS)
    local rate, seconds = bed.run_wrk(one, WRK_SECONDS)
    local before, asked_before = bed.read_cpu(one), tonumber(ask_endpoint "/count")
    local count = 20 * STAMPEDE_KEYS
    local answers = load.run(one.port, count, function(i)
      return make_request(("/v2/held/app%d/manifests/1"):format(i % STAMPEDE_KEYS))
    end)
    assert(load.count(answers)[200] == count)
    add("gateway workers", workers, { "cached, requests/s", rate, "cached, us", seconds * 1e6,
      "stampede, us a request", (bed.read_cpu(one) - before) / count * 1e6,
      "stampede, fetches a key", (tonumber(ask_endpoint "/count") - asked_before) / STAMPEDE_KEYS,
      "MB a worker", read_memory(one) / workers / 1e6 })
    one:stop()
  end
end

-- --- the dict, scopes and queries

-- Runs a function of growth_hooks.lua in the worker. Returns its numbers.
local function run_hook(one, name, count)
  local numbers = {}
  for number in request(one, ("/growth/?run=%s&count=%d"):format(name, count)):gmatch "%S+" do
    numbers[#numbers + 1] = tonumber(number)
  end
  return unpack(numbers)
end

function measure.dict()
  for _, keys in ipairs(KEYS) do
    local one = start_gateway { dict = "256m" }
    local write, bytes = run_hook(one, "fill", keys)
    local lookup = run_hook(one, "look_up", keys)
    add("keys in the dict of a gateway", keys, { "lookup, ns", lookup * 1e9, "write, ns", write * 1e9,
      "bytes a token", bytes })
    one:stop()
  end
end

function measure.full()
  for _, size in ipairs(DICTS) do
    local one = start_gateway { dict = size }
    local write, keys = run_hook(one, "overfill", 0)
    add("tokens in a full dict", keys, { "write that evicts, ns", write * 1e9 })
    one:stop()
  end
end

function measure.scopes()
  local one = start_gateway {}
  for _, count in ipairs(SCOPES) do
    add("scopes of gateway:token()", count, { "cached, us", run_hook(one, "read_scopes", count) * 1e6 })
  end
  one:stop()
end

-- The fields look like the one that names a repository to mount from, for as long as possible.
function measure.queries()
  local one = start_gateway {}
  for _, length in ipairs(QUERIES) do
    local target = "/v2/held/image/manifests/1?" .. ("fro=&"):rep(length / 5)
    local function make() return make_request(target) end
    load.run(one.port, REPEATS, make, 8, true)
    local before = bed.read_cpu(one)
    assert(load.count(load.run(one.port, REPEATS, make, 8, true))[200] == REPEATS)
    add("bytes of a query", length, { "cached, us", (bed.read_cpu(one) - before) / REPEATS * 1e6 })
  end
  one:stop()
end

local ORDER = { "dict", "full", "workers", "waiting", "refused", "queries", "scopes" }

local arguments = { ... }
results = assert(io.open(table.remove(arguments, 1), "a"))
start_servers()
local ok, problem = pcall(function()
  for _, name in ipairs(#arguments > 0 and arguments or ORDER) do measure[name]() end
end)
stop_servers()
results:close()
if not ok then error(problem, 0) end
