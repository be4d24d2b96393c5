-- Option files that are pipes: the data of a writer is used, and a pipe without a writer delays a call only until its
-- time limit.
local cases = require "support.cases"
local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"

describe("a pipe", function()
  local stub, pipes, writers

  setup(function() stub = stub_client.start() end)
  teardown(function() stub:stop() end)

  before_each(function()
    stub:reset()
    pipes, writers = {}, {}
  end)

  after_each(function()
    for _, pid in ipairs(writers) do
      testkit.kill(pid, "KILL")
      testkit.waitpid(pid)
    end
    for _, path in ipairs(pipes) do os.remove(path) end
  end)

  local function make_pipe()
    local path = os.tmpname()
    os.remove(path)
    assert(testkit.mkfifo(path))
    pipes[#pipes + 1] = path
    return path
  end

  -- A pipe into which a process writes the files once it has a reader.
  local function write_pipe(...)
    local path = make_pipe()
    local command = "exec cat " .. table.concat({ ... }, " ") .. " >" .. path
    writers[#writers + 1] = assert(testkit.spawn { "sh", "-c", command, stdin = "/dev/null", stderr = "/dev/null",
      env = { LD_PRELOAD = false } })
    return path
  end

  local function make_pin_file()
    local path = os.tmpname()
    pipes[#pipes + 1] = path
    assert(os.execute(("openssl x509 -in %s -noout -pubkey >%s"):format(stub.server_cert, path)))
    return path
  end

  local function mutual(changes)
    changes.port = stub.ports.client_cert
    return changes
  end

  -- Code that sets the local variable "options".
  local function write_options(changes)
    local lines = { "local options = {}" }
    for key, value in pairs(cases.options(stub, changes)) do
      local form = type(value) == "string" and "options[%q] = %q" or "options[%q] = %s"
      lines[#lines + 1] = form:format(key, tostring(value))
    end
    return table.concat(lines, "\n")
  end

  -- each: the option, the other options that it needs, the files that are written into it
  local options = {
    { "cacert", function() return {} end, function() return stub.ca end },
    { "cert", function() return mutual { key = stub.client_key } end, function() return stub.client_cert end },
    { "key", function() return mutual { cert = stub.client_cert } end, function() return stub.client_key end },
    { "pinned_public_key", function() return {} end, make_pin_file },
    { "id_token_file", function() return { id_token = false } end, function() return stub.id_token_file end },
  }

  for _, case in ipairs(options) do
    local name, more, source = case[1], case[2], case[3]

    it(("with a writer may be option %s"):format(name), function()
      local changes = more()
      changes[name] = write_pipe(source())
      local token, message = icptoken.fetch(cases.options(stub, changes))
      assert.is_table(token, message)
    end)

    it(("without a writer as option %s ends at the time limit, with its path"):format(name), function()
      local changes = more()
      changes[name], changes.timeout, changes.retries = make_pipe(), 0.3, 2
      local message, details = cases.check_failure(name == "id_token_file" and "invalid_credential" or "tls", {},
        icptoken.fetch(cases.options(stub, changes)))
      assert.matches(changes[name], message, 1, true)
      assert.matches("is a pipe whose writer did not finish in time", message, 1, true)
      assert.equal(0, details.attempts)
      assert.is_true(details.retryable)
      assert.same({}, stub:requests())
    end)

    it(("without a writer as option %s can be interrupted"):format(name), function()
      local changes = more()
      changes[name] = make_pipe()
      local child = interpreter.start { code = write_options(changes) .. [[
        options.timeout = 600
        local client = require "icptoken".new(options)
        io.stdout:setvbuf "no"
        print "ready"
        print(client:fetch())
      ]] }
      timing.wait_for("the start of the child", function() return child.output():find "ready" end)
      testkit.kill(child.pid, "INT")
      local how, status, output = child.wait()
      assert.same({ "exited", 1 }, { how, status }, output)
      assert.matches("interrupted!", output, 1, true)
    end)
  end

  it("that contains certificate and key is read once", function()
    local changes = mutual { cert = write_pipe(stub.client_cert, stub.client_key) }
    assert(icptoken.fetch(cases.options(stub, changes)))
  end)

  it("that was read is used for later connections, logins and requests of fetch_all, too", function()
    local client = icptoken.new(cases.options(stub, { id_token = false, cacert = write_pipe(stub.ca),
      pinned_public_key = write_pipe(make_pin_file()),
      login = { username = stub.username, password = stub.password } }))
    assert(client:fetch())
    stub:plan { ["end"] = "close", times = 2 }
    for _ = 1, 3 do assert(client:fetch()) end
    assert.is_nil((select(2, client:fetch_all { {}, {}, {} })))
    client:close()
    assert(icptoken.login { host = "localhost", port = stub.port, cacert = write_pipe(stub.ca),
      username = stub.username, password = stub.password })
  end)

  -- an attempt that opened the pipe would wait for another writer, without a limit, so a child makes it
  it("that was read is used for an attempt beside another one", function()
    for _, case in ipairs(options) do
      local name, more, source = case[1], case[2], case[3]
      local changes = more()
      timing.try(function(scale) -- a second attempt that is slow would have a third one beside it
        stub:reset()
        changes[name], changes.hedge_after, changes.timeout = write_pipe(source()), 0.2 * scale, 100
        stub:plan { raw = "", ["end"] = "hold" }
        local child = interpreter.start { code = write_options(changes) .. [[
          print(type(require "icptoken".fetch(options)))
        ]] }
        local how, status, output = child.wait()
        assert.same({ "exited", 0, "table\n" }, { how, status, output }, name)
        assert.equal(2, #stub:requests())
      end)
    end
  end)

  it("that contains no CA, or too much, is reported", function()
    for _, source in ipairs { stub.client_key, "/dev/zero" } do
      local path = write_pipe(source)
      local message, details = cases.check_failure("tls", {}, icptoken.fetch(cases.options(stub, { cacert = path })))
      assert.matches(path, message, 1, true)
      assert.is_false(details.retryable)
    end
  end)

  it("leaves no descriptor open", function()
    local function count()
      local process = assert(io.popen(("ls /proc/%d/fd | wc -l"):format(testkit.getpid())))
      local number = tonumber(process:read "*l")
      process:close()
      return number
    end
    local before = count()
    for _ = 1, 3 do
      icptoken.fetch(cases.options(stub, { cacert = make_pipe(), timeout = 0.1 }))
      icptoken.fetch(cases.options(stub, { pinned_public_key = write_pipe(make_pin_file()) }))
    end
    -- DNS lookups of libcurl, also those of earlier specs, may close their descriptors a little later
    timing.wait_for("the end of all descriptors", function() return count() <= before end)
  end)
end)
