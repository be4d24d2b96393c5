-- The client in a process with signals, coroutines, forks and other modules, and at the end of the process.
local testkit = require "testkit"
local files = require "support.files"
local interpreter = require "support.interpreter"
local timing = require "support.timing"
local stub = require "stub.client"


describe("a client in its process", function()
  local icp, icptoken, options

  setup(function()
    icp = stub.share()
    icptoken = require "icptoken"
  end)

  teardown(function()
    icp:stop()
  end)

  before_each(function()
    icp:reset()
    options = { host = "localhost", port = icp.ports.h1, cacert = icp.ca, id_token = icp.id_token,
      retries = 0, timeout = 100, connect_timeout = 100 }
  end)

  local function script(body)
    local prologue = ([[
      local icptoken = require "icptoken"
      local options = { host = "localhost", port = %d, cacert = %q, id_token_file = %q, retries = 0,
        timeout = 600 }
    ]]):format(icp.ports.h1, icp.ca, icp.id_token_file)
    return prologue .. body
  end

  local function run(body, more)
    local run_options = { code = script(body) }
    for name, value in pairs(more or {}) do run_options[name] = value end
    return interpreter.run(run_options)
  end

  local function wait_for_request()
    timing.wait_for("a request", function() return icp:last() end)
  end

  describe("that waits when Ctrl-C comes", function()
    -- starts a script, interrupts it once its request hangs, and returns how it exited
    local function interrupt(body)
      icp:plan { delay = { before = 600 } }
      local child = interpreter.start { code = script(body) }
      wait_for_request()
      testkit.kill(child.pid, "INT")
      local how, status, output = child.wait(100) -- shorter than the stub holds its answer and the client waits
      return output, how, status
    end

    it("ends with Lua's own message", function()
      local output, how, status = interrupt "print(icptoken.fetch(options))"
      assert.matches("interrupted!", output, 1, true)
      assert.equal("exited", how)
      assert.equal(1, status)
    end)

    it("can be used again", function()
      local output = interrupt [[
        local client = icptoken.new(options)
        local ok, message = pcall(client.fetch, client)
        print(ok, message)
        local token = assert(client:fetch())
        print("again: " .. type(token.token))
      ]]
      assert.matches("interrupted!", output, 1, true)
      assert.matches("again: string", output, 1, true)
    end)

    it("ends inside a coroutine, where each thread has its own hook", function()
      if _VERSION == "Lua 5.1" and not rawget(_G, "jit") then
        return pending "Lua 5.1 cannot reach the main thread's hook from a coroutine"
      end
      local output = interrupt [[
        local client = icptoken.new(options)
        local routine = coroutine.create(function() return client:fetch() end)
        print(pcall(coroutine.resume, routine))
      ]]
      assert.matches("interrupted!", output, 1, true)
    end)

    it("works afterwards, also if it was between two attempts", function()
      icp:plan({ status = 503, headers = { { "Retry-After", "300" } } })
      local child = interpreter.start { code = script [[
        options.retries = 3
        local client = icptoken.new(options)
        print(pcall(client.fetch, client))
        print("again: " .. type(assert(client:fetch()).token))
      ]] }
      wait_for_request()
      testkit.sleep(0.05) -- it need not wait already: the hook runs in either case
      testkit.kill(child.pid, "INT")
      local _, _, output = child.wait()
      assert.matches("interrupted!", output, 1, true)
      assert.matches("again: string", output, 1, true)
    end)
  end)

  describe("with a hook", function()
    local function with_hook(hook, body)
      local jit = rawget(_G, "jit")
      if jit then jit.off() end
      debug.sethook(hook, "", 1)
      local results = { pcall(body) }
      debug.sethook()
      if jit then jit.on() end
      return unpack and unpack(results) or table.unpack(results) -- luacheck: ignore 143
    end

    it("refuses to be used from within its own call", function()
      local client = assert(icptoken.new(options))
      local inner_ok, inner_message
      local inside = false
      local ok, token = with_hook(function()
        if inside or inner_message then return end
        inside = true
        inner_ok, inner_message = pcall(client.fetch, client)
        if inner_ok then inner_message = nil end
        inside = false
      end, function() return client:fetch() end)
      assert.is_true(ok, token)
      if inner_message then -- the hook may not have run inside the call
        assert.matches("in the middle of a call", inner_message, 1, true)
      end
      assert.is_table(client:fetch())
      client:close()
    end)
  end)

  describe("in a coroutine", function()
    it("works", function()
      local client = assert(icptoken.new(options))
      local routine = coroutine.wrap(function()
        coroutine.yield(client:fetch())
        return client:fetch()
      end)
      assert.is_table(routine())
      assert.is_table(routine())
      client:close()
    end)

    it("is collected when the coroutine dies", function()
      local weak = setmetatable({}, { __mode = "k" })
      local sockets = #testkit.open_sockets()
      do
        local routine = coroutine.wrap(function()
          local client = assert(icptoken.new(options))
          weak[client] = true
          coroutine.yield(client:fetch())
        end)
        assert.is_table(routine())
      end
      collectgarbage()
      collectgarbage()
      assert.is_nil(next(weak))
      assert.equal(sockets, #testkit.open_sockets())
    end)
  end)

  describe("made before a fork", function()
    local in_child = interpreter.fork

    it("works in parent and child, each with a connection of its own", function()
      local client = assert(icptoken.new(options))
      assert.is_table(client:fetch())
      local kept = icp:last().connection
      assert.equal(0, in_child(function() return client:fetch() and client:fetch() end))
      local childs = icp:last().connection
      assert.are_not.equal(kept, childs)
      assert.is_table(client:fetch())
      assert.equal(kept, icp:last().connection) -- the parent's connection still works
      client:close()
    end)

    it("may be closed in the child while the parent continues to use it", function()
      local client = assert(icptoken.new(options))
      assert.is_table(client:fetch())
      local kept = icp:last().connection
      assert.equal(0, in_child(function()
        client:close()
        client = nil -- luacheck: ignore 311
        collectgarbage()
        return true
      end))
      assert.is_table(client:fetch())
      assert.equal(kept, icp:last().connection)
      client:close()
    end)

    it("leaves no socket of the parent open in the child", function()
      local client = assert(icptoken.new(options))
      assert.is_table(client:fetch())
      local before = #testkit.open_sockets()
      assert.equal(0, in_child(function()
        assert(client:fetch())
        client:close()
        return #testkit.open_sockets() < before
      end))
      client:close()
    end)

    it("works in a grandchild", function()
      local client = assert(icptoken.new(options))
      assert.is_table(client:fetch())
      assert.equal(0, in_child(function()
        return client:fetch() and in_child(function() return client:fetch() end) == 0 and client:fetch()
      end))
      client:close()
    end)

    it("works in a child if it had no connection yet", function()
      local client = assert(icptoken.new(options))
      assert.equal(0, in_child(function() return client:fetch() end))
      assert.is_table(client:fetch())
      client:close()
    end)
  end)

  it("is not made where the clocks cannot be read", function()
    local good, _, output = interpreter.run { code = [[print(pcall(require, "icptoken"))]],
      preload = "build/clock_shift.so", env = { CLOCK_SHIFT_FAILS = "1" } }
    assert.is_true(good, output)
    assert.matches("^false.*the clocks of this machine cannot be read", output)
  end)

  describe("in a process that has no descriptor left", function()
    -- Prints a line for each number of descriptors that are left: the results of creating a client, and of a call of a
    -- client that was created before. Then the results once there are enough descriptors again.
    local STARVE = [[
      local host, cert, key = arg[1], arg[7], arg[8]
      local icptoken = require "icptoken"
      local all = { host = host, port = tonumber(arg[2]), retries = 0, timeout = 60, [arg[3] ] = arg[4] }
      all.cacert = all.cacert or (not all.capath and arg[5]) or nil
      if arg[3] ~= "id_token_file" then all.id_token = arg[6] end
      if cert ~= "" then all.cert, all.key = cert, key end
      local held = {}
      local function hold(left)
        repeat
          held[#held + 1] = io.open "/dev/null"
          local more = io.open "/dev/null"
          if more then more:close() end
        until not more
        for _ = 1, left do table.remove(held):close() end
      end
      local function release()
        for _, file in ipairs(held) do file:close() end
        held = {}
      end
      local function show(what, left, token, message, code, details)
        print(what, left, token and "ok" or code, details and tostring(details.retryable), message)
      end
      for left = 0, 12 do
        local early = assert(icptoken.new(all))
        hold(left)
        local late, message, code, details = icptoken.new(all)
        if late then late:close() end
        show("new", left, late, message, code, details)
        show("fetch", left, early:fetch())
        show("fetch_all", left, early:fetch_all { {} })
        release()
        show("again", left, early:fetch())
        early:close()
      end
    ]]

    local function make_pin_file(path)
      assert(os.execute(("openssl x509 -in %s -noout -pubkey >%s"):format(icp.server_cert, path)))
      return path
    end

    local function make_capath()
      local directory = os.tmpname()
      os.remove(directory)
      assert(os.execute(("mkdir %s && cp %s %s/ca.pem && openssl rehash %s"):format(directory, icp.ca, directory,
        directory)))
      return directory
    end

    -- each: the option that names a file, its value, the rest
    local named = {
      { "cacert", function() return icp.ca end },
      { "capath", make_capath },
      { "pinned_public_key", function() return make_pin_file(os.tmpname()) end },
      { "id_token_file", function() return icp.id_token_file end },
      { "cert", function() return icp.client_cert end, client_cert = true },
    }
    for _, host in ipairs { "127.0.0.1", "localhost" } do
      for _, case in ipairs(named) do
        it(("reports that, and works later: host %s, option %s"):format(host, case[1]), function()
          local path = case[2]()
          local port = case.client_cert and icp.ports.client_cert or icp.port
          local good, _, output = interpreter.run { code = STARVE, descriptors = 256, args = { host, tostring(port),
            case[1], path, icp.ca, icp.id_token, case.client_cert and icp.client_cert or "",
            case.client_cert and icp.client_key or "" } }
          if case[1] == "capath" then os.execute("rm -r " .. path) end
          if case[1] == "pinned_public_key" then os.remove(path) end
          assert.is_true(good, output)
          local short, lines = {}, 0
          for what, left, result, retryable, message in output:gmatch "(%S+)\t(%d+)\t(%S+)\t(%S+)\t([^\n]*)" do
            lines = lines + 1
            if result ~= "ok" then
              assert.not_equal("again", what, output)
              assert.equal("connect", result, output)
              assert.equal("true", retryable)
              assert.matches("too many open files", message, 1, true)
              assert.matches("ulimit -n", message, 1, true)
              short[what .. left] = true
            elseif left == "12" then
              short[what] = "enough"
            end
          end
          assert.equal(13 * 4, lines, output)
          for _, what in ipairs { "new", "fetch" } do
            assert.is_true(short[what .. 0], output)
            assert.equal("enough", short[what], output)
          end
        end)
      end
    end
  end)

  describe("in a process that has closed its descriptors", function()
    local LOGS = 60

    local function make_directory()
      local directory = os.tmpname()
      os.remove(directory)
      assert(os.execute("mkdir " .. directory))
      return directory
    end

    -- Closes all descriptors but the standard ones, and opens logs, which get the numbers of the closed ones.
    local function open_logs(directory)
      testkit.close_descriptors(3)
      local logs = {}
      for n = 1, LOGS do
        logs[n] = assert(io.open(directory .. "/" .. n, "wb"))
        assert(logs[n]:setvbuf "no")
      end
      return logs
    end

    local function write_logs(logs, line)
      for n, log in ipairs(logs) do assert(log:write(n, " ", line, "\n")) end
    end

    -- Checks that the logs contain every byte that was written, and nothing else.
    local function check_logs(directory, lines)
      for n = 1, LOGS do
        local expected = {}
        for i, line in ipairs(lines) do expected[i] = n .. " " .. line .. "\n" end
        assert.equal(table.concat(expected), files.read(directory .. "/" .. n))
      end
    end

    -- Runs in a forked child, which prints why it failed. This process checks its logs.
    local function in_daemon(lines, body)
      local directory = make_directory()
      local status = interpreter.fork(function()
        local ok, problem = xpcall(function() body(directory) end, debug.traceback)
        if not ok then io.stderr:write(tostring(problem), "\n") end
        return ok
      end)
      local ok, problem = pcall(check_logs, directory, lines)
      os.execute("rm -rf " .. directory)
      assert.equal(0, status)
      assert.is_true(ok, problem)
    end

    -- Uses of the client there, by name.
    local uses = {
      { "fetches", function(client) assert(client:fetch()) end },
      { "fetches from many", function(client) assert.is_nil((select(2, assert(client:fetch_all { {}, {}, {} })))) end },
      { "closes", function(client) client:close() end },
      { "fetches and closes", function(client)
        assert(client:fetch())
        assert(client:fetch())
        client:close()
      end },
      { "forgets the client", function() end },
    }

    for _, inherited in ipairs { true, false } do
      for _, use in ipairs(uses) do
        local where = inherited and "as a child of the process that connected" or "having connected itself"
        it(("%s and %s leaves its new files alone"):format(where, use[1]), function()
          local client = inherited and assert(icptoken.new(options))
          if inherited then assert(client:fetch_all { {}, {}, {} }) end
          in_daemon({ "before", "between", "after" }, function(directory)
            client = client or assert(icptoken.new(options))
            if not inherited then assert(client:fetch_all { {}, {}, {} }) end
            local logs = open_logs(directory)
            write_logs(logs, "before")
            use[2](client)
            write_logs(logs, "between")
            client = nil -- luacheck: ignore 311
            collectgarbage()
            collectgarbage()
            write_logs(logs, "after")
          end)
          if inherited then
            local connections = {}
            for _, request in ipairs(icp:requests()) do connections[request.connection] = true end
            assert.is_table(client:fetch())
            assert.is_true(connections[icp:last().connection])
            client:close()
          end
        end)
      end
    end

    it("before the client had a connection leaves its new files alone", function()
      local client = assert(icptoken.new(options))
      in_daemon({ "before", "after" }, function(directory)
        local logs = open_logs(directory)
        write_logs(logs, "before")
        assert(client:fetch())
        client:close()
        write_logs(logs, "after")
      end)
      assert.is_table(client:fetch())
      client:close()
    end)

    it("keeps a connection afterwards, and what it leaks is limited", function()
      in_daemon({ "before" }, function(directory)
        local client = assert(icptoken.new(options))
        assert(client:fetch())
        write_logs(open_logs(directory), "before")
        assert(client:fetch())
        local open = #testkit.open_sockets()
        for _ = 1, 5 do assert(client:fetch()) end
        assert.equal(open, #testkit.open_sockets())
        assert.equal(0, client:stats().timings.connections)
        client:close()
        assert.equal(0, #testkit.open_sockets())
      end)
    end)
  end)

  it("opens its sockets close-on-exec", function()
    local known = {}
    for _, socket in ipairs(testkit.open_sockets()) do known[socket.fd] = true end
    local client = assert(icptoken.new(options))
    -- libcurl's own wake-up pair is there before any connection
    for _, socket in ipairs(testkit.open_sockets()) do known[socket.fd] = true end
    assert.is_table(client:fetch())
    local found = 0
    for _, socket in ipairs(testkit.open_sockets()) do
      if not known[socket.fd] then
        found = found + 1
        assert.is_true(socket.cloexec)
      end
    end
    assert.equal(1, found)
    client:close()
  end)

  it("is not killed by SIGPIPE when the endpoint closes the connection", function()
    icp:plan({ ["end"] = "reset", raw = "" }, { at = "connect", ["end"] = "reset" })
    local client = assert(icptoken.new(options))
    assert.equal("network", (select(3, client:fetch())))
    assert.equal("network", (select(3, client:fetch())))
    assert.is_table(client:fetch())
    client:close()
  end)

  describe("whose module is loaded again", function()
    it("works beside clients of the new module", function()
      local old = assert(icptoken.new(options))
      package.loaded.icptoken = nil
      local again = require "icptoken"
      local new = assert(again.new(options))
      assert.is_table(old:fetch())
      assert.is_table(new:fetch())
      old:close()
      new:close()
      package.loaded.icptoken = icptoken
    end)
  end)

  it("is closed with the Lua state", function()
    local ok, _, output = run [[
      client = icptoken.new(options)
      assert(client:fetch())
      print "fetched"
    ]]
    assert.is_true(ok, output)
    assert.matches("fetched", output, 1, true)
  end)

  it("survives a state that is closed while a second one is unused", function()
    local ok, _, output = run [[
      local client = icptoken.new(options)
      assert(client:fetch())
      local unused = icptoken.new(options)
      client = nil
      collectgarbage()
      print(tostring(unused):match "^icptoken.client")
    ]]
    assert.is_true(ok, output)
    assert.matches("icptoken.client", output, 1, true)
  end)
end)
