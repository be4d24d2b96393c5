-- Several gateways of one worker with few Lua states for threads (lua_worker_thread_vm_pool_size, 10 by default from
-- ngx_lua 0.10.27 on): they find out how many there are, use no more than that, and take turns.

local cjson = require "cjson"
local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local nginx = require "support.nginx"

local NAMES = { "alpha", "beta", "gamma" }
-- However slow the machine is, all can be served in time.
local STATES, MAX_INFLIGHT, TIMEOUT = 10, 8, 120
local RUNNERS = MAX_INFLIGHT * #NAMES

-- /calls reports the calls of ngx.run_worker_thread: `failed` is how many found no Lua state, `started` lists the
-- scopes of the others, `running` is how many are in progress, and `peak` the most at the same time since /watch.
local HTTP = [[
  lua_shared_dict icptoken 16m;
  lua_check_client_abort on;
  lua_worker_thread_vm_pool_size %d;
  init_by_lua_block {
    local ffi = require "ffi"
    ffi.cdef "int mkfifo(const char *, unsigned);"
    assert(ffi.C.mkfifo("@DIR@/pipe", 384) == 0) -- 0600
    local run, is_warm_up_held = ngx.run_worker_thread, %s
    calls = { failed = 0, running = 0, peak = 0, occupied = 0, started = {} }

    -- A function that occupies a Lua state until a byte is written to the pipe.
    local function hold(pool) return run(pool, "_G", "dofile", "@DIR@/pipe") end

    local function call(pool, name, member, ...)
      if member == "warm" and is_warm_up_held then return hold(pool) end
      return run(pool, name, member, ...)
    end

    local function finish(ok, ...)
      calls.running = calls.running - 1
      if not ok and ... == "no available Lua vm" then
        calls.failed = calls.failed + 1
        table.remove(calls.started)
      end
      return ok, ...
    end

    function ngx.run_worker_thread(pool, name, member, client, options, request)
      calls.running = calls.running + 1
      table.insert(calls.started, request and request.scope or "")
      local peak = calls.peak
      calls.peak = math.max(peak, calls.running)
      local function keep_peak(ok, ...)
        if not ok and ... == "no available Lua vm" then calls.peak = peak end
        return ok, ...
      end
      return finish(keep_peak(call(pool, name, member, client, options, request)))
    end

    -- Other Lua code.
    function occupy(count)
      for _ = 1, count do
        ngx.timer.at(0, function()
          calls.occupied = calls.occupied + 1
          hold "others"
          calls.occupied = calls.occupied - 1
        end)
      end
    end

    local new = require("icptoken.gateway").new
    gateways = { %s }
  }
  init_worker_by_lua_block { for _, gateway in pairs(gateways) do gateway:start() end }
  server {
    listen 127.0.0.1:@PORT@;
    location = /calls { content_by_lua_block { ngx.print(require "cjson".encode(calls)) } }
    location = /watch { content_by_lua_block { calls.peak = calls.running } }
    location = /occupy { content_by_lua_block { occupy(tonumber(ngx.var.arg_count)) } }
    location = /metrics {
      content_by_lua_block { ngx.print(gateways.alpha:metrics(gateways.beta, gateways.gamma)) }
    }
    location = /connections { return 200 "$connections_active $connections_writing"; }
  }
]]

-- Every answer has a header with the number of calls that had been made when its request arrived.
local SERVER = [[
  server {
    listen 127.0.0.1:@PORT%s@ backlog=4096;
    location /v2/ {
      set $icptoken_authorization "";
      set $icptoken_key "";
      access_by_lua_block {
        ngx.header["X-Calls-Before"] = #calls.started
        gateways.%s:authorize()
      }
      header_filter_by_lua_block { gateways.%s:observe() }
      proxy_set_header Authorization $icptoken_authorization;
      proxy_pass http://127.0.0.1:%d;
    }
  }
]]

local bed, server

local function read_calls()
  return cjson.decode(load.perform(server.port, { target = "/calls" }).body)
end

-- is_warm_up_held: the calls with which the gateways warm up do not return until a byte is written to the pipe.
local function start_server(is_warm_up_held)
  local options, servers = {}, {}
  for i, name in ipairs(NAMES) do
    options[i] = ("%s = new(%s)"):format(name, bed:write_options(
      ("name = %q, service = %q, timeout = %d, max_inflight = %d"):format(name, name, TIMEOUT, MAX_INFLIGHT)))
    servers[i] = SERVER:format(name, name, name, bed.upstream.port)
  end
  server = nginx.start { workers = 1, http = HTTP:format(STATES, is_warm_up_held,
    table.concat(options, ", ")) .. table.concat(servers),
    main = "thread_pool icptoken threads=32;\nthread_pool others threads=32;" }
  gateway_bed.await("what the gateways do to warm up", function()
    local calls = read_calls()
    return #calls.started + calls.failed >= RUNNERS and calls.running == (is_warm_up_held and STATES or 0)
  end)
end

setup(function() bed = gateway_bed.open() end)
teardown(function() gateway_bed.close(bed) end)
before_each(function()
  bed.stub:reset()
  start_server(false)
end)
after_each(function()
  if server then server:stop() end
  server = nil
end)

local function request(repository)
  local made = bed:request("/v2/" .. repository .. "/manifests/latest")
  made.timeout = 2 * TIMEOUT
  return made
