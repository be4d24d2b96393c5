-- Gateways, Redis and the cluster are killed, paused and slowed down at random while clients pull. CHAOS_SECONDS (600)
-- is the duration, CHAOS_SEED chooses the faults; the seed is printed, so that a run can be repeated.
--
-- A request may only fail if its gateway was killed or paused, or the cluster was faulty, while it waited or shortly
-- before. A fault of Redis must not fail a request.

local cqueues = require "cqueues"
local fleet_bed = require "support.fleet_bed"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local pause = require "support.pause"
local testkit = require "testkit"

local SECONDS = tonumber(os.getenv "CHAOS_SECONDS") or 600
local SEED = tonumber(os.getenv "CHAOS_SEED") or os.time()
local GATEWAYS, CLIENTS, USERS, REPOSITORIES = 3, 12, 6, 20
-- Short, so that tokens are renewed and expire during the run.
local LIFE = 15
-- The gateways' timeout, and how long after a fault of the cluster a request may fail because of it: another gateway or
-- a delayed attempt may report it late.
local TIMEOUT = 10
local AFTERMATH = TIMEOUT + 3
-- How long a gateway waits for a command of Redis.
local REDIS_SECONDS = 0.5
-- The cluster is faulty only in every other one of these periods.
local PHASE_SECONDS = 20

local MEMORY = [[
    location = /memory {
      content_by_lua_block {
        collectgarbage()
        collectgarbage()
        ngx.print(collectgarbage "count")
      }
    }
]]

local bed, gateways
local faults, answers = {}, {}
local began_at, is_over
local is_redis_away = false
local counts = {}

local function now() return cqueues.monotime() end

local function start_gateway()
  return bed:start { gateway = ("retries = 2, timeout = %d"):format(TIMEOUT), fleet = "timeout = " .. REDIS_SECONDS,
    locations = gateway_probe.LOCATIONS .. MEMORY }
end

