-- Clients of containerd, with ctr, through the gateway to a real registry: a mount that is not granted ends in an
-- upload, a denial ends the command. Needs root, containerd and skopeo; #deep, as containerd is not what a contributor
-- has.

package.path = "examples/nginx/?.lua;" .. package.path

local files = require "support.files"
local gateway = require "support.gateway"
local gateway_bed = require "support.gateway_bed"
local image = require "image"
local load = require "support.load"
local registry_server = require "support.registry"
local stub_client = require "support.stub"
local testkit = require "testkit"

local SECONDS = 60
local CONFIGURATION = [[
version = 2
root = "%s/root"
state = "%s/state"
[grpc]
address = "%s/socket"
]]

describe("containerd's client #deep", function()
  local directory, stub, registry, containerd
  local gates = {}

  -- Runs a program. Returns whether it ended well, and what it printed.
  local function run(...)
    local output = directory .. "/output"
    local arguments = { ... }
    arguments.stdin, arguments.stdout, arguments.stderr = "/dev/null", output, output
    local pid = assert(testkit.spawn(arguments))
    local how, status = testkit.waitpid(pid, SECONDS)
    if how == "running" then
      testkit.kill(pid, "KILL")
      testkit.waitpid(pid)
    end
    return how == "exited" and status == 0, files.read(output)
  end

  local function ctr(...)
    return run("ctr", "-a", directory .. "/socket", "images", ...)
  end

  setup(function()
    local process = assert(io.popen "mktemp -d")
    directory = process:read "*l"
    process:close()
    os.execute(("mkdir '%s/image'"):format(directory))
    image.write(directory .. "/image", 100000)
    files.write(directory .. "/containerd.toml", CONFIGURATION:format(directory, directory, directory))
    files.write(directory .. "/auth.json", "{}")
    containerd = assert(testkit.spawn { "containerd", "-c", directory .. "/containerd.toml", stdin = "/dev/null",
      stdout = directory .. "/log", stderr = directory .. "/log", death_signal = "KILL" })
    stub = stub_client.start()
    registry = registry_server.start { service = "token-service", certificate = stub.token_signing_cert,
      realm = "https://mycluster.icp:8443/token" }
    for name, options in pairs { basic = {},
      bearer = { challenge = "bearer", realm = "http://127.0.0.1:@PORT@/login" } } do
      gates[name] = gateway.start { stub = stub, upstream = { port = tonumber(registry.address:match "%d+$") },
        gateway = options, locations = "location = /login { content_by_lua_block { gateway:login() } }" }
    end
    gateway_bed.await("containerd", function() return (ctr("ls")) end)
  end)

  teardown(function()
    for _, gate in pairs(gates) do gate:stop() end
    if registry then registry.stop() end
    if stub then stub:stop() end
    if containerd then
      testkit.kill(containerd, "TERM")
      testkit.waitpid(containerd, SECONDS)
    end
    os.execute("rm -rf '" .. directory .. "'")
  end)

  for name in pairs { basic = true, bearer = true } do
    for _, denial in ipairs { "403", "less" } do
      describe(("with challenge = %s, where the cluster denies with %s,"):format(name, denial), function()
        local prefix, port
        local place = name .. "-" .. denial

        local function push(repository, password)
          return ctr("push", "--plain-http", "-u", "admin:" .. (password or "admin"), prefix .. repository .. ":1")
        end

        before_each(function()
          port = gates[name].port
          prefix = ("127.0.0.1:%d/%s/"):format(port, place)
          stub:reset()
          load.request(port, { target = "/empty" })
          assert(run("skopeo", "copy", "--dest-creds", "admin:admin", "--dest-tls-verify=false",
            "dir:" .. directory .. "/image", "docker://" .. prefix .. "secret:1"))
          local ok, output = ctr("pull", "--plain-http", "--platform", "linux/amd64", "-u", "admin:admin",
            prefix .. "secret:1")
          assert.is_true(ok, output)
          stub:reset()
          load.request(port, { target = "/empty" })
          stub:set { denied = { place .. "/secret" }, denial = denial }
        end)

        it("uploads the layers that it may not mount", function()
          assert(ctr("tag", "--force", prefix .. "secret:1", prefix .. "public:1"))
          local ok, output = push "public"
          assert.is_true(ok, output)
          local asked = {}
          for _, request in ipairs(stub:requests()) do
            asked[#asked + 1] = table.concat(request.query.scope or {}, " ")
          end
          assert.matches(place .. "/secret:pull", table.concat(asked, "\n"), 1, true)
          stub:set { denied = {} }
          assert.is_true((run("skopeo", "inspect", "--creds", "admin:admin", "--tls-verify=false",
            "docker://" .. prefix .. "public:1")))
        end)

        it("ends a push and a pull that are denied", function()
          assert.is_false((push "secret"))
          assert.is_false((ctr("pull", "--plain-http", "-u", "admin:admin", prefix .. "secret:1")))
          assert.is_true(#stub:requests() < 12)
        end)

        it("ends with a wrong password, after one attempt", function()
          assert.is_false((push("secret", "wrong")))
          assert.equal(1, #stub:requests())
        end)
      end)
    end
  end
end)
