-- While the token endpoint hangs: requests that need it wait until their deadlines, and no others are affected; a
-- client that disconnects leaves nothing behind.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"

local TIMEOUT = 1
-- Receives a request and never answers.
local HANG = { raw = "", ["end"] = "hold", times = "forever" }

local bed, server

setup(function()
  bed = gateway_bed.open()
  server = bed:start { gateway = "timeout = " .. TIMEOUT, locations = gateway_probe.LOCATIONS .. [[
    location = /sleep { content_by_lua_block { ngx.sleep(tonumber(ngx.var.arg_seconds)) ngx.print "slept" } }
  ]] }
end)
teardown(function() gateway_bed.close(bed) end)
before_each(function() bed.stub:reset() end)

local function request_cold(name)
  return bed:request("/v2/" .. name .. "/manifests/latest")
end

local function await_idle(one)
  gateway_bed.await("the completion of the last token request", function()
    return gateway_probe.read_metric(one.port, "icptoken_inflight") == 0
      and gateway_probe.read_metric(one.port, "icptoken_queued") == 0
  end)
end

describe("while the endpoint hangs", function()
  local WAITERS, ROUNDS, REQUESTS = 100, 5, 1000

  local function median(values)
    table.sort(values)
    return values[math.ceil(#values / 2)]
  end

  -- The 99th percentile of requests that need no token request, half of them to another location.
  local function measure_others(cached)
    local answers = load.run(server.port, REQUESTS, function(i)
      return i % 2 == 0 and cached or { target = "/elsewhere" }
    end, 4, true)
    assert.same({ [200] = REQUESTS }, load.count(answers))
    return load.percentile(answers, 0.99)
  end

  -- The same beside requests that wait until their deadline. Returns the percentile, the answers to those, and the
  -- longest time, in seconds, of a request that slept for the same time in nginx meanwhile.
  local function measure_beside_waiters(cached, round)
    local percentile
    local waiters, tasks, slept = {}, {}, 0
    for i = 1, WAITERS do
      local request = request_cold(("waiting/round%d/image%d"):format(round, i))
      tasks[i] = function()
        repeat
          local answer = load.perform(server.port, request)
          waiters[#waiters + 1] = answer
          if not percentile and answer.status == 503 then load.sleep(tonumber(answer.headers["retry-after"])) end
        until percentile
      end
    end
    tasks[WAITERS + 2] = function()
      repeat
        slept = math.max(slept, load.perform(server.port, { target = "/sleep?seconds=" .. TIMEOUT }).seconds)
      until percentile
    end
    tasks[WAITERS + 1] = function()
      gateway_bed.await("token requests under way", function()
        return gateway_probe.read_metric(server.port, "icptoken_inflight") > 0
      end)
      percentile = measure_others(cached)
    end
    load.together(unpack(tasks))
    return percentile, waiters, slept
  end

  it("a cached token and another location are served as usual, and other requests fail in time", function()
    local cached = request_cold "cached/image"
    assert.equal(200, load.request(server.port, cached).status)
    local quiet, hanging = {}, {}
    bed.stub:plan(HANG)
    for round = 1, ROUNDS do
      quiet[round] = measure_others(cached)
      local waiters, slept
      hanging[round], waiters, slept = measure_beside_waiters(cached, round)
      local counts = load.count(waiters)
      assert.is_true(counts[504] > 0)
      assert.equal(#waiters, counts[504] + (counts[503] or 0))
      for _, waiter in ipairs(waiters) do
        assert.equal("UNAVAILABLE", (gateway_bed.read_error(waiter)))
        -- nginx reads its clock once for each batch of events, so a wait may start before the request is handled
        assert.is_true(waiter.status == 503 or waiter.seconds > 0.5 * TIMEOUT, waiter.seconds)
        assert.is_true(waiter.seconds < 3 * slept, waiter.seconds)
      end
      await_idle(server)
    end
    assert.is_true(median(hanging) < 10 * median(quiet) + 0.1,
      ("%.4f s, and in quiet %.4f s"):format(median(hanging), median(quiet)))
  end)
end)

describe("a later request for a key whose token request hangs", function()
  -- seconds; there is enough time between the deadlines of both requests, even on a busy machine
  local PATIENCE, LATER = 5, 3
  local patient

  setup(function()
    patient = bed:start { locations = gateway_probe.LOCATIONS, gateway = "timeout = " .. PATIENCE }
  end)

  -- Sends two requests on two connections: the first starts a token request that hangs, and the second follows later.
  -- Returns both answers.
  local function ask_twice(name, first, second)
    bed.stub:plan { raw = "", ["end"] = "hold" }
    local request, answers = request_cold("later/" .. name), {}
    load.together(function() answers[1] = load.perform(patient.port, request, first) end, function()
      gateway_bed.await("the token request", function() return #bed.stub:requests() == 1 end)
      load.sleep(LATER)
      answers[2] = load.perform(patient.port, request, second)
    end)
    return unpack(answers)
  end

  for _, where in ipairs { "the same", "the other" } do
    it("has it made again at the first one's deadline, also at " .. where .. " worker", function()
      local reached = gateway_probe.reach_workers(patient.port, 2, 2)
      local pid, connections = next(reached)
      local others = where == "the same" and connections or select(2, next(reached, pid))
      local early, late = ask_twice(where:gsub(" ", "-"), connections[1], others[2])
      assert.same({ 504, 200 }, { early.status, late.status })
      assert.equal(2, #bed.stub:requests())
      for _, list in pairs(reached) do
        for _, kept in ipairs(list) do kept.connection:close() end
      end
    end)
  end
end)

-- The headers of an upload and the start of its body. nginx does not notice that such a client disconnects, as there is
-- unread data.
local function request_upload(name)
  return { raw = table.concat({ "POST /v2/" .. name .. "/blobs/uploads/ HTTP/1.1", "Host: registry",
    "Authorization: " .. bed.credential, "Content-Length: 1000000", "", "first bytes" }, "\r\n") }
end

describe("a client that disconnects while the endpoint hangs", function()
  local PLACES = 3
  local narrow

  setup(function()
    -- the queue has to be full before the deadline of the first request, even on a busy machine
    narrow = bed:start { workers = 1, locations = gateway_probe.LOCATIONS,
      gateway = "timeout = 6, max_inflight = 1, max_queue = " .. PLACES }
  end)

  before_each(function() await_idle(narrow) end)

  local function count_queued()
    return gateway_probe.read_metric(narrow.port, "icptoken_queued")
  end

  local function is_refused(name)
    local answer = load.request(narrow.port, request_cold(name))
    return select(2, gateway_bed.read_error(answer)) == "queue_full"
  end

  -- One request whose token request is in progress, and as many waiting requests as the queue has room for.
  local function fill_queue(name, make)
    local asking = load.send(narrow.port, request_cold(name .. "/first"))
    gateway_bed.await("the first token request", function() return #bed.stub:requests() == 1 end)
    local waiting = {}
    for i = 1, PLACES do waiting[i] = load.send(narrow.port, make(name .. "/waiting" .. i)) end
    gateway_bed.await("a full queue", function() return count_queued() == PLACES end)
    assert.is_true(is_refused(name .. "/refused"))
    return asking, waiting
  end

  local function list_asked()
    local names = {}
    for i, token_request in ipairs(bed.stub:requests()) do names[i] = token_request.query.scope[1]:match "/(%w+):" end
    return names
  end

  it("frees its position at once, and causes no token request", function()
    bed.stub:plan { together = 2 } -- it waits for a second one, or a reset
    local asking, waiting = fill_queue("leaving", request_cold)
    for _, connection in ipairs(waiting) do connection:close() end
    gateway_bed.await("nginx to see them go", function() return gateway_probe.count_clients(narrow.port) == 1 end)
    local last = load.send(narrow.port, request_cold "leaving/last")
    gateway_bed.await("it to wait", function() return select(2, gateway_probe.count_clients(narrow.port)) == 2 end)
    assert.same({ "first" }, list_asked())
    bed.stub:reset()
    assert.equal(200, load.receive(last).status)
    assert.equal(200, load.receive(asking).status)
    assert.same({ "last" }, list_asked())
  end)

  it("in the middle of an upload frees its position at its deadline", function()
    bed.stub:plan(HANG)
    local asking, waiting = fill_queue("uploads", request_upload)
    for _, connection in ipairs(waiting) do connection:close() end
    assert.equal(504, load.receive(asking).status)
    gateway_bed.await("the places", function() return count_queued() == 0 end)
    bed.stub:reset()
    assert.equal(200, load.request(narrow.port, request_cold "uploads/last").status)
  end)
end)

describe("requests whose clients disconnected", function()
  -- the number of requests after which all threads and Lua states have been used
  local FIRST_ROUNDS, ROUNDS, CONCURRENCY = 4, 10, 200
  local MAX_REQUESTS = 2000
  -- one in this many
  local UPLOADS = 10
  -- Memory grows in steps, even for some rounds in a row; a leak grows in every round. This is what a worker may have
  -- more each time, in kilobytes: in use by Lua and by malloc after SPAN rounds (so 30 bytes for each of its requests
  -- are a leak if there are 10,000), and resident after one round, which includes the Lua states of threads.
  local MAX_IN_USE_GROWTH, SPAN, MAX_RESIDENT_GROWTH = 150, 5, 400
  local MAX_MORE_DESCRIPTORS = 16
  local small

  setup(function()
    -- Tokens that fill a large dict would look like a leak. So would refused uploads: nginx itself keeps a connection
    -- for keepalive_timeout if the client resets it in the middle of a body that nginx discards. So none is refused:
    -- there is room for all in the queue, and time for all, however slow the machine.
    local in_use = gateway_probe.IN_USE
    small = bed:start { dict = "128k", locations = gateway_probe.LOCATIONS .. in_use.locations,
      lua_path = in_use.lua_path, servers = in_use.servers,
      gateway = "timeout = 60, max_queue = " .. MAX_REQUESTS }
  end)

  local function abandon_all(round, requests)
    load.abandon(small.port, requests, function(i)
      local make = i % UPLOADS == 0 and request_upload or request_cold
      return make(("abandoned%d/round%d/image%d"):format(requests, round, i))
    end, CONCURRENCY, 0.005)
    gateway_bed.await("the last client's end", function() return gateway_probe.count_clients(small.port) == 0 end)
    await_idle(small)
  end

  -- Adds readings of each worker to the lists of its notes.
  local function note_state(workers, notes)
    local in_use = gateway_probe.read_in_use(small.port, #workers)
    for _, pid in ipairs(workers) do
      notes[pid] = notes[pid] or { lua = {}, malloc = {}, resident = {}, descriptors = {} }
      table.insert(notes[pid].lua, in_use[pid].lua)
      table.insert(notes[pid].malloc, in_use[pid].malloc)
      table.insert(notes[pid].resident, gateway_probe.read_memory(pid))
      table.insert(notes[pid].descriptors, gateway_probe.count_descriptors(pid))
    end
  end

  local function assert_grows_less(what, readings, span, limit)
    local least = math.huge
    for i = 1 + span, #readings do least = math.min(least, readings[i] - readings[i - span]) end
    assert.is_true(least < limit, ("%s, in kB: at least %d more, %d round(s) later: %s"):format(what, least, span,
      table.concat(readings, " ")))
  end

  local function assert_no_growth(requests)
    local workers, notes = gateway_bed.await_workers(small, 2), {}
    bed.stub:plan { delay = { before = 0.05 }, times = "forever" }
    for round = 1, FIRST_ROUNDS + ROUNDS do
      abandon_all(round, requests)
      if round >= FIRST_ROUNDS then note_state(workers, notes) end
    end
    for _, pid in ipairs(workers) do
      local own = notes[pid]
      assert_grows_less("in use by Lua", own.lua, SPAN, MAX_IN_USE_GROWTH)
      assert_grows_less("in use by malloc", own.malloc, SPAN, MAX_IN_USE_GROWTH)
      assert_grows_less("resident", own.resident, 1, MAX_RESIDENT_GROWTH)
      local more = own.descriptors[ROUNDS + 1] - own.descriptors[1]
      assert.is_true(more < MAX_MORE_DESCRIPTORS, more .. " descriptors more")
    end
  end

  for what, requests in pairs { ["2,500"] = MAX_REQUESTS / 4, ["10,000 #deep"] = MAX_REQUESTS } do
    it("leave no memory and no descriptors behind: " .. what, function() assert_no_growth(requests) end)
  end
end)
