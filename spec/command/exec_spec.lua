-- icptoken exec, docker-config and decode.

local cjson = require "cjson"
local command = require "support.command"
local files = require "support.files"
local testkit = require "testkit"

local REGISTRY = "registry.example.com"

local stub, bed

setup(function() stub, bed = command.begin() end)
teardown(function() command.finish(stub, bed) end)
before_each(function()
  command.reset(stub, bed, [[,"registries":{
    "registry.example.com":{"cluster":"prod","gateway_user":"id-token"},"mycluster.icp:8500":{"cluster":"prod"}}]])
  bed:write("run/.keep", "", "600")
end)

local function environment()
  return { ID_TOKEN = stub.id_token, XDG_RUNTIME_DIR = bed:path "run" }
end

local function list_left()
  return command.shell(("ls '%s'"):format(bed:path "run"))
end

-- Another process removes the directory, as soon as it notices that the command has exited.
local function await_gone()
  local deadline = testkit.monotonic() + 60
  while list_left() ~= "" do
    assert.is_true(testkit.monotonic() < deadline, list_left())
    testkit.sleep(0.01)
  end
end

local function await_file(name)
  local deadline = testkit.monotonic() + 60
  while not (bed:read(name) or ""):find "\n" do
    assert.is_true(testkit.monotonic() < deadline, name)
    testkit.sleep(0.01)
  end
  return bed:read(name)
end

local function exec(script, ...)
  return bed:run { "exec", REGISTRY, "--", "sh", "-c", script, "sh", env = environment(), ... }
end

