-- The counters as Prometheus sees them, scrape after scrape, while workers start and exit: none ever decreases, and in
-- the end everything is counted.

local cqueues = require "cqueues"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local pause = require "support.pause"
local testkit = require "testkit"

local OPTIONS = [[name = "gate"]]

-- The samples that may only grow, by name and labels.
local function read_counters(text)
  local counters, kind = {}, nil
  for line in text:gmatch "[^\n]+" do
    kind = line:match "^# TYPE %S+ (%S+)" or kind
    local name, value = line:match "^([^# ].*) (%S+)$"
    if name and kind ~= "gauge" then counters[name] = tonumber(value) end
  end
  return counters
end

-- A worker that is killed loses its connections, so there are further attempts.
local function scrape(gate)
  return gateway_bed.await("a scrape", function() return load.perform(gate.port, { target = "/metrics" }).body end)
end

local function read(gate)
  return read_counters(scrape(gate))
end

-- Scrapes until is_over() and once more. Fails if a counter decreases or disappears. Returns the last scrape.
local function watch(gate, last, is_over)
  local was_over
  repeat
    was_over = is_over()
    local now = read(gate)
    for name, value in pairs(last) do
      assert.is_true(now[name] ~= nil and now[name] >= value, ("%s went from %s to %s"):format(name, value, now[name]))
    end
    last = now
    cqueues.sleep(0.02)
  until was_over
  return last
end

-- Makes requests for new keys until is_over(), on several connections. Returns how many were answered with 200.
local function keep_asking(bed, gate, is_over, first)
  local fresh = 0
  local function ask(i)
    return function()
      local n = 0
      while not is_over() do
        n = n + 1
        local target = ("/v2/%s%d-%d/manifests/1"):format(first, i, n)
        if load.perform(gate.port, bed:request(target)).status == 200 then fresh = fresh + 1 end
        cqueues.sleep(0.02)
      end
    end
  end
  load.together(ask(1), ask(2), ask(3))
  return fresh
end

local function count_files(gate)
  local process = assert(io.popen(("ls -l /proc/%d/fd | grep -c memfd:icptoken"):format(gate.pid)))
  local count = tonumber(process:read "*l")
  process:close()
  return count
end

describe("scrape after scrape, the counters", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local FRESH = 'icptoken_requests_total{gateway="gate",result="fresh"}'
  local FETCHES = 'icptoken_fetches_total{gateway="gate",code="ok"}'

  -- Waits until none of the workers is one of these.
  local function await_others(gate, before, count)
    local old = {}
    for _, pid in ipairs(before) do old[pid] = true end
    return gateway_bed.await("new workers", function()
      local new = 0
      for _, pid in ipairs(gate:workers()) do
        if not old[pid] then new = new + 1 end
      end
      return new >= count
    end)
  end

  it("continue over reloads, with the requests of workers that are exiting", function()
    local gate = bed:start { gateway = OPTIONS }
    local workers = gateway_bed.await_workers(gate, 2)
    local first = read(gate)
    -- these keep the old workers alive until the end, and are counted there
    bed.stub:plan { delay = { before = 2 }, times = 2 }
    local is_over, held, fresh = false, {}, 0
    local function hold(i)
      return function() held[i] = load.perform(gate.port, bed:request(("/v2/held%d/manifests/1"):format(i))).status end
    end
    load.together(hold(1), hold(2), function()
      gateway_bed.await("the requests", function() return #bed.stub:log() >= 2 end)
      gate:reload()
      await_others(gate, workers, 2)
      gate:reload()
      gateway_bed.await("the end of the old workers", function() return held[1] and held[2] end)
      gateway_bed.await_workers(gate, 2)
      is_over = true
    end, function() fresh = keep_asking(bed, gate, function() return is_over end, "a") end, function()
      watch(gate, first, function() return is_over end)
    end)
    assert.same({ 200, 200 }, held)
    local last = read(gate)
    assert.equal(fresh + 2, last[FRESH])
    assert.is_true(last[FETCHES] >= fresh + 2)
    gate:stop()
  end)

  it("continue over many reloads, in the memory of the first", function()
    local gate = bed:start { gateway = OPTIONS, workers = 1 }
    local last = read(gate)
    for turn = 1, 6 do
      local before = gateway_bed.await_workers(gate, 1)
      load.request(gate.port, bed:request(("/v2/turn%d/manifests/1"):format(turn)))
      gate:reload()
      await_others(gate, before, 1)
      last = watch(gate, last, function() return true end)
    end
    assert.equal(6, last[FRESH])
    assert.equal(1, count_files(gate))
    gate:stop()
  end)

  it("continue after a worker has died, and with its successor", function()
    local gate = bed:start { gateway = OPTIONS }
    local workers = gateway_bed.await_workers(gate, 2)
    local is_over, first = false, read(gate)
    load.together(function() keep_asking(bed, gate, function() return is_over end, "a") end, function()
      watch(gate, first, function() return is_over end)
    end, function()
      for i, pid in ipairs(workers) do
        gateway_bed.await("requests", function() return read(gate)[FRESH] >= 10 * i end)
        testkit.kill(pid, "KILL")
        gateway_bed.await_workers(gate, 2)
      end
      is_over = true
    end)
    local before = read(gate)[FRESH]
    assert.is_true(before > 0)
    load.request(gate.port, bed:request "/v2/after/manifests/1")
    assert.equal(before + 1, read(gate)[FRESH])
    gate:stop()
  end)

  it("include all of 64 workers #deep", function()
    local gate = bed:start { gateway = OPTIONS, workers = 64, dict = "16m" }
    local workers = gateway_bed.await_workers(gate, 64)
    gateway_bed.await("their start", function()
      return scrape(gate):find('icptoken_workers_started{gateway="gate"} 64\n', 1, true)
    end)
    local last = read(gate)
    -- only one of them runs at a time
    for _, pid in ipairs(workers) do pause(pid) end
    finally(function()
      for _, pid in ipairs(gate:workers()) do testkit.kill(pid, "CONT") end
      gate:stop()
    end)
    for i = 1, 64, 7 do
      testkit.kill(workers[i], "CONT")
      assert.equal(200, load.request(gate.port, bed:request(("/v2/w%d/manifests/1"):format(i))).status)
      last = watch(gate, last, function() return true end)
      pause(workers[i])
    end
    assert.equal(10, last[FRESH])
  end)
end)
