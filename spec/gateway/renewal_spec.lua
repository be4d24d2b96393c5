-- Renewal ahead of expiry: a request starts it, and all requests use the current token meanwhile.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local testkit = require "testkit"

local bed

setup(function() bed = gateway_bed.open() end)
teardown(function() gateway_bed.close(bed) end)
before_each(function() bed.stub:reset() end)

local function make_request(name)
  return bed:request("/v2/renewed/" .. name .. "/manifests/latest")
end

local function read_jwt(answer)
  return gateway_bed.read_echo(answer).headers.authorization
end

-- Returns the names for which the endpoint received token requests, in order.
local function list_asked()
  local names = {}
  for i, received in ipairs(bed.stub:requests()) do names[i] = received.query.scope[1]:match "renewed/(%w+):" end
  return names
end

describe("a token that is due for renewal", function()
  local server

  setup(function() server = bed:start { gateway = "timeout = 60", locations = gateway_probe.LOCATIONS } end)

  it("is still used by all while there is one token request for both workers", function()
    local REQUESTS = 500
    local request = make_request "one"
    local old = read_jwt(load.request(server.port, request))
    assert.equal(1, gateway_probe.age_tokens(server.port))
    bed.stub:plan { together = 2 } -- the answer waits for a second token request, or a reset
    local used_by = {}
    gateway_bed.await("requests at both workers", function()
      local answers = load.run(server.port, REQUESTS, function() return request end, 50)
      assert.same({ [200] = REQUESTS }, load.count(answers))
      for _, answer in ipairs(answers) do assert.equal(old, read_jwt(answer)) end
      for pid in pairs(gateway_probe.count_by_worker(answers)) do used_by[pid] = true end
      local first = next(used_by)
      return first and next(used_by, first)
    end)
    gateway_bed.await("the renewal", function() return #bed.stub:requests() >= 2 end)
    assert.same({ "one", "one" }, list_asked())
    bed.stub:reset()
    gateway_bed.await("the new token", function() return read_jwt(load.request(server.port, request)) ~= old end)
    assert.same({}, list_asked())
    -- only the first of all had to wait
    assert.equal(1, gateway_probe.read_metric(server.port, "icptoken_wait_seconds_count"))
  end)

  it("among many whose renewals fail is renewed after the pause, but not during it", function()
    local TOKENS, MAX_INFLIGHT = 200, 8
    local function ask_for_all()
      local answers = load.run(server.port, TOKENS, function(i) return make_request("many" .. i) end, 50)
      assert.same({ [200] = TOKENS }, load.count(answers))
      return answers
    end
    local old = ask_for_all()
    assert.is_true(gateway_probe.age_tokens(server.port) >= TOKENS)
    bed.stub:reset()
    bed.stub:plan { status = 500, delay = { before = 0.05 }, times = "forever" }
    local began = load.read_time()
    ask_for_all()
    gateway_bed.await("the completion of the token requests", function()
      return gateway_probe.read_metric(server.port, "icptoken_inflight") == 0
    end)
    local asked, pauses = #bed.stub:requests(), math.floor(load.read_time() - began)
    -- Those in progress, and those that followed the first to fail; again after each pause, of which the first is one
    -- second and the others are longer, if the machine was so busy.
    assert.is_true(asked <= (1 + pauses) * (2 * MAX_INFLIGHT + 3), asked .. " token requests")
    bed.stub:reset()
    -- the first pause is one second, however many token requests failed before it
    gateway_bed.await("the end of the pause", function()
      return read_jwt(load.request(server.port, make_request "many1")) ~= read_jwt(old[1])
    end)
  end)
end)

describe("a token that expires while it is renewed", function()
  it("does not limit requests to the short deadline of the renewal", function()
    local TRIES, REQUESTS, LEFT = 5, 50, 0.03
    local server = bed:start { locations = gateway_probe.LOCATIONS }
    local request = make_request "haste"
    for _ = 1, TRIES do
      bed.stub:reset()
      assert.equal(200, load.request(server.port, request).status)
      bed.stub:plan { delay = { before = 0.2 }, times = "forever" }
      gateway_probe.age_tokens(server.port, LEFT)
      local tasks, answers = {}, {}
      for i = 1, REQUESTS do
        tasks[i] = function()
          load.sleep(i * 3 * LEFT / REQUESTS)
          answers[i] = load.perform(server.port, request)
        end
      end
      load.together(unpack(tasks))
      assert.same({ [200] = REQUESTS }, load.count(answers))
    end
  end)
end)

describe("a renewal with little time left", function()
  it("that fails for lack of time does not pause others", function()
    local server = bed:start { workers = 1, locations = gateway_probe.LOCATIONS }
    for _, name in ipairs { "hasty", "patient" } do load.request(server.port, make_request(name)) end
    gateway_probe.age_tokens(server.port, 4) -- less than half of the default of `timeout`
    bed.stub:reset()
    bed.stub:plan { together = 2 } -- the answer waits for a second token request, or a reset
    assert.equal(200, load.request(server.port, make_request "hasty").status)
    gateway_bed.await("its completion", function()
      return gateway_probe.read_metric(server.port, "icptoken_fetches_total", 'code="timeout"') == 1
    end)
    assert.equal(0, gateway_probe.read_metric(server.port, "icptoken_endpoint_paused"))
    assert.is_nil(server:log():match "[^\n]*icptoken: [^\n]*")
  end)
end)

describe("a renewal", function()
  local server

  setup(function()
    server = bed:start { workers = 1, gateway = "max_inflight = 1, timeout = 60",
      locations = gateway_probe.LOCATIONS .. [[
      location = /forget { content_by_lua_block { ngx.shared.icptoken:flush_all() } }
    ]] }
  end)

  -- Sends a request whose token request is answered only when body has sent others behind it. Afterwards the stub's log
  -- has only the token requests of those.
  local function ask_behind(body)
    bed.stub:plan { together = 2 } -- the answer waits for a second token request, or a reset
    local slow = load.send(server.port, make_request "slow")
    gateway_bed.await("the slow token request", function() return #bed.stub:requests() == 1 end)
    local sent = { slow }
    body(function(name) table.insert(sent, load.send(server.port, make_request(name))) end)
    assert.same({ "slow" }, list_asked())
    bed.stub:reset()
    for _, connection in ipairs(sent) do assert.equal(200, load.receive(connection).status) end
  end

  local function make_due(...)
    for _, name in ipairs { ... } do assert.equal(200, load.request(server.port, make_request(name)).status) end
    gateway_probe.age_tokens(server.port)
    bed.stub:reset()
  end

  local function use(name)
    assert.equal(200, load.request(server.port, make_request(name)).status)
  end

  local function await_asked(names)
    gateway_bed.await("the last token request", function() return #bed.stub:requests() >= #names end)
    assert.same(names, list_asked())
  end

  local function await_queued(count)
    gateway_bed.await("a queue", function()
      return gateway_probe.read_metric(server.port, "icptoken_queued") == count
    end)
  end

  it("takes turns with token requests for which clients wait, if there is one runner", function()
    make_due("due1", "due2")
    ask_behind(function(send)
      use "due1"
      use "due2"
      send "cold1"
      await_queued(1)
      send "cold2"
      await_queued(2)
    end)
    await_asked { "due1", "cold1", "due2", "cold2" }
  end)

  it("for which a client starts to wait goes before the others", function()
    make_due("due3", "due4", "due5") -- and "slow", from before
    ask_behind(function(send)
      use "due3"
      use "due5"
      use "due4"
      send "cold3"
      await_queued(1)
      load.request(server.port, { target = "/forget" })
      send "due4"
      await_queued(2)
    end)
    await_asked { "cold3", "due3", "due4", "due5" }
  end)
end)

-- In one worker whose clocks a location moves (clock_shift.c).
describe("as time passes, a token", function()
  -- Used for 90 s, and renewed from 68 s to 72 s on; a second less where whole seconds are counted.
  -- Between a time and the next limit there are two seconds at least, in which a busy machine may pause.
  local LIFE, STILL_NEW, DUE, NEARLY_ENDED, ENDED = 100, 65, 73, 87, 90.5
  local HOUR = 3600
  local SHIFT = [[
    location = /shift {
      content_by_lua_block {
        local ffi, arguments = require "ffi", ngx.req.get_uri_args()
        ffi.cdef "void clock_shift_set(const double *, bool);"
        local seconds = ffi.new("double[3]", tonumber(arguments.wall), 0, tonumber(arguments.boottime))
        ffi.C.clock_shift_set(seconds, false)
        ngx.update_time()
      }
    }
  ]]
  local server

  setup(function()
    testkit.setenv("LD_PRELOAD", "build/clock_shift.so")
    local ok, result = pcall(bed.start, bed, { workers = 1, locations = gateway_probe.LOCATIONS .. SHIFT })
    testkit.unsetenv "LD_PRELOAD"
    assert(ok, result)
    server = result
  end)

  -- Moves the worker's clocks by this much from the true time.
  local function shift(wall, boottime)
    local target = ("/shift?wall=%g&boottime=%g"):format(wall, boottime)
    assert.equal(200, load.request(server.port, { target = target }).status)
  end

  before_each(function() shift(0, 0) end)

  -- The JWT of a new token for the repository with this name.
  local function begin(name)
    bed.stub:set { expires_in = LIFE }
    return read_jwt(load.request(server.port, make_request(name)))
  end

  local function ask(name)
    return load.request(server.port, make_request(name))
  end

  local function await_questions(count)
    gateway_bed.await("the endpoint's token request", function() return #bed.stub:requests() == count end)
  end

  it("is renewed ahead of its expiry", function()
    local old = begin "ahead"
    shift(STILL_NEW, STILL_NEW)
    assert.equal(old, read_jwt(ask "ahead"))
    assert.equal(1, #bed.stub:requests())
    shift(DUE, DUE)
    assert.equal(old, read_jwt(ask "ahead"))
    await_questions(2)
    gateway_bed.await("the new token", function() return read_jwt(ask "ahead") ~= old end)
    assert.equal(2, #bed.stub:requests())
  end)

  it("that cannot be renewed is used until shortly before its expiry, and not longer", function()
    local old = begin "last"
    bed.stub:plan { status = 500, times = "forever" }
    for _, seconds in ipairs { DUE, NEARLY_ENDED } do
      shift(seconds, seconds)
      assert.equal(old, read_jwt(ask "last"))
    end
    shift(ENDED, ENDED)
    assert.equal(502, ask("last").status)
    bed.stub:reset()
    assert.are_not.equal(old, read_jwt(ask "last"))
  end)

  it("is not used longer when the wall clock is set back", function()
    local old = begin "back"
    shift(-HOUR, 0)
    assert.equal(old, read_jwt(ask "back"))
    assert.equal(1, #bed.stub:requests())
    shift(-HOUR, ENDED)
    assert.are_not.equal(old, read_jwt(ask "back"))
  end)

  it("costs one token request at most when the wall clock is set forward", function()
    begin "forward"
    shift(HOUR, 0)
    for _ = 1, 3 do assert.equal(200, ask("forward").status) end
    assert.is_true(#bed.stub:requests() <= 2)
  end)
end)
