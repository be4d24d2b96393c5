-- docker-credential-icptoken: the protocol of docker's credential helpers, and its oddities.

local cjson = require "cjson"
local command = require "support.command"
local testkit = require "testkit"

local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
local NOT_FOUND = "credentials not found in native keychain\n"
local PASSWORD = "pa55 w0rd"

-- Keeps its input in the file that $STORE names, and its arguments in $STORE.calls.
local STORE = [[#!/bin/sh
echo "$1" >>"$STORE.calls"
case $1 in
  store) cat >"$STORE" ;;
  get) cat >/dev/null
    [ -e "$STORE" ] || { echo "credentials not found in native keychain"; exit 1; }
    cat "$STORE" ;;
  erase) cat >/dev/null; rm -f "$STORE" ;;
  list) echo '{"other.example":"joe"}' ;;
esac
]]

local stub, bed, session_file

setup(function()
  stub, bed = command.begin()
  session_file = (".local/state/icptoken/localhost_%d.json"):format(stub.port)
end)
teardown(function() command.finish(stub, bed) end)

local function configure(more)
  bed:configure(command.configuration(stub, ([[,"registries":{
    "registry.example.com":{"cluster":"prod","gateway_user":"id-token"%s},
    "other.example:5000":{"cluster":"prod","gateway_user":"id-token"},
    "mycluster.icp:8500":{"cluster":"prod"}}]]):format(more or "")))
end

before_each(function()
  command.reset(stub, bed)
  stub:set { users = { admin = PASSWORD } }
  configure()
end)

local function environment()
  return { STORE = bed:path "store", PATH = bed:path "bin" .. ":" .. os.getenv "PATH" }
end

local function install_store()
  bed:write("bin/docker-credential-spec", STORE, "755")
end

local function call(action, input, env)
  local all = environment()
  for name, value in pairs(env or {}) do all[name] = value end
  return bed:run { program = "docker-credential-icptoken", stdin = input, env = all, action }
end

local function store(server, username, secret)
  return call("store", cjson.encode { ServerURL = server, Username = username or "admin", Secret = secret or PASSWORD })
end

local function assert_not_found(server)
  assert.same({ 1, NOT_FOUND, "" }, { call("get", server) })
end

local function count_logins()
  return stub:count(LOGIN_PATH)
end

