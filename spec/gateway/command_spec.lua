-- Clients of registries with icptoken as their credential helper: they log in, push and pull through the gateway to a
-- real registry, and none of their files contains a password or an ID token afterwards.

package.path = "examples/nginx/?.lua;" .. package.path

local cjson = require "cjson"
local command = require "support.command"
local gateway = require "support.gateway"
local gateway_bed = require "support.gateway_bed"
local image = require "image"
local registry_server = require "support.registry"
local stub_client = require "stub.client"

local PASSWORD = "pa55w0rd"

describe("with icptoken as credential helper,", function()
  local stub, registry, gate, bed, address, bin

  -- Runs a shell command as the user. Returns its exit status and what it printed.
  local function run(text, changes)
    local assignments = {}
    local env = bed:environment { PATH = bin .. ":" .. os.getenv "PATH", XDG_RUNTIME_DIR = bed:path "run",
      TMPDIR = bed.home }
    for name, value in pairs(changes or {}) do env[name] = value end
    for name, value in pairs(env) do
      assignments[#assignments + 1] = value and ("export %s='%s'"):format(name, value) or "unset " .. name
    end
    local script = table.concat(assignments, "; ") .. "; cd '" .. bed.home .. "'; " .. text:gsub("ADDRESS", address)
    local output = command.shell("(" .. script .. "\n) 2>&1; echo \"status $?\"")
    return tonumber(output:match "status (%d+)\n$"), output
  end

  local function succeed(...)
    local status, output = run(...)
    assert.equal(0, status, output)
    return output
  end

  -- The clients find the helper by its name; this wrapper runs it on the runtime of the specs.
  local function install_helper()
    bin = bed:path "bin"
    for _, program in ipairs { "docker-credential-icptoken", "icptoken" } do
      local words = bed:words(program)
      bed:write("bin/" .. program, ("#!/bin/sh\nexec '%s' '%s' \"$@\"\n"):format(words[1], words[2]), "755")
    end
  end

  setup(function()
    stub = stub_client.start()
    stub:set { users = { admin = PASSWORD } }
    registry = registry_server.start { service = "token-service", certificate = stub.token_signing_cert,
      realm = "https://mycluster.icp:8443/token" }
    gate = gateway.start { stub = stub, upstream = { port = tonumber(registry.address:match "%d+$") },
      gateway = { token_user = "id-token" } }
    address = "127.0.0.1:" .. gate.port
    bed = command.open()
    install_helper()
    bed:write("image/.keep", "")
    image.write(bed:path "image", 10000)
  end)

  teardown(function()
    if gate then gate:stop() end
    if registry then registry.stop() end
    if stub then stub:stop() end
    if bed then bed:close() end
  end)

  before_each(function()
    os.execute(("cd '%s' && rm -rf .docker .config .local run && mkdir run"):format(bed.home))
    bed:configure(command.configuration(stub))
    succeed "icptoken configure ADDRESS --cluster prod --gateway-user id-token"
  end)

  local function assert_no_secret()
    local all = command.shell(("cd '%s' && cat $(find .docker .config run -type f)"):format(bed.home))
    assert.not_matches(PASSWORD, all, 1, true)
    assert.not_matches("eyJ", all, 1, true)
    assert.not_matches("ZXlK", all, 1, true)
    assert.not_matches((require "mime".b64("admin:" .. PASSWORD)), all, 1, true)
    return all
  end

  local function push_and_pull()
    succeed "skopeo copy --dest-tls-verify=false dir:image docker://ADDRESS/default/app:1"
    assert.matches('"Name": "' .. address .. '/default/app"',
      succeed "skopeo inspect --tls-verify=false docker://ADDRESS/default/app:1", 1, true)
  end

  it("skopeo logs in, pushes, pulls and logs out", function()
    assert.is_not.equal(0, (run "skopeo inspect --tls-verify=false docker://ADDRESS/default/app:1"))
    succeed("skopeo login --tls-verify=false -u admin --password-stdin ADDRESS <<END\n" .. PASSWORD .. "\nEND")
    push_and_pull()
    assert.matches("icptoken", assert_no_secret(), 1, true)
    succeed "icptoken whoami"
    succeed "skopeo logout ADDRESS"
    assert.equal(1, (run "icptoken whoami"))
    assert.is_not.equal(0, (run "skopeo inspect --tls-verify=false docker://ADDRESS/default/app:1"))
  end)

  it("a login of icptoken is enough", function()
    succeed("icptoken login -u admin --password-stdin <<END\n" .. PASSWORD .. "\nEND")
    push_and_pull()
    assert_no_secret()
  end)

  it("exec logs in a client that does not support helpers", function()
    os.execute(("cd '%s' && rm -rf .docker .config/containers run && mkdir run"):format(bed.home))
    local before = assert(bed:read ".config/icptoken/config.json")
    assert.is_table(cjson.decode(before).registries[address])
    succeed("icptoken exec ADDRESS -- skopeo copy --dest-tls-verify=false dir:image docker://ADDRESS/default/app:2",
      { ID_TOKEN = stub.id_token })
    gateway_bed.await("the end of the files", function() return command.shell("ls " .. bed:path "run") == "" end)
    os.execute("mkdir -p " .. bed:path ".docker")
    assert_no_secret()
  end)
end)
