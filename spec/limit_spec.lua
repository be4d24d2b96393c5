-- Time limits: wherever the network hangs, a fetch ends within its timeout and a tenth. The specs allow NOISE more, and
-- several tries on a busy machine. On a slow machine the limits grow from try to try; as a tenth of a long limit would
-- hide a delay, they do not grow if a good fetch takes less than SLOW seconds. The specs let things hang for HANG
-- seconds, far longer than any limit.

local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local socket = require "socket"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"

local TIMEOUT = 0.3
local NOISE = 0.15
local SLOW = 0.04
local HANG = 600

if os.getenv "ICPTOKEN_VALGRIND" then
  describe("a time limit", function()
    it("is not measured under valgrind", function() pending "valgrind is too slow" end)
  end)
  return
end

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function options(changes)
  local all = { host = "localhost", port = stub.port, cacert = stub.ca, id_token = stub.id_token, timeout = TIMEOUT,
    retries = 0 }
  for name, value in pairs(changes or {}) do all[name] = value or nil end
  return all
end

local function assert_took(elapsed, limit)
  assert.is_true(elapsed <= limit * 1.1 + NOISE, ("took %.3f s of %g s"):format(elapsed, limit))
  assert.is_true(elapsed >= limit * 0.9, ("took only %.3f s of %g s"):format(elapsed, limit))
end

-- Calls and returns the seconds that it took, and its results.
local function measure(call, ...)
  local started = testkit.monotonic()
  local token, message, code, details = call(...)
  return testkit.monotonic() - started, token, message, code, details
end

-- Calls body as timing.try does, with the factor for limits.
local function try(body)
  return timing.try(function(scale)
    stub:reset()
    local slowness = scale > 1 and measure(icptoken.fetch, options { timeout = HANG }) / (SLOW / 2) or 1
    stub:reset()
    return body(math.max(1, math.min(scale, math.floor(slowness))))
  end)
end

-- Options with their limits multiplied, except HANG, which is no limit.
local function scale_limits(all, scale)
  for _, name in ipairs { "timeout", "connect_timeout" } do
    if all[name] and all[name] < HANG then all[name] = all[name] * scale end
  end
  return all
end

-- Plans the order for the stub, and fetches until a limit. expect_limit returns how many seconds it is for a scale (the
-- timeout, if not said); wanted is the code, if not "timeout". Returns the message, the details and the limit.
local function time_out(order, changes, expect_limit, wanted)
  return try(function(scale)
    if order then stub:plan(order) end
    local all = scale_limits(options(changes), scale)
    local limit = expect_limit and expect_limit(scale) or all.timeout
    local client = icptoken.new(all)
    local elapsed, token, message, code, details = measure(client.fetch, client)
    local closing = measure(client.close, client)
    assert.is_nil(token)
    assert.equal(wanted or "timeout", code, message)
    assert_took(elapsed, limit)
    assert.is_true(closing < NOISE * scale, ("closing took %.3f s"):format(closing))
    return message, details, limit
  end)
end

local function assert_tells(text, limit, message)
  assert.matches(("%s within %g s"):format(text, limit), message, 1, true)
end