end

local function await_idle()
  gateway_bed.await("the last call's end", function()
    local calls = read_calls()
    return calls.running == 0 and calls.occupied == 0
  end)
end

-- Sends this many cold requests at once, to the gateways in turn. Returns the answers.
local function flood(prefix, count, names)
  local answers, tasks = {}, {}
  for i = 1, count do
    tasks[i] = function()
      local name = names[i % #names + 1]
      answers[i] = load.perform(server.ports["PORT" .. name], request(prefix .. "/image" .. i))
    end
  end
  load.together(unpack(tasks))
  return answers
end

local function read_peak_of_flood(prefix, count)
  load.request(server.port, { target = "/watch" })
  assert.same({ [200] = count }, load.count(flood(prefix, count, NAMES)))
  return read_calls().peak
end

describe("1,000 cold requests at three gateways with 10 Lua states", function()
  it("are all served, and at most one call a second fails", function()
    bed.stub:plan { delay = { before = 0.02 }, times = "forever" }
    local began = load.read_time()
    local answers = flood("many", 1000, NAMES)
    assert.same({ [200] = 1000 }, load.count(answers))
    assert.equal(1000, #bed.stub:requests())
    local calls = read_calls()
    assert.equal(STATES, calls.peak)
    local seconds = load.read_time() - began
    assert.is_true(calls.failed <= RUNNERS + seconds + 1, calls.failed .. " calls failed")
  end)
end)

describe("one request at a gateway beside a crowd at two others", function()
  it("waits for at most as many calls as the others have runners", function()
    bed.stub:plan { delay = { before = 0.1 }, times = "forever" }
    local late
    load.together(function() flood("crowd", 300, { "alpha", "beta" }) end, function()
      gateway_bed.await("the crowd", function() return #read_calls().started > 3 * STATES end)
      late = load.perform(server.ports.PORTgamma, request "late/comer")
    end)
    assert.equal(200, late.status)
    local position
    for i, scope in ipairs(read_calls().started) do
      if scope:find("late/comer", 1, true) then position = i end
    end
    local passed = position - 1 - late.headers["x-calls-before"]
    assert.is_true(passed <= RUNNERS, passed .. " calls came before it")
  end)
end)

describe("requests that arrive while the gateways still warm up in all Lua states", function()
  it("wait without a busy loop, and are served as soon as a Lua state is free", function()
    server:stop()
    start_server(true)
    local failed, sent = read_calls().failed, {}
    for i = 1, RUNNERS do
      sent[i] = load.send(server.ports["PORT" .. NAMES[i % #NAMES + 1]], request("early/image" .. i))
    end
    -- the worker still answers while they wait
    gateway_bed.await("a failed call", function() return read_calls().failed > failed end)
    files.write(server.dir .. "/pipe", "")
    for i, connection in ipairs(sent) do assert.equal(200, load.receive(connection).status, i) end
  end)
end)

describe("no Lua state is lost", function()
  local function assert_all_in_use(prefix)
    bed.stub:reset()
    bed.stub:plan { delay = { before = 0.05 }, times = "forever" }
    await_idle()
    assert.equal(STATES, read_peak_of_flood(prefix, 100))
  end

  -- Waits until all Lua states are used again: after a shortage that takes some attempts.
  local function await_all_in_use()
    await_idle()
    bed.stub:reset()
    bed.stub:plan { delay = { before = 0.05 }, times = "forever" }
    local round = 0
    gateway_bed.await("all Lua states to be used again", function()
      round = round + 1
      return read_peak_of_flood("afterwards" .. round, 100) == STATES
    end)
  end

  it("to an endpoint that fails", function()
    bed.stub:plan({ status = 500, times = 50 }, { raw = "", times = 50 }, { status = 401, times = 50 })
    local counts = load.count(flood("failing", 200, NAMES))
    assert.is_nil(counts.none)
    assert.is_nil(counts[504])
    assert_all_in_use "after-failures"
  end)

  it("to clients that disconnect", function()
    bed.stub:plan { delay = { before = 0.2 }, times = "forever" }
    load.abandon(server.ports.PORTbeta, 200, function(i) return request("gone/image" .. i) end, 100, 0.05)
    gateway_bed.await("the last client's end", function() return gateway_probe.count_clients(server.port) == 0 end)
    assert_all_in_use "after-clients"
  end)

  it("to other code that uses some for a while", function()
    local OCCUPIED = 6
    load.request(server.port, { target = "/occupy?count=" .. OCCUPIED })
    gateway_bed.await("the other code", function() return read_calls().occupied == OCCUPIED end)
    bed.stub:plan { delay = { before = 0.05 }, times = "forever" }
    assert.equal(STATES - OCCUPIED, read_peak_of_flood("beside", 100))
    files.write(server.dir .. "/pipe", "")
    await_all_in_use()
  end)

  it("to other code that uses all of them", function()
    load.request(server.port, { target = "/occupy?count=" .. STATES })
    gateway_bed.await("the other code", function() return read_calls().occupied == STATES end)
    local failed = read_calls().failed
    local sent = load.send(server.ports.PORTalpha, request "patient/image")
    gateway_bed.await("a failed call", function() return read_calls().failed > failed end)
    files.write(server.dir .. "/pipe", "")
    assert.equal(200, load.receive(sent).status)
    await_all_in_use()
  end)
end)