-- Records that something is faulty while body runs. place: "cluster", or the number of a gateway.
local function with_fault(place, body)
  local fault = { place = place, from = now(), till = math.huge }
  faults[#faults + 1] = fault
  body()
  fault.till = now()
end

local function signal_all(server, number)
  for _, pid in ipairs(server:workers()) do testkit.kill(pid, number) end
  testkit.kill(server.pid, number)
end

-- ---- Faults ----

local OF_GATEWAYS_AND_REDIS, OF_CLUSTER = {}, {}

function OF_GATEWAYS_AND_REDIS.kill_gateway()
  local i = math.random(GATEWAYS - 1) -- the last one keeps running, so that its memory can be measured
  with_fault(i, function()
    signal_all(gateways[i], "KILL")
    load.sleep(math.random())
    gateways[i]:stop()
    gateways[i] = start_gateway()
  end)
end

function OF_GATEWAYS_AND_REDIS.pause_gateway()
  local i = math.random(GATEWAYS - 1)
  with_fault(i, function()
    signal_all(gateways[i], "STOP")
    load.sleep(1 + 4 * math.random()) -- sometimes longer than a lease
    signal_all(gateways[i], "CONT")
  end)
end

function OF_GATEWAYS_AND_REDIS.reload_gateway() gateways[math.random(GATEWAYS - 1)]:reload() end

function OF_GATEWAYS_AND_REDIS.kill_redis()
  is_redis_away = true
  bed.redis:kill()
  load.sleep(2 * math.random())
  bed.redis:launch()
  is_redis_away = false
end

function OF_GATEWAYS_AND_REDIS.pause_redis()
  is_redis_away = true
  bed.redis:pause()
  load.sleep(3 * math.random())
  bed.redis:resume()
  is_redis_away = false
end

-- Each command takes up to as long as a gateway waits for it.
function OF_GATEWAYS_AND_REDIS.slow_redis()
  for _ = 1, 10 do
    bed.redis:command("CLIENT", "PAUSE", math.random(1000 * REDIS_SECONDS))
    load.sleep(0.2)
  end
end

function OF_GATEWAYS_AND_REDIS.empty_redis() bed.redis:command "FLUSHALL" end

function OF_GATEWAYS_AND_REDIS.fill_redis()
  bed.redis:command("CONFIG", "SET", "maxmemory", "1")
  load.sleep(2 * math.random())
  bed.redis:command("CONFIG", "SET", "maxmemory", "0")
end

function OF_CLUSTER.pause_cluster()
  with_fault("cluster", function()
    pause(bed.stub.pid)
    load.sleep(2 * math.random())
    testkit.kill(bed.stub.pid, "CONT")
  end)
end

function OF_CLUSTER.slow_cluster()
  with_fault("cluster", function()
    bed.stub:plan { delay = { before = 4 * math.random() }, times = 10 }
    load.sleep(2)
  end)
end

function OF_CLUSTER.break_cluster()
  with_fault("cluster", function()
    bed.stub:plan { status = 503, times = 10 }
    bed.stub:plan { raw = "", ["end"] = "reset", times = 5 }
    load.sleep(2)
  end)
end

-- Chooses a function of a table at random, independently of the order of pairs.
local function choose(functions)
  local names = {}
  for name in pairs(functions) do names[#names + 1] = name end
  table.sort(names)
  local name = names[math.random(#names)]
  counts[name] = (counts[name] or 0) + 1
  return functions[name]
end

local function make_chaos()
  while now() < began_at + SECONDS do
    load.sleep(0.5 + 1.5 * math.random())
    local is_of_cluster = math.floor((now() - began_at) / PHASE_SECONDS) % 2 == 1 and math.random() < 0.5
    choose(is_of_cluster and OF_CLUSTER or OF_GATEWAYS_AND_REDIS)()
  end
  is_over = true
end

-- ---- Clients ----

local function make_request(user, repository)
  return bed:request("chaos/image" .. repository, { Authorization = "Bearer user-" .. user })
end

local function keep_pulling()
  while not is_over do
    local i, repository = math.random(GATEWAYS), math.random(REPOSITORIES)
    local sent_at, wall = now(), os.time()
    local answer = load.perform(gateways[i].port, make_request(math.random(USERS), repository))
    answer.from, answer.till, answer.gateway, answer.wall = sent_at, now(), i, wall
    answer.scope = "repository:chaos/image" .. repository .. ":pull"
    answers[#answers + 1] = answer
    load.sleep(0.02 * math.random())
  end
end

local function is_excused(answer)
  for _, fault in ipairs(faults) do
    local is_of_cluster = fault.place == "cluster"
    local is_concerned = is_of_cluster and answer.status or fault.place == answer.gateway
    if is_concerned and answer.till >= fault.from and answer.from <= fault.till + AFTERMATH then return true end
  end
  return false
end

-- Leases that would never expire.
local leaked = {}

local function watch_leases()
  while not is_over do
    load.sleep(0.5)
    for _, name in ipairs(is_redis_away and {} or bed:list_records ":l") do
      local left = bed.redis:command("PTTL", name)
      if left and (left == -1 or left > 3000) then leaked[#leaked + 1] = name .. " " .. left end
    end
  end
end

local function measure_memory()
  local most = 0
  for _ = 1, 20 do
    most = math.max(most, tonumber(load.perform(gateways[GATEWAYS].port, { target = "/memory" }).body))
  end
  return most
end

describe("chaos of " .. SECONDS .. " seconds, seed " .. SEED .. " #deep", function()
  local memory = {}

  setup(function()
    math.randomseed(SEED)
    io.stdout:write(("chaos: %d seconds, CHAOS_SEED=%d\n"):format(SECONDS, SEED))
    bed = fleet_bed.open()
    gateways = {}
    for i = 1, GATEWAYS do gateways[i] = start_gateway() end
    local id_tokens = {}
    for user = 1, USERS do id_tokens[user] = "user-" .. user end
    bed.stub:set { expires_in = LIFE, id_tokens = id_tokens }
    began_at = now()
    local tasks = { make_chaos, watch_leases, function()
      load.sleep(SECONDS / 3)
      memory[1] = measure_memory()
    end }
    for _ = 1, CLIENTS do tasks[#tasks + 1] = keep_pulling end
    load.together(unpack(tasks))
    memory[2] = measure_memory()
    for name, count in pairs(counts) do io.stdout:write(("  %s %d times\n"):format(name, count)) end
  end)
  teardown(function() fleet_bed.close(bed) end)

  it("serves no wrong token and no expired one", function()
    local served = 0
    for _, answer in ipairs(answers) do
      if answer.status == 200 then
        served = served + 1
        assert.equal(answer.scope, gateway_bed.read_scopes(answer))
        assert.is_true(gateway_bed.read_claims(answer).exp >= answer.wall)
      end
    end
    io.stdout:write(("  %d requests, of which %d were served\n"):format(#answers, served))
    assert.is_true(served > #answers / 2)
  end)

  it("fails no request without a fault of its gateway or of the cluster", function()
    for _, answer in ipairs(answers) do
      if answer.status ~= 200 and not is_excused(answer) then
        error(("gateway %d, %.1f to %.1f s: %s %s"):format(answer.gateway, answer.from - began_at,
          answer.till - began_at, answer.status or "none", answer.body or answer.problem))
      end
    end
  end)

  it("leaks no lease", function()
    assert.same({}, leaked)
    bed:await_no_leases()
  end)

  it("causes no memory leak", function()
    assert.is_true(memory[2] < 1.3 * memory[1] + 1024, ("%d and %d KB"):format(memory[1], memory[2]))
  end)

  it("loses no token", function()
    bed.stub:reset()
    bed.stub:set { id_tokens = { "user-1" } }
    local function await_redis()
      gateway_bed.await("all gateways to use Redis", function()
        return fleet_bed.sum_metric(gateways, "icptoken_redis_available") == GATEWAYS
      end)
    end
    -- On a busy machine Redis may take longer than REDIS_SECONDS. Each time may cost one token request.
    local function count_failures()
      return fleet_bed.sum_metric(gateways, "icptoken_redis_exchanges_total")
        - fleet_bed.sum_metric(gateways, "icptoken_redis_exchanges_total", 'result="ok"')
    end
    await_redis()
    local before = count_failures()
    bed.redis:command "FLUSHALL"
    for _, one in ipairs(gateways) do
      load.perform(one.port, { target = "/empty" })
      gateway_bed.await("the gateway", function() return load.perform(one.port, make_request(1, 1)).status == 200 end)
    end
    for repository = 1, REPOSITORIES do
      for _, one in ipairs(gateways) do
        await_redis()
        assert.equal(200, load.request(one.port, make_request(1, repository)).status)
        bed:await_no_leases()
      end
    end
    local failures = count_failures() - before
    local fetches, total = bed:count_fetches()
    for name, count in pairs(fetches) do assert.is_true(count <= 1 + failures, name) end
    assert.is_true(total <= REPOSITORIES + failures, ("%d token requests, %d failures"):format(total, failures))
  end)

  it("logs no internal error", function()
    for _, one in ipairs(gateways) do
      assert.is_nil(one:log():match "[^\n]*internal error[^\n]*" or one:log():match "[^\n]*%[alert%][^\n]*"
        or one:log():match "[^\n]*lua entry thread aborted[^\n]*")
    end
  end)
end)
