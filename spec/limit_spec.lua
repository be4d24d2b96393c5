-- Time limits: whatever a network can hang in, a fetch ends within its timeout and a tenth. The specs allow a busy
-- machine a little more.

local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local socket = require "socket"
local stub_client = require "support.stub"
local testkit = require "testkit"

local TIMEOUT = 0.6
local NOISE = 0.15

if os.getenv "ICPTOKEN_VALGRIND" then
  describe("a time limit", function()
    it("is not measured under valgrind", function() pending "valgrind is too slow" end)
  end)
  return
end

local stub

setup(function() stub = stub_client.start() end)
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

-- Calls and gives the seconds it took, and what it gave.
local function measure(call, ...)
  local started = testkit.monotonic()
  local token, message, code, details = call(...)
  return testkit.monotonic() - started, token, message, code, details
end

-- Fetches until the limit (the timeout, if not said); gives the message and the details.
local function time_out(changes, limit)
  local client = icptoken.new(options(changes))
  local elapsed, token, message, code, details = measure(client.fetch, client)
  assert.is_nil(token)
  assert.equal("timeout", code, message)
  assert_took(elapsed, limit or changes and changes.timeout or TIMEOUT)
  assert.is_true((measure(client.close, client)) < NOISE)
  return message, details
end

-- A port whose queue of connections is full, so that nobody who calls there gets an answer at all.
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
  { "a port that accepts and says nothing", nil, function() return { port = stub.ports.hang } end },
  { "a port that accepts plain http and says nothing", nil, function()
    return { host = false, port = false, url = ("http://127.0.0.1:%d/"):format(stub.ports.hang) }
  end },
  { "a TLS handshake that is not answered", { at = "connect", ["end"] = "hold" } },
  { "an answer that does not begin", { delay = { before = 30 } } },
  { "an answer that does not begin, over HTTP/2", { delay = { before = 30 } },
    function() return { http_version = "2" } end },
  { "a status line that stops", { cut = 7, ["end"] = "hold" } },
  { "a head that stops", { cut = 60, ["end"] = "hold" } },
  { "a body that stops", { delay = { body = 30 } } },
  { "a body whose last byte is missing", { status = 200, body = "{}", headers = { { "Content-Length", "3" } },
    ["end"] = "hold" } },
  { "an answer that drips one byte a second", { delay = { drip = 1 } }, function() return { timeout = 1.5 } end },
  { "a body that drips ten bytes a second", { status = 500, body = ("x"):rep(1000), delay = { drip = 0.1 } } },
  { "a refusal that stops in its body", { status = 401, body = ("x"):rep(1000), delay = { body = 30 } } },
  { "a body without end", { endless = "body", bytes = 1e15 }, function()
    return { max_body_bytes = 2 ^ 30, timeout = 0.15 }
  end },
  { "a proxy that does not answer", nil, function()
    return { proxy = "http://127.0.0.1:" .. stub.ports.hang }
  end },
  { "a tunnel that is not opened", { listener = "proxy", delay = { before = 30 } }, function()
    return { proxy = "http://127.0.0.1:" .. stub.ports.proxy }
  end },
}

describe("the time limit ends a fetch on", function()
  for _, case in ipairs(HANGING) do
    local what, order, change = case[1], case[2], case[3]

    it(what, function()
      if order then stub:plan(order) end
      local _, details = time_out(change and change())
      assert.is_true(details.retryable)
      assert.equal(1, details.attempts)
    end)
  end

  it("a port that does not answer at all", function()
    local port, close_port = open_deaf_port()
    local message = time_out { port = port }
    close_port()
    assert.matches(("cannot connect to localhost:%d within 0.6 s"):format(port), message, 1, true)
  end)
end)

describe("a body without end", function()
  it("is refused as too large long before the time limit", function()
    stub:plan { endless = "body", bytes = 1e15 }
    local elapsed, token, _, code = measure(icptoken.fetch, options { timeout = 10 })
    assert.is_nil(token)
    assert.equal("too_large", code)
    assert.is_true(elapsed < 5)
  end)
end)

describe("after a time limit", function()
  it("the same client fetches well", function()
    local client = icptoken.new(options { timeout = 0.3 })
    stub:plan({ delay = { before = 30 } }, { delay = { body = 30 } })
    for _ = 1, 2 do
      local _, _, code = client:fetch()
      assert.equal("timeout", code)
    end
    assert.is_string(assert(client:fetch { timeout = 10 }).token)
    client:close()
  end)
end)

describe("the timeout of a request", function()
  it("stands in the place of the client's", function()
    local client = icptoken.new(options { timeout = 30 })
    stub:plan { delay = { before = 30 } }
    local elapsed, _, _, code = measure(client.fetch, client, { timeout = 0.5 })
    client:close()
    assert.equal("timeout", code)
    assert_took(elapsed, 0.5)
  end)

  it("may be a fraction", function()
    stub:plan { delay = { before = 30 } }
    assert.matches("within 0.25 s", time_out { timeout = 0.25 }, 1, true)
  end)

  it("may be shorter than a millisecond", function()
    stub:plan { delay = { before = 30 } }
    local elapsed, _, _, code = measure(icptoken.fetch, options { timeout = 1e-9 })
    assert.equal("timeout", code)
    assert.is_true(elapsed < NOISE)
  end)
end)

