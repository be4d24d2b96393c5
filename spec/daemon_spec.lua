-- examples/daemon.lua with tokens of 10 seconds, while its endpoint is stopped and started again: every token that it
-- gets is judged by the expiry in the token itself, on the clock of the stub, which is this machine's.

local cjson = require "cjson"
local interpreter = require "support.interpreter"
local socket = require "socket"
local testkit = require "testkit"
local timing = require "support.timing"

if os.getenv "ICPTOKEN_VALGRIND" then
  describe("the daemon of the examples", function()
    it("is not run under valgrind", function() pending "it is a process of its own" end)
  end)
  return
end

local SECONDS = 10
local PATIENCE = 300

-- The daemon as it is, with a client that is watched. In its last second a token need not be returned: the times in
-- a JWT and a Date header are cut to whole seconds, so the exact time that is left is not known.
local WATCHED = [[
local icptoken = require "icptoken"
local socket = require "socket"
local new = icptoken.new

local function watch(client)
  local watched, expires_at = {}, 0
  -- The process may be delayed at any time, so a token is judged by the time before the call, and a failure by the time
  -- after it.
  local function judge(before, token, ...)
    local after = socket.gettime()
    if token then
      expires_at = icptoken.decode(token.token).claims.exp
      if before >= expires_at then print(("WRONG: a token that expired %.3f s ago"):format(before - expires_at)) end
    elseif after < expires_at - 1 then
      print(("WRONG: no token, %.3f s before the last one expires"):format(expires_at - after))
    end
    return token, ...
  end
  function watched.token(_, ...) return judge(socket.gettime(), client:token(...)) end
  function watched.close() client:close() end
  return watched
end

function icptoken.new(options) return watch(new(options)) end
dofile "examples/daemon.lua"
]]

-- Calls until it returns something true.
local function wait_until(what, try)
  local deadline = testkit.monotonic() + PATIENCE
  repeat
    local result = try()
    if result then return result end
    testkit.sleep(0.02)
  until testkit.monotonic() > deadline
  error(what() .. " did not happen", 2)
end

-- The first line of a file once it is complete.
local function read_line(path)
  local file = assert(io.open(path, "r"))
  local line = file:read "*a":match "^([^\n]*)\n"
  file:close()
  return line
end

describe("the daemon of the examples", function()
  local directory, stub

  -- Tries once to start a stub on the port (0 for any) that uses the files of the previous one.
  local function try_start(port)
    local said = os.tmpname()
    local pid = assert(testkit.spawn { "luajit", "stub/icp.lua", "--controlled", "--dir", directory,
      "--port", tostring(port), "--lifetime", tostring(SECONDS), stdin = "/dev/null", stdout = said,
      stderr = "/dev/null",
      env = { LD_PRELOAD = false, LUA_PATH = false, LUA_CPATH = false, LUA_INIT = false } })
    local ended
    local line = wait_until(function() return "the start of the stub" end, function()
      ended = testkit.waitpid(pid, 0) ~= "running"
      return ended or read_line(said)
    end)
    os.remove(said)
    if ended then return nil end -- another process uses the port at the moment
    local ready = cjson.decode(line)
    ready.process = pid
    return ready
  end

  local function start_stub(port)
    stub = wait_until(function() return "the start of the stub" end, function() return try_start(port or 0) end)
    stub.port = ("%d"):format(stub.port) -- cjson's numbers are floats
    stub.connection = assert(socket.connect("127.0.0.1", ("%d"):format(stub.control)))
  end

  local function stop_stub()
    stub.connection:send '{"do":"stop"}\n' -- the daemon may have inherited the connection: closing is not enough
    stub.connection:close()
    stub.connection = nil
    assert.equal("exited", (testkit.waitpid(stub.process, PATIENCE)))
  end

  local function start_daemon(code, ...)
    return interpreter.start { code = code, args = { "localhost", stub.port, stub.ca, stub.id_token_file, ... } }
  end

  before_each(function()
    directory = os.tmpname()
    os.remove(directory)
    start_stub()
  end)

  after_each(function()
    if stub.connection then stop_stub() end
    os.execute("rm -rf " .. interpreter.quote(directory))
  end)

  it("prints where its token comes from, and exits in time", function()
    timing.try(function(scale) -- the time must suffice for two tokens, but not for a third
      local daemon = start_daemon('dofile "examples/daemon.lua"', tostring(0.5 * scale))
      local how, status, output = daemon.wait(PATIENCE)
      assert.same({ "exited", 0 }, { how, status }, output)
      assert.matches("^%d%d:%d%d:%d%d\tfresh\tvalid until %d%d:%d%d:%d%d\n"
        .. "%d%d:%d%d:%d%d\tcached\tvalid until %d%d:%d%d:%d%d\n$", output)
    end)
  end)

  it("prints how to use it", function()
    local ok, status, output = interpreter.run { script = "examples/daemon.lua", args = { "localhost" } }
    assert.is_false(ok)
    assert.equal(2, status)
    assert.matches("^usage: ", output)
  end)

  it("has a token as long as one is valid, and a new one as soon as the endpoint works again #deep", function()
    local daemon = start_daemon(WATCHED)
    local at = 1

    -- Waits for the next line of that state.
    local function wait_for(state)
      wait_until(function() return state .. " after\n" .. daemon.output() end, function()
        local _, last = daemon.output():find("\t" .. state .. "\t[^\n]*\n", at)
        at = last and last + 1 or at
        return last
      end)
    end

    wait_for "fresh"
    wait_for "cached"
    stop_stub()
    wait_for "stale"
    start_stub(stub.port)
    wait_for "fresh"
    stop_stub()
    wait_for "stale"
    wait_for "failed"
    start_stub(stub.port)
    wait_for "fresh"
    wait_for "cached"
    testkit.kill(daemon.pid, "INT")
    local how, status, output = daemon.wait(PATIENCE)
    assert.same({ "exited", 1 }, { how, status }, output)
    assert.matches("interrupted!", output, 1, true)
    assert.not_matches("WRONG", output, 1, true)
  end)
end)
