-- Measures what the pictures of the documentation show, and writes it to docs/pictures/NAME.txt, from which
-- scripts/draw-pictures draws docs/pictures/NAME.svg. `make bench-pictures` runs it.
--
-- Usage: luajit bench/pictures.lua [name]...    all pictures when none is named
--
-- A new picture is one more function here that returns its text. The form of a text:
--   # a comment
--   title <words>, and the same for x (the label of that axis)
--   panel <label of its axis>
--   line <name> | <x> <y>, <x> <y>, …      dashes: likewise, a limit that is not measured; marks: x only
--   area <words> | <x> <x>                 a span of the axis, in all panels
package.path = "spec/?.lua;lua/?.lua;./?.lua;" .. package.path
package.cpath = "build/luajit/?.so;" .. package.cpath

local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local nginx = require "support.nginx"
local gateway = require "support.gateway"

local pictures = {}

local function write_points(points)
  local parts = {}
  for i, point in ipairs(points) do
    parts[i] = point[2] and ("%.5g %.4g"):format(point[1], point[2]) or ("%.5g"):format(point[1])
  end
  return table.concat(parts, ", ")
end

local function say(...)
  io.stderr:write(string.format(...), "\n")
end

local function select_status(answers, is_served)
  local chosen = {}
  for _, answer in ipairs(answers) do
    if (answer.status == 200) == is_served then chosen[#chosen + 1] = answer end
  end
  return chosen
end

-- --- overload

-- An endpoint that takes TAKEN seconds for each answer, of which the gateway has MAX_INFLIGHT in progress.
local TAKEN, MAX_INFLIGHT, TIMEOUT, POINT_SECONDS = 0.2, 4, 3, 12
local CAPACITY = MAX_INFLIGHT / TAKEN
local ENDPOINT = [[
  server {
    listen 127.0.0.1:@PORT@ ssl backlog=4096;
    ssl_certificate %s;
    ssl_certificate_key %s;
    location / { content_by_lua_block { ngx.sleep(%g) ngx.print '{"token":"an.opaque.token","expires_in":1800}' } }
  }
]]

-- Requests tokens for new keys at a steady rate, whatever the results. Returns the answers of those that were sent
-- when the queue had reached its length.
local function offer(port, rate, make)
  local answers, tasks, started = {}, {}, load.read_time()
  for i = 1, rate * POINT_SECONDS do
    tasks[i] = function()
      load.sleep(math.max(0, started + i / rate - load.read_time()))
      local answer = load.perform(port, make(i))
      if i / rate > TIMEOUT then answers[#answers + 1] = answer end
    end
  end
  load.together(unpack(tasks))
  return answers
end

function pictures.overload()
  local bed = gateway_bed.open()
  local endpoint = nginx.start { workers = 1, log_level = "warn",
    http = ENDPOINT:format(bed.stub.server_cert, bed.stub.server_key, TAKEN) }
  local gate = gateway.start { workers = 1, stub = bed.stub, upstream = bed.upstream, log_level = "warn", gateway = {
    host = "localhost", port = endpoint.port, cacert = bed.stub.ca, timeout = TIMEOUT, max_inflight = MAX_INFLIGHT,
    hedge_after = false } }
  local count = 0
  local function make()
    count = count + 1
    return { target = ("/v2/a/image%d/manifests/1"):format(count), headers = { Authorization = "Bearer user" } }
  end
  load.run(gate.port, 40, make, MAX_INFLIGHT) -- the gateway learns how long an answer takes
  local served, refused, median, late, refusal = {}, {}, {}, {}, {}
  for _, share in ipairs { 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5 } do
    local rate = CAPACITY * share
    local answers = offer(gate.port, rate, make)
    local good, bad = select_status(answers, true), select_status(answers, false)
    local seconds = #answers / rate
    served[#served + 1], refused[#refused + 1] = { rate, #good / seconds }, { rate, #bad / seconds }
    median[#median + 1] = { rate, load.percentile(good, 0.5) }
    late[#late + 1] = { rate, load.percentile(good, 0.99) }
    if #bad > 0 then refusal[#refusal + 1] = { rate, load.percentile(bad, 0.5) } end
    say("overload: %g/s: %d served, %d refused, 99%% within %.2f s", rate, #good, #bad, late[#late][2])
  end
  gate:stop()
  endpoint:stop()
  bed:close()
  local limit = CAPACITY * 5
  return table.concat({
    ("# An endpoint that takes %g s for a token, max_inflight = %d, one worker, timeout = %g s; each request is for a "
      .. "new key."):format(TAKEN, MAX_INFLIGHT, TIMEOUT),
    "title More requests than the cluster can answer",
    "x requests for new tokens per second",
    "panel answers per second",
    "dashes what the cluster can answer | " .. write_points { { CAPACITY * 0.25, CAPACITY }, { limit, CAPACITY } },
    "line served | " .. write_points(served),
    "line refused with 503 | " .. write_points(refused),
    "panel seconds until the answer",
    "dashes timeout | " .. write_points { { CAPACITY * 0.25, TIMEOUT }, { limit, TIMEOUT } },
    "line served: median | " .. write_points(median),
    "line refused: median | " .. write_points(refusal),
    "line served: 99th percentile | " .. write_points(late),
  }, "\n") .. "\n"
end

-- --- stampede

local STORMS = 5

-- Calls a function this many times, and returns the medians of its two results.
local function compute_medians(times, measure)
  local first, second = {}, {}
  for i = 1, times do first[i], second[i] = measure() end
  table.sort(first)
  table.sort(second)
  local middle = math.ceil(times / 2)
  return first[middle], second[middle]
end

function pictures.stampede()
  local bed = gateway_bed.open()
  local gate = bed:start { gateway = "max_inflight = 8, max_queue = 5000, timeout = 60", workers = 2 }
  bed.stub:set { expires_in = 1800 }
  local made = 0
  -- Returns how many token requests the clients caused, and when the last one had its answer.
  local function storm(clients, are_same)
    made = made + 1
    local before = #bed.stub:requests()
    local started = load.read_time()
    local answers = load.run(gate.port, clients, function(i)
      return bed:request(("/v2/storm%d/image%d/manifests/1"):format(made, are_same and 1 or i))
    end)
    assert(load.count(answers)[200] == clients)
    return #bed.stub:requests() - before, load.read_time() - started
  end
  storm(100, false)
  local results = { { requests = {}, seconds = {} }, { requests = {}, seconds = {} } }
  for _, clients in ipairs { 1, 25, 50, 100, 200, 300, 400, 500 } do
    for i, result in ipairs(results) do
      local requests, seconds = compute_medians(STORMS, function() return storm(clients, i == 1) end)
      table.insert(result.requests, { clients, requests })
      table.insert(result.seconds, { clients, seconds })
      say("stampede: %d clients, %s: %d token requests, %.3f s", clients, i == 1 and "one key" or "own keys", requests,
        seconds)
    end
  end
  bed:close()
  return table.concat({
    "# Clients that start at the same moment without a cached token; two workers, max_inflight = 8. With single flight",
    "# they pull one image; without, each needs a token of its own, as if nothing were shared. Medians of five storms.",
    "title Many clients at the same moment",
    "x clients",
    "panel token requests at the cluster",
    "line with single flight | " .. write_points(results[1].requests),
    "line without single flight | " .. write_points(results[2].requests),
    "panel seconds until the last client is answered",
    "line with single flight | " .. write_points(results[1].seconds),
    "line without single flight | " .. write_points(results[2].seconds),
  }, "\n") .. "\n"
end

-- --- outage

local LIFETIME, OUTAGE_BEGIN, OUTAGE_END, OBSERVED_SECONDS, SAMPLE_SECONDS = 120, 40, 98, 150, 0.5

-- Requests a token of the same key every SAMPLE_SECONDS. Returns the seconds that each one had left, when requests
-- failed, and when token requests failed and succeeded.
local function observe_outage(bed, gate)
  local left, failed, attempts = {}, {}, { [200] = {}, [503] = {} }
  local started, seen, status = load.read_time(), #bed.stub:requests(), 200
  local function note_attempts(time)
    local count = #bed.stub:requests()
    for _ = seen + 1, count do table.insert(attempts[status], { time }) end
    seen = count
  end
  repeat
    local time = load.read_time() - started
    local due = time >= OUTAGE_BEGIN and time < OUTAGE_END and 503 or 200
    if due ~= status then
      note_attempts(time)
      bed.stub:reset()
      bed.stub:set { expires_in = LIFETIME }
      if due == 503 then bed.stub:plan { status = 503, times = "forever" } end
      seen, status = 0, due
    end
    local answer = load.request(gate.port, bed:request "/v2/default/app/manifests/1")
    if answer.status == 200 then
      left[#left + 1] = { time, gateway_bed.read_claims(answer).exp - os.time() }
    else
      failed[#failed + 1] = { time }
    end
    note_attempts(time)
    load.together(function() load.sleep(SAMPLE_SECONDS) end)
  until time >= OBSERVED_SECONDS
  return left, failed, attempts
end

function pictures.outage()
  local bed = gateway_bed.open()
  bed.stub:set { expires_in = LIFETIME }
  local gate = bed:start { workers = 1 }
  local left, failed, attempts = observe_outage(bed, gate)
  say("outage: %d requests, %d failed; %d token requests, %d of them failed", #left + #failed, #failed,
    #attempts[200] + #attempts[503], #attempts[503])
  bed:close()
  return table.concat({
    ("# Tokens live for %d s. A client uses one key all the time; the cluster answers with 503 from %d s to %d s.")
      :format(LIFETIME, OUTAGE_BEGIN, OUTAGE_END),
    ("# Of %d requests of the client, %d failed."):format(#left + #failed, #failed),
    "title An outage of the cluster",
    "x seconds",
    ("area the cluster answers with 503 | %d %d"):format(OUTAGE_BEGIN, OUTAGE_END),
    "panel seconds that the token in use is still valid",
    "line valid for | " .. write_points(left),
    "panel token requests",
    "marks answered | " .. write_points(attempts[200]),
    "marks failed | " .. write_points(attempts[503]),
    "marks requests of the client that failed | " .. write_points(failed),
  }, "\n") .. "\n"
end

-- --- fleet

-- bench/gateway/fleet.lua measures it, in a process of its own.
function pictures.fleet()
  local path = os.tmpname()
  local status = os.execute(("PICTURE=%s luajit bench/gateway/fleet.lua growth >&2"):format(path))
  local text = files.read(path)
  os.remove(path)
  assert(status == 0 and text ~= "", "bench/gateway/fleet.lua failed")
  return text
end

-- --- files

local NAMES = { "overload", "stampede", "outage", "fleet" }

local wanted = { ... }
for _, name in ipairs(wanted[1] and wanted or NAMES) do
  local measure = pictures[name] or error("no such picture: " .. name, 0)
  local text = measure()
  local file = assert(io.open("docs/pictures/" .. name .. ".txt", "w"))
  assert(file:write(text))
  file:close()
end