describe("icptoken exec", function()
  it("runs a command with files that log it in, and removes them #short", function()
    local status, out, err = exec [[cat "$DOCKER_CONFIG/config.json" "$REGISTRY_AUTH_FILE"
      stat -c %a "$DOCKER_CONFIG/.." "$DOCKER_CONFIG" "$DOCKER_CONFIG/config.json" "$REGISTRY_AUTH_FILE"]]
    assert.same({ 0, "" }, { status, err })
    assert.matches("700\n700\n600\n600\n$", out)
    local auth = out:match '"auth": "([%w+/=]+)"'
    assert.equal("id-token:" .. stub.id_token, (require "mime".unb64(auth)))
    await_gone()
  end)

  it("has no secret among arguments and variables #short", function()
    local env = environment()
    env.ID_TOKEN = nil
    local status, out = bed:run { "exec", REGISTRY, "--id-token-file", stub.id_token_file, "--", "sh", "-c",
      "cat /proc/$$/cmdline /proc/$$/environ", env = env }
    assert.equal(0, status)
    assert.matches("DOCKER_CONFIG=", out, 1, true)
    assert.not_matches("eyJ", out, 1, true)
    assert.not_matches("ZXlK", out, 1, true)
  end)

  it("keeps the other content of docker's files and directory", function()
    bed:write(".docker/config.json", '{"auths":{"a.example":{"auth":"eA=="}},"currentContext":"x","credHelpers":'
      .. '{"registry.example.com":"icptoken","gcr.io":"gcloud"}}')
    bed:write(".docker/contexts/meta", "context")
    local status, out = exec [[cat "$DOCKER_CONFIG/config.json"; echo; cat "$DOCKER_CONFIG/contexts/meta"]]
    assert.equal(0, status)
    local config = cjson.decode(out:match "^[^\n]*")
    assert.equal("eA==", config.auths["a.example"].auth)
    assert.is_string(config.auths[REGISTRY].auth)
    assert.equal("x", config.currentContext)
    assert.same({ ["gcr.io"] = "gcloud" }, config.credHelpers)
    assert.matches("context$", out)
    await_gone()
    assert.equal("context", bed:read ".docker/contexts/meta")
  end)

  it("exits with the status of the command", function()
    assert.equal(7, (exec "exit 7"))
    assert.equal("killed 15", (exec "kill -TERM $$"))
    assert.equal(127, (bed:run { "exec", REGISTRY, "--", "no-such-program", env = environment() }))
    assert.equal(126, (bed:run { "exec", REGISTRY, "--", "/etc/passwd", env = environment() }))
    await_gone()
  end)

  it("passes arguments and standard input on", function()
    local status, out = bed:run { "exec", REGISTRY, "--", "sh", "-c", 'printf "%s|" "$@"; cat', "sh", "--help", "-v",
      "a b", "--password", "", env = environment(), stdin = "input" }
    assert.equal(0, status)
    assert.equal("--help|-v|a b|--password||input", out)
  end)

  for name, number in pairs { KILL = 9, TERM = 15, INT = 2, HUP = 1 } do
    it(("passes SIG%s on, and leaves nothing"):format(name), function()
      local process = bed:start { "exec", REGISTRY, "--", "sh", "-c", 'echo "$DOCKER_CONFIG" >"$0"; exec sleep 1000',
        bed:path "started", env = environment() }
      local path = await_file "started":match "[^\n]+"
      assert.is_string(files.read(path .. "/config.json"))
      testkit.kill(process.pid, name)
      assert.equal("killed " .. number, (bed:finish(process)))
      await_gone()
    end)
  end

  -- The process that removes the files leaves the group late, as on a busy machine.
  it("leaves nothing if all processes of its group are killed", function()
    local slow = [[local unistd = require "posix.unistd"
      local leave = unistd.setpid
      unistd.setpid = function(...)
        require "posix.time".nanosleep { tv_sec = 1, tv_nsec = 0 }
        return leave(...)
      end]]
    local words = bed:words("icptoken", "exec", REGISTRY, "--", "sh", "-c", 'echo started >"$0"; sleep 1000',
      bed:path "started")
    table.insert(words, 1, "setsid")
    words.env, words.stdin, words.stdout, words.stderr = bed:environment(environment()), "/dev/null", "/dev/null",
      "/dev/null"
    words.env.LUA_INIT = slow
    local pid = assert(testkit.spawn(words))
    await_file "started"
    command.shell(("kill -KILL -%d"):format(pid))
    testkit.waitpid(pid)
    await_gone()
  end)

  it("does not run the command if nothing would remove the files", function()
    local env = environment()
    env.LUA_INIT = [[local unistd = require "posix.unistd"
      local leave = unistd.setpid
      unistd.setpid = function(...)
        unistd.fork = function() return nil, "fork: Resource temporarily unavailable", 11 end
        return leave(...)
      end]]
    local status, out, err = bed:run { "exec", REGISTRY, "--", "echo", "ran", env = env }
    assert.same({ 1, "" }, { status, out })
    assert.matches("cannot start a process that removes ", err, 1, true)
    assert.equal("", list_left())
  end)

  it("keeps the files while a command runs that closes all descriptors", function()
    local status, out = exec [[for i in 3 4 5 6 7 8 9; do eval "exec $i>&-"; done
      sleep 1; test -e "$DOCKER_CONFIG/config.json" && echo there]]
    assert.same({ 0, "there\n" }, { status, out })
    await_gone()
  end)

  it("does not keep a pipe open after the command has exited", function()
    local words = {}
    for i, word in ipairs(bed:words("icptoken", "exec", REGISTRY, "--", "true")) do words[i] = "'" .. word .. "'" end
    local env = bed:environment(environment())
    local assignments = {}
    for name, value in pairs(env) do if value then assignments[#assignments + 1] = name .. "='" .. value .. "'" end end
    local line = ("env %s %s | cat"):format(table.concat(assignments, " "), table.concat(words, " "))
    assert.equal("", command.shell(line))
    await_gone()
  end)

  it("says what to do if it has no credential for the registry", function()
    for _, registry in ipairs { "mycluster.icp:8500", "unknown.example" } do
      local status, out, err = bed:run { "exec", registry, "--", "true", env = environment() }
      assert.same({ 2, "" }, { status, out })
      assert.matches("icptoken configure " .. registry, err, 1, true)
    end
    assert.equal(2, (bed:run { "exec", REGISTRY, env = environment() }))
  end)
end)

describe("icptoken docker-config", function()
  local function write(...)
    return bed:run { "docker-config", "mycluster.icp:8500", env = environment(), ... }
  end

  it("puts a token into docker's file, and says for which registry and until when #short", function()
    bed:write(".docker/config.json", '{"a":1,"auths":{"mycluster.icp:8500":{"email":"x"},"b":{"auth":"eA=="}}}', "600")
    local status, out, err = write("--scope", "repository:default/app:pull")
    assert.same({ 0, "" }, { status, err })
    for _, words in ipairs { "docker", "crane", "skopeo", " UTC (in ", "repository:default/app:pull" } do
      assert.matches(words, out, 1, true)
    end
    assert.not_matches("eyJ", out, 1, true)
    local text = bed:read ".docker/config.json"
    assert.matches('^{"a":1,"auths":{"mycluster.icp:8500":{"email":"x","registrytoken":"eyJ[%w_.-]+"},'
      .. '"b":{"auth":"eA=="}}}$', text)
    assert.equal(0, (write("--scope", "repository:other:pull")))
    assert.not_equal(text, bed:read ".docker/config.json")
    assert.equal(0, (write "--remove"))
    assert.equal('{"a":1,"auths":{"mycluster.icp:8500":{"email":"x"},"b":{"auth":"eA=="}}}',
      bed:read ".docker/config.json")
  end)

  it("removes the entry that it made", function()
    bed:write(".docker/config.json", '{"auths":{}}')
    assert.equal(0, (write()))
    assert.equal(0, (write "--remove"))
    assert.equal('{"auths":{}}', bed:read ".docker/config.json")
    assert.matches("there was no token", (select(2, write "--remove")), 1, true)
  end)

  it("requests no token for a file that it cannot edit", function()
    bed:write(".docker/config.json", "{")
    assert.equal(1, (write()))
    assert.equal(0, #stub:requests())
  end)
end)

describe("icptoken decode #short", function()
  local function decode(input, ...)
    return bed:run { "decode", stdin = input, ... }
  end

  it("shows header, claims and times, and that nothing was verified", function()
    local status, out, err = decode(stub.id_token .. "\n")
    assert.same({ 0, "" }, { status, err })
    for _, words in ipairs { '"alg": "RS256"', '"sub": "admin"', "expires     20", "UTC (in 11 h)", "not verified" } do
      assert.matches(words, out, 1, true)
    end
  end)

  it("accepts a file, a header, an answer of the endpoint, and the output of cloudctl", function()
    local path = bed:write("token", stub.id_token)
    local expected = select(2, bed:run { "decode", path }):gsub("%(.-%)", "")
    for _, input in ipairs { "Bearer " .. stub.id_token, "Authorization: Bearer " .. stub.id_token,
      "ID token:       " .. stub.id_token, cjson.encode { token = stub.id_token, expires_in = 5 } } do
      assert.equal(expected, (select(2, decode(input)):gsub("%(.-%)", "")))
      assert.equal(expected, (select(2, decode(input, "-")):gsub("%(.-%)", "")))
    end
  end)

  it("does not change order, numbers and empty lists", function()
    local mime = require "mime"
    local claims = '{"z":1,"access":[],"n":12345678901234567890,"a":{},"b":null,"iat":5,"exp":5}'
    local jwt = "e30." .. (mime.b64(claims):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" })) .. "."
    local status, out = decode(jwt)
    assert.equal(0, status)
    assert.matches('{\n  "z": 1,\n  "access": [],\n  "n": 12345678901234567890,\n  "a": {},\n  "b": null,', out, 1,
      true)
    assert.matches("does not say when it expires", out, 1, true)
    status, out = decode(jwt, "--json")
    assert.equal(0, status)
    assert.equal('{"header":{},"claims":' .. claims .. ',"verified":false}\n', out)
  end)

  for _, input in ipairs { "", "x", "a.b.c", "e30.e30", "e30.e3.", "....", "e30.bnVsbA.", "\0", "e30.e30.\27[2J",
    ("e30."):rep(30000) } do
    it(("says that this is not a JWT: %q"):format(input:sub(1, 20)):gsub("%c", "?"), function()
      local status, out, err = decode(input)
      assert.same({ 1, "" }, { status, out })
      assert.not_matches("%.lua:", err)
      assert.not_matches("[%z\1-\9\11-\31]", err)
    end)
  end
end)
