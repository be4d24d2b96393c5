-- The program icptoken: help, version, exit statuses, messages, configuration, and that secrets are not arguments.

local cjson = require "cjson"
local command = require "support.command"
local icptoken = require "icptoken"
local testkit = require "testkit"

local JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln"

local stub, bed

setup(function() stub, bed = command.begin() end)
teardown(function() command.finish(stub, bed) end)
before_each(function() command.reset(stub, bed) end)

local function run(...)
  return bed:run { ... }
end

local function assert_no_traceback(text)
  assert.not_matches("stack traceback", text, 1, true)
  assert.not_matches("%.lua:%d+:", text)
end

describe("icptoken #short", function()
  it("shows a help that fits a screen and begins with examples", function()
    local status, out, err = run "--help"
    assert.same({ 0, "" }, { status, err })
    local lines, widest = 0, 0
    for line in out:gmatch "[^\n]*\n" do
      lines, widest = lines + 1, math.max(widest, #line - 1)
    end
    assert.is_true(lines <= 24, lines .. " lines")
    assert.is_true(widest <= 80, widest .. " columns")
    assert.matches("^[^\n]*\n\n  icptoken ", out)
    for _, row in ipairs(require "icptoken.cli".commands) do assert.matches("\n  " .. row[1] .. " ", out, 1, true) end
  end)

  it("shows it on standard error without arguments, and fails", function()
    local status, out, err = run()
    assert.same({ 2, "" }, { status, out })
    assert.matches("icptoken login", err, 1, true)
  end)

  it("shows a help for each command, which begins with examples", function()
    for _, row in ipairs(require "icptoken.cli".commands) do
      local status, out, err = run(row[1], "--help")
      assert.same({ 0, "" }, { status, err })
      assert.matches("^icptoken " .. row[1]:gsub("%-", "%%-") .. ": [^\n]*\n\n  [#i]", out)
      assert.same({ 0, out, "" }, { run("help", row[1]) })
    end
  end)

  it("shows the version of the module", function()
    assert.same({ 0, "icptoken " .. icptoken._VERSION .. "\n", "" }, { run "--version" })
    assert.equal("icptoken " .. icptoken._VERSION .. "\n", select(2, run("token", "--version")))
  end)

  it("loads neither libcurl nor luaposix for that", function()
    local env = { LUA_CPATH = "/nonexistent/?.so" }
    for _, argument in ipairs { "--version", "--help" } do
      assert.equal(0, (bed:run { argument, env = env }))
    end
  end)

  it("says what to install if a library is missing", function()
    local status, _, err = bed:run { "token", "--host", "a", env = { LUA_CPATH = "/nonexistent/?.so" } }
    assert.equal(1, status)
    assert.matches("luaposix", err, 1, true)
    assert.matches("lua-posix", err, 1, true)
    assert_no_traceback(err)
  end)

  for arguments, words in pairs {
    ["tokn"] = "Did you mean 'token'?", ["token --pusch"] = "Did you mean '--push'?", ["token --port x"] = "x",
    ["token --service"] = "--service", ["token --format xml"] = "--format", ["token --resolve x"] = "HOST:PORT:ADDRESS",
    ["token Default/app"] = "Default/app", ["token --push"] = "repository", ["token --scope x"] = "scope",
    ["token a/b --service x --no-service"] = "--no-service", ["login --password-stdin --host a"] = "-u USER",
    ["token one.example/a two.example/b"] = "two.example",
  } do
    it(("fails with 2 for %q and says what is wrong"):format(arguments), function()
      local list = {}
      for word in arguments:gmatch "%S+" do list[#list + 1] = word end
      local status, out, err = bed:run(list)
      assert.same({ 2, "" }, { status, out }, err)
      assert.matches("^icptoken: ", err)
      assert.matches(words, err, 1, true)
      assert_no_traceback(err)
    end)
  end

  for _, arguments in ipairs {
    { "token", "--id-token", JWT }, { "token", "--id-token=" .. JWT }, { "token", JWT }, { "token", "Bearer abc" },
    { "login", "--password", "pa55word" }, { "login", "-p", "pa55word" }, { "login", "-ppa55word" },
    { "login", "--password=pa55word" }, { "login", "-u", "admin:pa55word" }, { "login", "-uadmin:pa55word" },
    { "login", "--username=admin:pa55word" }, { "logout", "--token", "pa55word" },
  } do
    it("refuses the secret in: " .. table.concat(arguments, " "):sub(1, 30), function()
      for _, last in ipairs { "-v", "--json" } do
        arguments[#arguments + 1] = last
        local status, out, err = bed:run(arguments)
        assert.same({ 2, "" }, { status, out })
        assert.matches("visible to other users", err, 1, true)
        assert.not_matches("pa55word", err, 1, true)
        assert.not_matches("eyJ", err, 1, true)
        assert.is_true(err:find("stdin", 1, true) ~= nil or err:find("ID_TOKEN", 1, true) ~= nil)
        arguments[#arguments] = nil
      end
      assert.equal(0, #stub:requests())
    end)
  end

  it("writes failures as JSON with --json", function()
    local status, out, err = run("tokn", "--json")
    assert.same({ 2, "" }, { status, out })
    local problem = cjson.decode(err)
    assert.equal("usage", problem.code)
    assert.is_false(problem.retryable)
    assert.matches("Did you mean", problem.message, 1, true)
    stub:plan { status = 503, body = "{}", times = "forever" }
    status, out, err = bed:run { "token", "--json", "--timeout", "100", env = { ID_TOKEN = stub.id_token },
      command.flags(stub) }
    assert.same({ 75, "" }, { status, out })
    problem = cjson.decode(err)
    assert.equal("server_error", problem.code)
    assert.equal(503, problem.status)
    assert.is_true(problem.retryable)
  end)

  -- env resets what the process of the specs has inherited
  for state, how in pairs { default = "killed", ignore = "exited" } do
    it(("ends silently if its output has no reader, with SIGPIPE at %s"):format(state), function()
      -- a pipe whose only reader has gone
      local script = [[mkfifo "$0"; exec 3<>"$0" 4>"$0" 3<&-; exec "$@" >&4 4>&-]]
      local words = bed:words("icptoken", "--help")
      for i, word in ipairs {
        "env", "--" .. state .. "-signal=PIPE", "sh", "-c", script, bed:path "pipe",
      } do table.insert(words, i, word) end
      words.env, words.stdin, words.stdout, words.stderr = bed:environment(), "/dev/null", "/dev/null", bed:path "err"
      assert.same({ how, how == "killed" and 13 or 1 }, { testkit.waitpid(assert(testkit.spawn(words)), 60) })
      assert.equal("", bed:read "err")
    end)
  end

  it("says so if its output cannot be written", function()
    local words = bed:words("icptoken", "--help")
    words.env, words.stdin, words.stdout, words.stderr = bed:environment(), "/dev/null", "/dev/full", bed:path "err"
    local pid = assert(testkit.spawn(words))
    assert.same({ "exited", 1 }, { testkit.waitpid(pid, 60) })
    assert.equal("icptoken: cannot write to standard output: No space left on device\n", bed:read "err")
  end)
end)

describe("the configuration #short", function()
  for text, words in pairs {
    ["{"] = "JSON", [""] = "JSON", ["[]"] = "JSON", ["null"] = "JSON", ["1"] = "JSON", ['{"clusters":{}} x'] = "JSON",
    [("["):rep(100000)] = "JSON", [('{"a":'):rep(10000)] = "JSON",
    ['{"cluster":{}}'] = "unknown field 'cluster'; did you mean 'clusters'?",
    ['{"clusters":[1]}'] = "'clusters'", ['{"clusters":1}'] = "'clusters'", ['{"clusters":{"a":1}}'] = "clusters.a",
    ['{"clusters":{"a":{}}}'] = "'host'", ['{"clusters":{"a":{"hosst":"b"}}}'] =
      "'clusters.a.hosst'; did you mean 'host'?",
    ['{"clusters":{"a":{"host":1}}}'] = "'clusters.a.host' must be a string",
    ['{"clusters":{"a":{"host":"b","port":"8443"}}}'] = "'clusters.a.port' must be a whole number",
    ['{"clusters":{"a":{"host":"b","insecure":"no"}}}'] = "'clusters.a.insecure' must be true or false",
    ['{"clusters":{"a":{"host":"b","password":"pa55word"}}}'] =
      "'clusters.a.password' is not supported here: it is a secret",
    ['{"clusters":{"a":{"host":"b","id_token":"pa55word"}}}'] = "'clusters.a.id_token'",
    ['{"clusters":{"a\\u001b[2J":{"host":1}}}'] = "'clusters' has a name with control characters",
    ['{"registries":{"r":{"cluster":"b"}}}'] = "the cluster 'b'", ['{"registries":{"r":{}}}'] = "'cluster'",
    ['{"clusters":{"a":{"host":"b"}},"registries":{"r":{"cluster":"a","user":"x"}}}'] = "'registries.r.user'",
    ['{"clusters":{"a":{"host":"b"}},"registries":{"r":{"cluster":"a","gateway_user":1}}}'] = "gateway_user",
    ['{"credential_store":1}'] = "'credential_store'",
    ['{"clusters":{"a":{"host":"b"},"c":{"host":"d"}}}'] = "--cluster (a, c)",
    ["{}"] = "no cluster is known",
  } do
    it(("is refused as %.40s"):format(text:gsub("%c", "?")), function()
      bed:configure(text)
      local status, out, err = run "whoami"
      assert.same({ 2, "" }, { status, out }, err)
      assert.matches(words, err, 1, true)
      assert.matches("config.json", err, 1, true)
      assert.not_matches("pa55word", err, 1, true)
      assert.not_matches("[%z\1-\9\11-\31]", err)
      assert_no_traceback(err)
    end)
  end

  it("that is named must exist", function()
    local status, _, err = bed:run { "whoami", env = { ICPTOKEN_CONFIG = bed:path "missing" } }
    assert.equal(2, status)
    assert.matches("missing", err, 1, true)
  end)

  it("is found by $ICPTOKEN_CONFIG, $XDG_CONFIG_HOME and in the home directory", function()
    local text = command.configuration(stub)
    local env = { ID_TOKEN = stub.id_token }
    bed:configure(text)
    assert.equal(0, (bed:run { "token", env = env }))
    bed:clear()
    env.XDG_CONFIG_HOME = bed:path "xdg"
    bed:write("xdg/icptoken/config.json", text)
    assert.equal(0, (bed:run { "token", env = env }))
    env.XDG_CONFIG_HOME, env.ICPTOKEN_CONFIG = nil, bed:write("elsewhere.json", text)
    assert.equal(0, (bed:run { "token", env = env }))
  end)

  it("is found in /etc/icptoken where the user has none", function()
    if command.shell "id -u; unshare --mount true 2>&1" ~= "0\n" then return pending "this needs root" end
    local words = bed:words("icptoken", "whoami")
    local script = 'mount -t tmpfs none /etc && mkdir /etc/icptoken && cp "$0" /etc/icptoken/config.json && exec "$@"'
    for i, word in ipairs { "unshare", "--mount", "sh", "-c", script, bed:write("shared.json",
      '{"clusters":{"prod":{"host":"shared.icp"}}}') } do table.insert(words, i, word) end
    words.env, words.stdin, words.stdout, words.stderr = bed:environment(), "/dev/null", "/dev/null", bed:path "err"
    assert.same({ "exited", 1 }, { testkit.waitpid(assert(testkit.spawn(words)), 60) })
    assert.matches("nobody is logged in at shared.icp:8443", bed:read "err", 1, true)
    bed:configure '{"clusters":{"prod":{"host":"own.icp"}}}'
    assert.same({ "exited", 1 }, { testkit.waitpid(assert(testkit.spawn(words)), 60) })
    assert.matches("nobody is logged in at own.icp:8443", bed:read "err", 1, true)
  end)

  it("is overridden by the environment, and that by the command line", function()
    bed:configure('{"clusters":{"prod":{"host":"wrong.invalid","port":1,"cacert":"/nonexistent"}}}')
    local env = { ID_TOKEN = stub.id_token, ICPTOKEN_CLUSTER = "prod", ICPTOKEN_HOST = "localhost", ICPTOKEN_PORT = "2",
      ICPTOKEN_CACERT = stub.ca }
    local status = bed:run { "token", "--port", tostring(stub.port), env = env }
    assert.equal(0, status)
    env.ICPTOKEN_PORT = tostring(stub.port)
    assert.equal(0, (bed:run { "token", env = env }))
    env.ICPTOKEN_PORT = "many"
    local wrong, _, err = bed:run { "token", env = env }
    assert.equal(2, wrong)
    assert.matches("$ICPTOKEN_PORT must be a whole number", err, 1, true)
  end)

  it("names files relative to its own directory", function()
    local text = ('{"clusters":{"prod":{"host":"localhost","port":%d,"cacert":"ca.crt"}}}'):format(stub.port)
    bed:configure(text)
    command.shell(("cp '%s' '%s'"):format(stub.ca, bed:path ".config/icptoken/ca.crt"))
    assert.equal(0, (bed:run { "token", env = { ID_TOKEN = stub.id_token } }))
  end)

  it("does not apply to a host on the command line that is not in it", function()
    bed:configure('{"clusters":{"prod":{"host":"mycluster.icp","insecure":true}}}')
    local status, _, err = bed:run { "token", "--host", "localhost", "--port", tostring(stub.port),
      env = { ID_TOKEN = stub.id_token } }
    assert.equal(1, status)
    assert.matches("certificate", err, 1, true)
  end)

  it("may map hosts to addresses, and so may --resolve and $ICPTOKEN_RESOLVE", function()
    local text = '{"clusters":{"prod":{"host":"mycluster.icp","port":%d,"insecure":true%s}}}'
    bed:configure(text:format(stub.port, (',"resolve":{"mycluster.icp:%d":"127.0.0.1"}'):format(stub.port)))
    assert.equal(0, (bed:run { "token", env = { ID_TOKEN = stub.id_token } }))
    bed:configure(text:format(stub.port, ""))
    local address = ("mycluster.icp:%d:127.0.0.1"):format(stub.port)
    assert.equal(0, (bed:run { "token", "--resolve", address, env = { ID_TOKEN = stub.id_token } }))
    assert.equal(0, (bed:run { "token", env = { ID_TOKEN = stub.id_token, ICPTOKEN_RESOLVE = address } }))
  end)

  it("with a value that the module does not accept is reported as such", function()
    bed:configure('{"clusters":{"prod":{"host":"a b","timeout":-1}}}')
    local status, _, err = bed:run { "token", env = { ID_TOKEN = stub.id_token } }
    assert.equal(2, status)
    assert.matches("option '", err, 1, true)
    assert_no_traceback(err)
  end)
end)