-- A port whose queue of connections is full, so that attempts to connect get no answer at all.
local function open_deaf_port()
  local listening = assert(socket.tcp())
  assert(listening:bind("127.0.0.1", 0))
  assert(listening:listen(0))
  local _, port = listening:getsockname()
  local sockets = { listening }
  repeat
    local caller = assert(socket.tcp())
    caller:settimeout(0)
    caller:connect("127.0.0.1", port)
    sockets[#sockets + 1] = caller
    local _, ready = socket.select(nil, { caller }, 0.2)
  until #ready == 0
  return tonumber(port), function()
    for _, each in ipairs(sockets) do each:close() end
  end
end

-- Each: what hangs, the order for the stub, the options.
local HANGING = {
  { "a port that accepts and sends nothing", nil, function() return { port = stub.ports.hang } end },
  { "a port that accepts plain http and sends nothing", nil, function()
    return { host = false, port = false, url = ("http://127.0.0.1:%d/"):format(stub.ports.hang) }
  end },
  { "a TLS handshake that is not answered", { at = "connect", ["end"] = "hold" } },
  { "an answer that does not begin", { delay = { before = HANG } } },
  { "an answer that does not begin, over HTTP/2", { delay = { before = HANG } },
    function() return { http_version = "2" } end },
  { "a status line that stops", { cut = 7, ["end"] = "hold" } },
  { "a head that stops", { cut = 60, ["end"] = "hold" } },
  { "a body that stops", { delay = { body = HANG } } },
  { "a body whose last byte is missing", { status = 200, body = "{}", headers = { { "Content-Length", "3" } },
    ["end"] = "hold" } },
  { "an answer that drips a byte now and then", { delay = { drip = 0.2 } }, function() return { timeout = 0.5 } end },
  { "a body that drips", { status = 500, body = ("x"):rep(100000), delay = { drip = 0.02 } } },
  { "a proxy that does not answer", nil, function()
    return { proxy = "http://127.0.0.1:" .. stub.ports.hang }
  end },
  { "a tunnel that is not opened", { listener = "proxy", delay = { before = HANG } }, function()
    return { proxy = "http://127.0.0.1:" .. stub.ports.proxy }
  end },
}

describe("the time limit ends a fetch on", function()
  for _, case in ipairs(HANGING) do
    local what, order, change = case[1], case[2], case[3]

    it(what, function()
      local _, details = time_out(order, change and change())
      assert.is_true(details.retryable)
      assert.equal(1, details.attempts)
    end)
  end

  it("a refusal that stops in its body, and its status is reported", function()
    local _, details = time_out({ status = 401, body = ("x"):rep(1000), delay = { body = HANG } }, nil, nil,
      "unauthorized")
    assert.equal(401, details.status)
  end)

  it("a port that does not answer at all", function()
    local port, close_port = open_deaf_port()
    local message, _, limit = time_out(nil, { port = port })
    close_port()
    assert_tells("cannot connect to localhost:" .. port, limit, message)
  end)

  -- There is always data to process, and how long a piece of it takes depends on the machine.
  it("a body without end", function()
    stub:plan { endless = "body", bytes = 1e15 }
    local elapsed, token, message, code, details = measure(icptoken.fetch,
      options { max_body_bytes = 2 ^ 30, timeout = 0.15 })
    assert.is_nil(token)
    assert.equal("timeout", code, message)
    assert.is_true(details.retryable)
    assert.equal(1, details.attempts)
    assert.is_true(elapsed >= 0.14, elapsed)
  end)
end)

describe("a body without end", function()
  it("is refused as too large before the time limit", function()
    stub:plan { endless = "body", bytes = 1e15 }
    local token, _, code = icptoken.fetch(options { timeout = HANG })
    assert.is_nil(token)
    assert.equal("too_large", code)
  end)
end)

describe("after a time limit", function()
  it("the same client fetches well", function()
    local client = icptoken.new(options { timeout = 0.2 })
    stub:plan({ delay = { before = HANG } }, { delay = { body = HANG } })
    for _ = 1, 2 do
      local _, _, code = client:fetch()
      assert.equal("timeout", code)
    end
    stub:reset() -- an order is left over if the limit passed before its request was received
    assert.is_string(assert(client:fetch { timeout = HANG }).token)
    client:close()
  end)
end)

describe("the message of a time limit", function()
  local function hang_on(connection, order, changes)
    return timing.try(function(scale)
      stub:reset()
      local all = options(changes)
      all.timeout = HANG
      local client = icptoken.new(all)
      if connection == "kept" then assert(client:fetch()) end
      if order then stub:plan(order) end
      local limit = 0.3 * scale
      local _, message, code = client:fetch { timeout = limit }
      client:close()
      assert.equal("timeout", code, message)
      return { message = message, limit = limit }
    end)
  end

  it("distinguishes a hang on a kept connection from a slow DNS lookup", function()
    for _, addresses in ipairs { false, { ["localhost:" .. stub.port] = "127.0.0.1" } } do
      local told = hang_on("kept", { delay = { before = HANG } }, { resolve = addresses })
      assert_tells(("localhost:%d did not send a complete answer"):format(stub.port), told.limit, told.message)
    end
  end)

  it("says that a connection was not made if its TLS handshake or its tunnel is not complete", function()
    local proxy = "http://127.0.0.1:" .. stub.ports.proxy
    for _, told in ipairs {
      hang_on("new", { at = "connect", ["end"] = "hold" }),
      hang_on("new", { listener = "proxy", delay = { before = HANG } }, { proxy = proxy }),
    } do
      assert_tells("cannot connect to localhost:" .. stub.port, told.limit, told.message)
    end
  end)
end)

describe("the timeout of a request", function()
  it("replaces the client's", function()
    local client = icptoken.new(options { timeout = HANG })
    try(function(scale)
      stub:plan { delay = { before = HANG } }
      local elapsed, _, _, code = measure(client.fetch, client, { timeout = 0.3 * scale })
      assert.equal("timeout", code)
      assert_took(elapsed, 0.3 * scale)
    end)
    client:close()
  end)

  it("may be a fraction", function()
    local message, _, limit = time_out({ delay = { before = HANG } }, { timeout = 0.25 })
    assert_tells("", limit, message)
  end)

  it("may be shorter than a millisecond", function()
    try(function(scale)
      stub:plan { delay = { before = HANG } }
      local elapsed, _, _, code = measure(icptoken.fetch, options { timeout = 1e-9 })
      assert.equal("timeout", code)
      assert.is_true(elapsed < NOISE * scale, elapsed)
    end)
  end)
end)

describe("the connect_timeout", function()
  it("ends a TLS handshake before the timeout does, and the message says so", function()
    local message, _, limit = time_out(nil, { port = stub.ports.hang, connect_timeout = 0.3, timeout = HANG },
      function(scale) return 0.3 * scale end)
    assert_tells("", limit, message)
  end)

  it("does not end an answer that takes longer", function()
    timing.try(function(scale) -- connecting takes some time, too
      stub:reset()
      stub:plan { delay = { before = 0.4 * scale } }
      assert(icptoken.fetch(options { connect_timeout = 0.2 * scale, timeout = HANG }))
    end)
  end)

  it("is a connection failure that is retried", function()
    timing.try(function(scale)
      stub:reset()
      stub:plan { at = "connect", ["end"] = "hold" }
      assert(icptoken.fetch(options { connect_timeout = 0.2 * scale, timeout = HANG, retries = 1 }))
      assert.equal(2, stub:accepted().https)
    end)
  end)

  it("applies to each attempt, with the usual waits between them", function()
    local _, details = time_out(nil, { port = stub.ports.hang, connect_timeout = 0.1, timeout = HANG, retries = 2 },
      function(scale) return 3 * 0.1 * scale + 0.25 + 0.5 end)
    assert.equal(3, details.attempts)
  end)
end)

describe("retries", function()
  it("have their waits and attempts within the timeout", function()
    timing.try(function(scale)
      stub:reset()
      stub:plan({ status = 503 }, { status = 503, delay = { before = HANG } })
      local elapsed, _, _, code, details = measure(icptoken.fetch, options { timeout = 0.5 * scale, retries = 100 })
      assert.equal("timeout", code)
      assert_took(elapsed, 0.5 * scale)
      assert.equal(2, details.attempts)
    end)
  end)

  it("are not made if Retry-After exceeds the time left", function()
    stub:plan { status = 503, headers = { { "Retry-After", "60" } } }
    local elapsed, _, _, code, details = measure(icptoken.fetch, options { timeout = 50, retries = 2 })
    assert.equal("server_error", code)
    assert.equal(60, details.retry_after)
    assert.equal(1, details.attempts)
    assert.is_true(elapsed < 50)
  end)
end)

describe("a DNS lookup that hangs", function()
  local FETCH = [[
    local icptoken, testkit = require "icptoken", require "testkit"
    local options = { host = "a.hang.test", anonymous = true }
    for i = 1, #arg, 2 do options[arg[i] ] = tonumber(arg[i + 1]) or arg[i + 1] end
    local started = testkit.monotonic()
    local _, message, code, details = icptoken.fetch(options)
    print(("%s %d %.3f %s"):format(code, details.attempts, testkit.monotonic() - started, message))
  ]]
  -- The Lua state that loads the module is closed at the end of its thread; the process continues.
  local FETCH_IN_THREAD = [[
    local testkit = require "testkit"
    local code = ([=[
      package.path, package.cpath = %q, %q
      assert(not require "icptoken".fetch { host = %q, anonymous = true, timeout = 0.001, retries = 0 })
    ]=]):format(package.path, package.cpath, arg[1])
    for i = 1, tonumber(arg[2]) do assert(testkit.run_in_thread(code)) end
    for line in io.lines "/proc/self/maps" do
      local library = line:match "/([^/]*%.so[^/]*)$"
      if library and (library:match "^icptoken" or library:match "^libcurl") then print(library) end
    end
  ]]

  local function start(code, ...)
    -- memory that OpenSSL keeps for a thread that has exited is ignored here
    local env = code == FETCH_IN_THREAD and { ASAN_OPTIONS = "exitcode=23:detect_leaks=0" } or nil
    return interpreter.start { code = code, args = { ... }, env = env, preload = "build/slow_resolver.so" }
  end

  local function assert_exited_well(child)
    local how, status, output = child.wait(60) -- shorter than the resolver hangs
    assert.equal("exited 0", how .. " " .. status, output)
    return output
  end

  local function fetch_in_child(...)
    local code, attempts, elapsed, message = assert_exited_well(start(FETCH, ...)):match "^(%S+) (%d+) (%S+) (.*)\n"
    return { code = code, attempts = tonumber(attempts), elapsed = tonumber(elapsed), message = message }
  end

  -- Fetches in a child until the limit that option sets, and returns the message and the limit.
  local function fetch_until(option, ...)
    local more = { ... }
    return try(function(scale)
      local limit = 0.5 * scale
      local result = fetch_in_child("retries", "5", option, ("%g"):format(limit),
        (unpack or table.unpack)(more)) -- luacheck: ignore 143
      assert.equal("timeout", result.code)
      assert.equal(1, result.attempts)
      assert_took(result.elapsed, limit)
      return result.message, limit
    end)
  end

  it("ends with the timeout and is not retried", function()
    local message, limit = fetch_until "timeout"
    assert_tells("the DNS lookup of a.hang.test:8443 did not finish", limit, message)
  end)

  it("ends with the connect_timeout and is not retried", function()
    fetch_until("connect_timeout", "timeout", tostring(HANG))
  end)

  it("ends as well if it is that of the proxy", function()
    fetch_until("timeout", "proxy", "http://proxy.hang.test:3128")
  end)

  it("does not crash a process that exits right after it", function()
    local children = {}
    for i = 1, 6 do children[i] = start(FETCH, "timeout", "0.05") end
    for _, child in ipairs(children) do assert.matches("^timeout ", assert_exited_well(child)) end
  end)

  it("still has its code in memory after the Lua state was closed", function()
    local output = assert_exited_well(start(FETCH_IN_THREAD, "a.hang.test", "1"))
    assert.matches("icptoken", output)
    assert.matches("libcurl", output)
  end)

  it("may end while the Lua state is being closed", function()
    assert_exited_well(start(FETCH_IN_THREAD, "no-such-host.invalid", "30"))
  end)
end)
