-- The programs with hostile input and under adverse conditions: mutated files and names, secrets in answers, Ctrl-C, a
-- slow cluster; and the cost of a start.

local cjson = require "cjson"
local command = require "support.command"
local pty = require "support.pty"
local testkit = require "testkit"

local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
local PASSWORD = "pa55-w0rd-in-the-spec"

local stub, bed

setup(function() stub, bed = command.begin() end)
teardown(function() command.finish(stub, bed) end)
before_each(function()
  command.reset(stub, bed, [[,"registries":{
    "registry.example.com":{"cluster":"prod","gateway_user":"id-token"}}]])
end)

-- The same numbers in each run and on each runtime.
local function make_random(seed)
  return function(limit)
    seed = (seed * 16807) % 2147483647
    return seed % limit + 1
  end
end

local PIECES = { "{", "}", "[", "]", ",", ":", '"', "\\", "\\u0000", "null", "1e400", "-", "\0", "\255", "\27[2J",
  "true", '"clusters"', '"host"', '{"a":1}', ("["):rep(300), " ", "\n", "'" }

local function mutate(text, random)
  for _ = 1, random(4) do
    local position, kind = random(#text + 1), random(4)
    local piece = PIECES[random(#PIECES)]
    if kind == 1 then
      text = text:sub(1, position - 1) .. piece .. text:sub(position)
    elseif kind == 2 then
      text = text:sub(1, position - 1) .. text:sub(position + random(8))
    elseif kind == 3 then
      text = text:sub(1, position - 1) .. piece .. text:sub(position + #piece)
    else
      text = text .. text:sub(position, position + random(30))
    end
  end
  return text
end

describe("mutated", function()
  local failure = require "icptoken.cli.failure"

  -- Calls a function that must return, or raise a failure with a message in printable characters.
  local function try(text, ...)
    local ok, problem = pcall(...)
    if ok then return problem end
    assert.is_true(failure.is(problem), ("%q: %s"):format(text, tostring(problem)))
    assert.not_matches("[%z\1-\9\11-\31]", problem.message)
  end

  it("configurations are read, or refused with a message", function()
    local parse = require "icptoken.cli.configuration".parse
    local cluster = require "icptoken.cli.cluster"
    local random = make_random(1)
    local seed = command.configuration(stub, [[,"registries":{"r.example":{"cluster":"prod","gateway_user":"u"}},
      "credential_store":"pass"]])
    for _ = 1, 2000 do
      local text = mutate(seed, random)
      local settings = try(text, parse, "/config.json", text)
      if settings then try(text, cluster.choose, settings, { cluster = "prod" }, "r.example") end
    end
  end)

  it("files of docker stay JSON, and get their entry", function()
    local docker_text, json_text = require "icptoken.cli.docker_text", require "icptoken.cli.json_text"
    local random, edited = make_random(2), 0
    local seed = '{\n\t"auths": {"r.example": {"auth": "eA=="}, "b": {}},\n\t"credHelpers": {"c": "d"},\n'
      .. '\t"n": [1, {"x": "\\"y"}]\n}'
    for _ = 1, 3000 do
      local text = mutate(seed, random)
      local prepared = docker_text.prepare(text)
      local ok, result = pcall(function()
        return prepared and docker_text.set_helper(prepared, "r.example", "icptoken")
      end)
      if not ok then
        assert.is_table(result, text .. ": " .. tostring(result))
        assert.is_string(result.message)
      elseif prepared then
        edited = edited + 1
        assert.is_table((json_text.parse(result)), text)
        assert.equal('"icptoken"', docker_text.read(result, "credHelpers", "r.example"), text)
        assert.equal(result, docker_text.set_helper(result, "r.example", "icptoken"))
        docker_text.mask(result)
        assert.is_nil(docker_text.read(docker_text.remove_helper(result, "r.example", "icptoken"), "credHelpers",
          "r.example"))
      end
    end
    assert.is_true(edited > 100, edited)
  end)

  it("sessions are used completely or refused", function()
    local session = require "icptoken.cli.session"
    testkit.setenv("XDG_STATE_HOME", bed:path "state")
    local path = session.path "mycluster.icp:8443"
    session.write("mycluster.icp:8443", { username = "admin", id_token = "abc", refresh_token = "d", expires_at = 5 })
    local random = make_random(3)
    local seed = assert(bed:read "state/icptoken/mycluster.icp_8443.json")
    for _ = 1, 500 do
      local text = mutate(seed, random)
      require "support.files".write(path, text)
      local content = try(text, session.read, "mycluster.icp:8443")
      if content then assert.equal("mycluster.icp:8443", content.endpoint) end
    end
    testkit.unsetenv "XDG_STATE_HOME"
  end)

  it("names of registries and repositories, and tokens, raise no other errors", function()
    local reference, jwt = require "icptoken.cli.reference", require "icptoken.cli.jwt"
    local random = make_random(4)
    for _ = 1, 3000 do
      local text = mutate("https://registry.example.com:5000/ns/app:1.0@sha256:00", random)
      try(text, reference.parse, text)
      reference.find_registry({ ["registry.example.com:5000"] = {} }, text)
      text = mutate("eyJhbGciOiJub25lIn0.eyJleHAiOjUsImlhdCI6NX0.c2ln", random)
      jwt.decode(text)
      jwt.find_expiry(text)
    end
  end)

  it("answers of the cluster are refused with a message", function()
    local random = make_random(5)
    for path, seed in pairs {
      [LOGIN_PATH] = '{"id_token":"abc","refresh_token":"d","expires_in":5,"token_type":"Bearer"}',
      ["/image-manager/api/v1/auth/token"] = '{"token":"abc","expires_in":1800}',
    } do
      for _ = 1, 8 do
        bed:clear()
        stub:reset()
        stub:plan { path = path, status = 200, body = mutate(seed, random), times = "forever" }
        local flags = { command.flags(stub) }
        local arguments = path == LOGIN_PATH and { "login", "-u", "admin", "--password-stdin", stdin = PASSWORD }
          or { "token", "a", "--format", "json", env = { ID_TOKEN = stub.id_token } }
        for _, flag in ipairs(flags) do arguments[#arguments + 1] = flag end
        local status, out, err = bed:run(arguments)
        assert.is_true(status == 0 or status == 1 or status == 75, err)
        assert.not_matches("%.lua:%d", err)
        assert.not_matches("[%z\1-\9\11-\31]", out .. err)
      end
    end
  end)
end)

describe("no secret is shown", function()
  local function search(secrets, ...)
    for _, text in ipairs { ... } do
      for _, secret in ipairs(secrets) do assert.not_matches(secret, text, 1, true) end
    end
  end

  local mime = require "mime"

  local function list_tokens()
    return { stub.id_token, stub.id_token:match "%.([^.]+)%.", stub.id_token:match "[^.]+$",
      (mime.b64("id-token:" .. stub.id_token)) }
  end

  local function list_passwords()
    return { PASSWORD, (mime.b64(PASSWORD)), (mime.b64("admin:" .. PASSWORD)), (PASSWORD:gsub("%-", "%%2D")) }
  end

  for _, last in ipairs { "-v", "--json" } do
    it("by commands that fail, even if the cluster repeats it, with " .. last, function()
      stub:set { users = { admin = "other" } }
      for status, body in pairs {
        [200] = '{"token":"%s\\u0000%s"}', [400] = '{"error":"x","error_description":"%s %s"}',
        [401] = '{"errors":[{"code":"X","message":"Bearer %s %s"}]}', [500] = "<html>%s %s</html>",
      } do
        stub:reset()
        stub:plan { status = status, body = body:format(stub.id_token, PASSWORD), times = "forever" }
        local results = {
          { bed:run { "token", "a/b", "--timeout", "1", last, env = { ID_TOKEN = stub.id_token } } },
          { bed:run { "token", "a/b", "--timeout", "1", "-", last, stdin = stub.id_token } },
          { bed:run { "login", "-u", "admin", "--password-stdin", last, stdin = PASSWORD } },
          { bed:run { program = "docker-credential-icptoken", "store", stdin = cjson.encode {
            ServerURL = "registry.example.com", Username = "admin", Secret = PASSWORD },
            env = { ICPTOKEN_LOG = "1" } } },
        }
        for i, result in ipairs(results) do
          assert.is_not.equal(0, result[1])
          search(list_tokens(), result[2], result[3])
          -- the first two do not know the password, so they cannot hide it
          if i > 2 then search(list_passwords(), result[2], result[3]) end
        end
      end
    end)
  end

  it("by commands that succeed, except for requested results", function()
    local env = { ID_TOKEN = stub.id_token, XDG_RUNTIME_DIR = bed.home }
    for _, arguments in ipairs { { "token", "a", "-o", bed:path "token" },
      { "login", "--id-token-file", stub.id_token_file }, { "whoami" }, { "whoami", "--json" },
      { "docker-config", "registry.example.com" }, { "decode", stub.id_token_file },
      { "configure", "registry.example.com", "--dry-run" }, { "configure", "registry.example.com" },
      { "exec", "registry.example.com", "--", "env" }, { "logout" } } do
      arguments.env = { XDG_RUNTIME_DIR = env.XDG_RUNTIME_DIR }
      if arguments[1] ~= "exec" then arguments.env.ID_TOKEN = env.ID_TOKEN end
      local status, out, err = bed:run(arguments)
      assert.equal(0, status, arguments[1] .. err)
      search(list_tokens(), out, err)
    end
  end)
end)

describe("a cluster that does not answer", function()
  it("is reported on one line of the terminal, which is removed afterwards", function()
    stub:plan { delay = { before = 4 } }
    local terminal = pty.open()
    local words = bed:words("icptoken", "token", "a")
    words.env = bed:environment { ID_TOKEN = stub.id_token, TERM = "xterm", COLUMNS = "30" }
    words.stdout = bed:path "out"
    local pid = terminal:spawn(words)
    local shown = terminal:await "waiting for"
    assert.same({ "exited", 0 }, { testkit.waitpid(pid, 60) })
    assert.matches("^eyJ[%w_.-]+\n$", bed:read "out")
    terminal:type "\n"
    shown = shown .. terminal:await "\n"
    assert.matches("\r\27[K\r\n", shown, 1, true)
    assert.not_matches("\n.", shown)
    for line in shown:gmatch "\27%[K([^\r\n]*)" do assert.is_true(#line < 30, line) end
    terminal:close()
  end)

  it("is not reported without a terminal, or on a dumb one", function()
    stub:plan { delay = { before = 3 } }
    assert.same({ 0, "" }, { (function(status, _, err) return status, err end)(bed:run { "token", "a",
      env = { ID_TOKEN = stub.id_token, TERM = "xterm" } }) })
  end)

  it("is abandoned at Ctrl-C, at once and silently", function()
    stub:plan { delay = { before = 200 } }
    local process = bed:start { "token", "a", env = { ID_TOKEN = stub.id_token } }
    local deadline = testkit.monotonic() + 60
    repeat testkit.sleep(0.01) until #stub:requests() == 1 or testkit.monotonic() > deadline
    testkit.kill(process.pid, "INT")
    assert.same({ "killed 2", "", "" }, { bed:finish(process) })
  end)
end)

describe("a start is cheap:", function()
  local MEASUREMENTS = 8

  -- User and system time of a shell command, run many times.
  local function measure(text, input)
    local script = ("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do %s <%s >/dev/null; done; times")
      :format(text, input or "/dev/null")
    local env, assignments = bed:environment(), {}
    for name, value in pairs(env) do if value then assignments[#assignments + 1] = name .. "='" .. value .. "'" end end
    local quoted = script:gsub("'", [['\'']])
    local shown = command.shell(("env %s sh -c '%s'"):format(table.concat(assignments, " "), quoted))
    local total = 0
    for minutes, seconds in shown:match "[^\n]*\n([^\n]*)":gmatch "(%d+)m([%d.]+)s" do
      total = total + minutes * 60 + tonumber(seconds)
    end
    return total
  end

  -- Checks that a command takes less than some times as long as another one. A busy machine only adds to the time of
  -- each, so of each the shortest counts.
  local function assert_cheaper(times, command_words, other_words)
    local time, other_time = math.huge, math.huge
    for _ = 1, MEASUREMENTS do
      other_time = math.min(other_time, measure((table.unpack or unpack)(other_words)))
      time = math.min(time, measure((table.unpack or unpack)(command_words)))
      if time < times * other_time then return end
    end
    error(("%.2f s and %.2f s"):format(time, other_time), 2)
  end

  it("--version takes less than three times as long as the interpreter alone", function()
    local words = bed:words("icptoken", "--version")
    assert_cheaper(3, { table.concat(words, " ") }, { words[1] .. " -e \"\"" })
  end)

  it("a get with a session takes less than loading the module, with libcurl, would", function()
    bed:run { "login", "--id-token-file", stub.id_token_file }
    local words = bed:words("docker-credential-icptoken", "get")
    assert_cheaper(1, { table.concat(words, " "), bed:write("server", "registry.example.com") },
      { words[1] .. " -e \"require [[icptoken]]\"" })
  end)
end)