describe("the connect_timeout", function()
  it("ends a TLS handshake before the timeout does, and the message tells it", function()
    local message = time_out({ port = stub.ports.hang, connect_timeout = 0.4, timeout = 30 }, 0.4)
    assert.matches("within 0.4 s", message, 1, true)
  end)

  it("does not end an answer that takes longer", function()
    stub:plan { delay = { before = 0.6 } }
    assert(icptoken.fetch(options { connect_timeout = 0.3, timeout = 10 }))
  end)

  it("is a connection failure that is tried again", function()
    stub:plan { at = "connect", ["end"] = "hold" }
    assert(icptoken.fetch(options { connect_timeout = 0.3, timeout = 10, retries = 1 }))
    assert.equal(2, stub:accepted().https)
  end)

  it("counts for each attempt, with the waits between them", function()
    local _, details = time_out({ port = stub.ports.hang, connect_timeout = 0.2, timeout = 30, retries = 2 },
      3 * 0.2 + 0.25 + 0.5)
    assert.equal(3, details.attempts)
  end)
end)

describe("retries", function()
  it("have their waits and attempts within the timeout", function()
    stub:plan({ status = 503 }, { status = 503, delay = { before = 30 } })
    local _, details = time_out { retries = 100 }
    assert.equal(2, details.attempts)
  end)

  it("end when the next wait would not fit", function()
    stub:plan { status = 503, times = "forever" }
    local elapsed, token, _, code, details = measure(icptoken.fetch, options { retries = 100 })
    assert.is_nil(token)
    assert.equal("server_error", code)
    assert.equal(2, details.attempts)
    assert.is_true(elapsed < TIMEOUT)
  end)

  it("are not waited for when Retry-After does not fit", function()
    stub:plan { status = 503, headers = { { "Retry-After", "60" } } }
    local elapsed, _, _, code, details = measure(icptoken.fetch, options { timeout = 30, retries = 2 })
    assert.equal("server_error", code)
    assert.equal(60, details.retry_after)
    assert.equal(1, details.attempts)
    assert.is_true(elapsed < 5)
  end)
end)

describe("a name lookup that hangs", function()
  local FETCH = [[
    local icptoken, testkit = require "icptoken", require "testkit"
    local options = { host = "a.hang.test", anonymous = true }
    for i = 1, #arg, 2 do options[arg[i] ] = tonumber(arg[i + 1]) or arg[i + 1] end
    local started = testkit.monotonic()
    local _, message, code, details = icptoken.fetch(options)
    print(("%s %d %.3f %s"):format(code, details.attempts, testkit.monotonic() - started, message))
  ]]
  -- The state that loads the module ends with its thread, the process goes on.
  local FETCH_IN_THREAD = [[
    local thread = require "cqueues.thread"
    local function fetch(_, path, cpath, host)
      package.path, package.cpath = path, cpath
      assert(not require "icptoken".fetch { host = host, anonymous = true, timeout = 0.001, retries = 0 })
    end
    for i = 1, tonumber(arg[2]) do
      assert(thread.start(fetch, package.path, package.cpath, arg[1])):join()
    end
    for line in io.lines "/proc/self/maps" do
      local library = line:match "/([^/]*%.so[^/]*)$"
      if library and (library:match "^icptoken" or library:match "^libcurl") then print(library) end
    end
  ]]

  local function start(code, ...)
    -- what OpenSSL keeps for a thread that has ended is not looked at here
    local env = code == FETCH_IN_THREAD and { ASAN_OPTIONS = "exitcode=23:detect_leaks=0" } or nil
    return interpreter.start { code = code, args = { ... }, env = env, preload = "build/slow_resolver.so" }
  end

  local function assert_exited_well(child)
    local how, status, output = child.wait(15)
    assert.equal("exited 0", how .. " " .. status, output)
    return output
  end

  local function fetch_in_child(...)
    local code, attempts, elapsed, message = assert_exited_well(start(FETCH, ...)):match "^(%S+) (%d+) (%S+) (.*)\n"
    return { code = code, attempts = tonumber(attempts), elapsed = tonumber(elapsed), message = message }
  end

  it("ends with the timeout and is not tried again", function()
    local result = fetch_in_child("timeout", "1", "retries", "5")
    assert.equal("timeout", result.code)
    assert.equal(1, result.attempts)
    assert_took(result.elapsed, 1)
    assert.matches("looking up the address of a.hang.test:8443 did not end within 1 s", result.message, 1, true)
  end)

  it("ends with the connect_timeout and is not tried again", function()
    local result = fetch_in_child("timeout", "10", "connect_timeout", "0.5", "retries", "5")
    assert.equal("timeout", result.code)
    assert.equal(1, result.attempts)
    assert_took(result.elapsed, 0.5)
  end)

  it("ends when it is the proxy's as well", function()
    local result = fetch_in_child("timeout", "0.5", "retries", "5", "proxy", "http://proxy.hang.test:3128")
    assert.equal("timeout", result.code)
    assert.equal(1, result.attempts)
    assert_took(result.elapsed, 0.5)
  end)

  it("does no harm to a process that ends right after it", function()
    local children = {}
    for i = 1, 6 do children[i] = start(FETCH, "timeout", "0.05") end
    for _, child in ipairs(children) do assert.matches("^timeout ", assert_exited_well(child)) end
  end)

  it("has its code still in memory when the Lua state is closed", function()
    local output = assert_exited_well(start(FETCH_IN_THREAD, "a.hang.test", "1"))
    assert.matches("icptoken", output)
    assert.matches("libcurl", output)
  end)

  it("may end while the Lua state is being closed", function()
    assert_exited_well(start(FETCH_IN_THREAD, "no-such-host.invalid", "30"))
  end)
end)