describe("docker-credential-icptoken #short", function()
  it("makes a session of a password, and returns its ID token from then on", function()
    assert_not_found "registry.example.com"
    assert.same({ 0, "", "" }, { store "registry.example.com" })
    local status, out, err = call("get", "registry.example.com")
    assert.same({ 0, "" }, { status, err })
    local got = cjson.decode(out)
    assert.equal("registry.example.com", got.ServerURL)
    assert.equal("id-token", got.Username)
    assert.matches("^eyJ", got.Secret)
    assert.equal(1, count_logins())
    assert.not_matches("pa55", command.shell("cat $(find '" .. bed.home .. "' -type f)"), 1, true)
    -- the session is the cluster's, so the other registries of the cluster and icptoken itself use it
    assert.equal(0, (call("get", "other.example:5000")))
    assert.equal(0, (bed:run { "whoami" }))
  end)

  for server, written in pairs {
    ["https://registry.example.com"] = "registry.example.com", ["http://registry.example.com"] = "registry.example.com",
    ["https://registry.example.com/v1/"] = "registry.example.com",
    ["registry.example.com/v2/"] = "registry.example.com",
    ["Registry.Example.COM"] = "registry.example.com", ["registry.example.com:443"] = "registry.example.com",
    ["  registry.example.com\r\n"] = "registry.example.com", ["https://other.example:5000/a/b"] = "other.example:5000",
  } do
    it(("finds the registry for %q"):format(server), function()
      store(written)
      local status, out = call("get", server)
      assert.equal(0, status)
      assert.equal(server:match "^%s*(.-)%s*$", cjson.decode(out).ServerURL)
    end)
  end

  for _, server in ipairs { "example.com", "registry.example.com:5000", "other.example", "https://index.docker.io/v1/",
    "registry.example.com.evil.example", "evil.example/registry.example.com",
    "mycluster.icp:8500", "x@registry.example.com" } do
    it("has nothing for " .. server, function()
      store "registry.example.com"
      assert_not_found(server)
    end)
  end

  it("accepts an ID token with the gateway's user name", function()
    assert.equal(0, (store("registry.example.com", "id-token", stub.id_token)))
    assert.equal(0, count_logins())
    assert.equal(stub.id_token, cjson.decode((select(2, call("get", "registry.example.com")))).Secret)
  end)

  it("refuses a wrong password on standard output, and keeps nothing", function()
    local status, out, err = store("registry.example.com", "admin", "wr0ng")
    assert.same({ 1, "" }, { status, err })
    assert.matches("401", out, 1, true)
    assert.not_matches("wr0ng", out, 1, true)
    assert.equal(1, select(2, out:gsub("\n", "")))
    assert_not_found "registry.example.com"
  end)

  it("refuses a password for a registry without the gateway, and says why", function()
    local status, out, err = store "mycluster.icp:8500"
    assert.same({ 1, "" }, { status, err })
    assert.matches("credential_store", out, 1, true)
    assert.matches("config.json", out, 1, true)
    assert.equal(0, #stub:requests())
  end)

  it("erases the session, and has nothing then", function()
    store "registry.example.com"
    assert.same({ 0, "", "" }, { call("erase", "https://registry.example.com") })
    assert_not_found "registry.example.com"
    assert.equal(0, (call("erase", "registry.example.com")))
    assert.equal(0, (call("erase", "unknown.example")))
  end)

  it("lists the registries of its sessions", function()
    assert.same({ 0, "{}\n", "" }, { call "list" })
    store "registry.example.com"
    local status, out = call "list"
    assert.equal(0, status)
    assert.same({ ["registry.example.com"] = "id-token", ["other.example:5000"] = "id-token" }, cjson.decode(out))
  end)

  it("prints its version, and its usage for anything else", function()
    for _, action in ipairs { "version", "--version", "-v" } do
      local status, out, err = call(action)
      assert.same({ 0, "" }, { status, err })
      assert.matches("^docker%-credential%-icptoken .*1%.%d+%.%d+\n$", out)
    end
    local status, out, err = call "gett"
    assert.same({ 1, "" }, { status, err })
    assert.matches("^Usage: docker%-credential%-icptoken ", out)
    assert.equal(1, (bed:run { program = "docker-credential-icptoken" }))
  end)

  it("has nothing once the session has expired", function()
    stub:set { id_token_expires_in = 30 }
    store "registry.example.com"
    assert_not_found "registry.example.com"
  end)

  for _, input in ipairs { "", "\n", "a\nb", "a\0b", "\27[2J", ("a"):rep(2 * 1024 * 1024) } do
    it(("refuses the server %q"):format(input:sub(1, 20)):gsub("%c", "?"), function()
      for _, action in ipairs { "get", "erase" } do
        local status, out, err = call(action, input)
        assert.same({ 1, "" }, { status, err })
        assert.not_matches("%.lua:", out)
        assert.not_matches("[%z\1-\9\11-\31]", out)
        assert.equal(1, select(2, out:gsub("\n", "")))
      end
    end)
  end

  for _, input in ipairs { "", "{", "[]", "null", "{}", '{"ServerURL":"registry.example.com"}', ("["):rep(100000),
    '{"ServerURL":"registry.example.com","Username":"admin","Secret":""}',
    '{"ServerURL":1,"Username":"admin","Secret":"x"}', '{"ServerURL":"registry.example.com","Secret":"pa55"}' } do
    it(("refuses to store %.40s"):format(input), function()
      local status, out, err = call("store", input)
      assert.same({ 1, "" }, { status, err })
      assert.not_matches("%.lua:", out)
      assert.not_matches("pa55", out, 1, true)
      assert.equal(0, #stub:requests())
    end)
  end

  it("reports a wrong configuration and a refused session on standard output", function()
    store "registry.example.com"
    command.shell(("chmod 644 '%s'"):format(bed:path(session_file)))
    local status, out, err = call("get", "registry.example.com")
    assert.same({ 1, "" }, { status, err })
    assert.matches("0644", out, 1, true)
    bed:configure "{"
    status, out, err = call("get", "registry.example.com")
    assert.same({ 1, "" }, { status, err })
    assert.matches("JSON", out, 1, true)
  end)

  it("prints nothing on standard error by default", function()
    local status, out, err = call("get", "registry.example.com", { ICPTOKEN_LOG = "1" })
    assert.same({ 1, NOT_FOUND }, { status, out })
    assert.matches("nobody is logged in", err, 1, true)
  end)

  it("does not load libcurl if there is a session", function()
    store "registry.example.com"
    local probe = bed:write("probe.lua", [[
      local main = require("icptoken.cli.helper").main
      local status = main { "get" }
      local maps = io.open("/proc/self/maps"):read "*a"
      io.stderr:write(tostring(maps:find "libcurl" ~= nil), " ", tostring(package.loaded.icptoken ~= nil))
      os.exit(status)
    ]])
    local words = bed:words("icptoken")
    words[2] = probe
    words.env = bed:environment()
    words.stdin, words.stdout, words.stderr = bed:write("in", "registry.example.com"), bed:path "out", bed:path "err"
    local pid = assert(testkit.spawn(words))
    assert.same({ "exited", 0 }, { testkit.waitpid(pid, 60) })
    assert.matches("eyJ", bed:read "out", 1, true)
    assert.equal("false false", bed:read "err")
  end)
end)

describe("docker's own library for helpers #deep", function()
  local SOURCE = "github.com/docker/docker-credential-helpers/client"
  local client = "build/go/helper_client"

  -- Returns the exit status and what was printed.
  local function ask(arguments, secret)
    local words = { client, (table.unpack or unpack)(arguments) }
    words.env = bed:environment(environment())
    words.stdin, words.stdout = bed:write("in", secret or ""), bed:path "out"
    words.stderr = words.stdout
    os.remove(words.stdout)
    local how, status = testkit.waitpid(assert(testkit.spawn(words)), 60)
    assert.equal("exited", how)
    return status, bed:read "out"
  end

  it("stores, gets, lists and erases", function()
    if command.shell("scripts/build-go --can-build " .. SOURCE .. " && echo yes") ~= "yes\n" then
      if command.shell "apt-cache policy golang-github-docker-docker-credential-helpers-dev 2>/dev/null" ~= "" then
        error("the library is not installed; scripts/setup test-deep installs it", 0)
      end
      return pending "the library is not packaged in this release"
    end
    assert.equal("", command.shell(("scripts/build-go %s spec/support/helper_client.go 2>&1"):format(client)))
    local words = bed:words "docker-credential-icptoken"
    bed:write("bin/docker-credential-icptoken", ("#!/bin/sh\nexec '%s' '%s' \"$@\"\n"):format(words[1], words[2]),
      "755")
    local server = "https://registry.example.com/v1/"
    assert.equal(3, (ask { "get", server }))
    assert.same({ 0, "{}\n" }, { ask { "list" } })
    local status, out = ask({ "store", server, "admin" }, "wr0ng")
    assert.equal(1, status)
    assert.matches("401", out, 1, true)
    assert.not_matches("wr0ng", out, 1, true)
    assert.same({ 0, "null\n" }, { ask({ "store", server, "admin" }, PASSWORD) })
    status, out = ask { "get", server }
    assert.equal(0, status, out)
    local got = cjson.decode(out)
    assert.same({ server, "id-token" }, { got.ServerURL, got.Username })
    assert.matches("^eyJ", got.Secret)
    status, out = ask { "list" }
    assert.equal(0, status)
    assert.same({ ["registry.example.com"] = "id-token", ["other.example:5000"] = "id-token" }, cjson.decode(out))
    assert.equal(0, (ask { "erase", server }))
    assert.equal(3, (ask { "get", server }))
    -- any other failure is none of "not found"
    bed:configure "{"
    status, out = ask { "get", server }
    assert.equal(1, status)
    assert.matches("JSON", out, 1, true)
  end)
end)

describe("a registry without the gateway", function()
  before_each(function()
    install_store()
    bed:configure(command.configuration(stub, [[,"credential_store":"docker-credential-spec",
      "registries":{"mycluster.icp:8500":{"cluster":"prod"}}]]))
  end)

  it("has its password in another helper", function()
    assert.same({ 1, NOT_FOUND, "" }, { call("get", "mycluster.icp:8500") })
    assert.equal(0, (store "mycluster.icp:8500"))
    local status, out = call("get", "mycluster.icp:8500")
    assert.equal(0, status)
    assert.equal(PASSWORD, cjson.decode(out).Secret)
    assert.same({ ["other.example"] = "joe" }, cjson.decode((select(2, call "list"))))
    assert.equal(0, (call("erase", "mycluster.icp:8500")))
    assert_not_found "mycluster.icp:8500"
    assert.equal("get\nstore\nget\nlist\nerase\nget\n", bed:read "store.calls")
    assert.equal(0, #stub:requests())
  end)

  it("says so if that one is not installed, or is icptoken itself", function()
    for _, name in ipairs { "docker-credential-missing", "missing", "icptoken", "docker-credential-icptoken" } do
      bed:configure(command.configuration(stub, ([[,"credential_store":"%s",
        "registries":{"mycluster.icp:8500":{"cluster":"prod"}}]]):format(name)))
      local status, out, err = call("get", "mycluster.icp:8500")
      assert.same({ 1, "" }, { status, err })
      assert.matches(name:match "%w+$", out, 1, true)
    end
  end)
end)

describe("a registry behind the gateway, with another helper for its password", function()
  before_each(function()
    install_store()
    configure ',"credential_store":"spec"'
    store "registry.example.com"
    -- the session has expired
    local content = cjson.decode(bed:read(session_file))
    content.expires_at = os.time() - 10
    bed:write(session_file, cjson.encode(content), "600")
    stub:reset()
    stub:set { users = { admin = PASSWORD } }
  end)

  it("is logged in again, once for all simultaneous calls", function()
    local processes = {}
    for i = 1, 16 do
      processes[i] = bed:start { program = "docker-credential-icptoken", "get", stdin = "registry.example.com",
        env = environment() }
    end
    local secrets = {}
    for i = 1, 16 do
      local status, out = bed:finish(processes[i])
      assert.equal(0, status)
      secrets[cjson.decode(out).Secret] = true
    end
    assert.equal(1, count_logins())
    assert.is_nil(next(secrets, next(secrets)))
  end)

  it("does not get a refused password again", function()
    stub:set { users = { admin = "changed" } }
    local status, out = call("get", "registry.example.com")
    assert.equal(1, status)
    assert.matches("401", out, 1, true)
    assert_not_found "registry.example.com"
    assert.equal(1, count_logins())
  end)
end)
