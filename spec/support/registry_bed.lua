-- The servers and files that a spec of real clients uses: the fake ICP, a real registry in memory, a gateway with each
-- challenge between them, an image, and a directory. Owns all of them; close() stops and removes them.

package.path = "examples/nginx/?.lua;" .. package.path

local cjson = require "cjson"
local files = require "support.files"
local gateway = require "support.gateway"
local image = require "image"
local load = require "support.load"
local mime = require "mime"
local registry_server = require "support.registry"
local stub_client = require "stub.client"
local testkit = require "testkit"

local registry_bed = { CHALLENGES = { "basic", "bearer" }, TOKEN_PATH = "/image-manager/api/v1/auth/token",
  LOGIN_PATH = "/idprovider/v1/auth/identitytoken",
  MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json", image = image }
local ACCEPT = registry_bed.MANIFEST_TYPE .. ", application/vnd.oci.image.manifest.v1+json"
local bed_methods = {}
local bed_meta = { __index = bed_methods }

-- A program that takes longer hangs: none that a spec runs takes that long, even on a slow machine.
local HANG_SECONDS = 300

-- The access log has the requests of clients. After a Bearer challenge they go to `realm`, which is the gateway's own.
local LOCATIONS = [[
    access_log @DIR@/access.log;
    location = /token { content_by_lua_block { gateway:login() } }
]]
local GATEWAYS = { basic = {}, bearer = { challenge = "bearer", realm = "http://127.0.0.1:@PORT@/token" } }

--- Starts the fake ICP, the registry and the gateways. Fields: directory, stub, registry, image (what image.write
-- returned; it lies in directory/image), gates (gateways by their challenge).
function registry_bed.open()
  local self = setmetatable({ gates = {}, gateways = {} }, bed_meta)
  local process = assert(io.popen "mktemp -d")
  self.directory = process:read "*l"
  process:close()
  local ok, problem = pcall(function()
    self.stub = stub_client.start()
    self.registry = registry_server.start { service = "token-service", certificate = self.stub.token_signing_cert,
      realm = "https://mycluster.icp:8443" .. registry_bed.TOKEN_PATH }
    self.image = image.write(self:make_directory "image", 100000)
    for name, options in pairs(GATEWAYS) do self.gates[name] = self:start_gateway(options) end
  end)
  if ok then return self end
  self:close()
  error(problem, 0)
end

--- Stops everything. For busted's teardown, also if open failed and returned nothing.
function registry_bed.close(self)
  if self then self:close() end
end

function bed_methods:close()
  for _, one in ipairs(self.gateways) do one:stop() end
  if self.registry then self.registry.stop() end
  if self.stub then self.stub:stop() end
  os.execute("rm -rf '" .. self.directory .. "'")
end

--- Starts a gateway before the registry. more: options beside the stub's endpoint. There are no second attempts, and a
-- refusal is remembered for longer than a slow machine takes, so that the requests at the cluster can be counted.
function bed_methods:start_gateway(more)
  local options = { retries = 0, hedge_after = false, error_ttl = 600, token_user = "id-token" }
  for name, value in pairs(more) do options[name] = value end
  local one = gateway.start { stub = self.stub, upstream = { port = tonumber(self.registry.address:match "%d+$") },
    gateway = options, locations = LOCATIONS }
  self.gateways[#self.gateways + 1] = one
  return one
end

--- Makes a directory below the bed's own, and returns its path.
function bed_methods:make_directory(name)
  os.execute(("mkdir -p '%s/%s'"):format(self.directory, name))
  return self.directory .. "/" .. name
end

--- Resets the stub, with its orders, its log and the ID tokens that it issued, and empties the dicts of the gateways.
function bed_methods:forget()
  self.stub:reset()
  for _, one in ipairs(self.gateways) do
    load.request(one.port, { target = "/empty" })
    one.seen = #files.read(one.dir .. "/access.log")
  end
end

--- The requests of clients that a gateway has answered since forget(): a list of { method =, target =,
-- status = }.
function bed_methods.list_client_requests(_, gate)
  local requests = {}
  local log = files.read(gate.dir .. "/access.log"):sub(gate.seen + 1)
  for method, target, status in log:gmatch '"(%u+) (/%S*) HTTP/1.1" (%d+)' do
    if target ~= "/empty" then
      requests[#requests + 1] = { method = method, target = target, status = tonumber(status) }
    end
  end
  return requests
end

--- Runs a program. env: variables for it, false to unset one. input: text for its standard input; nil for none. Returns
-- whether it succeeded, and what it printed.
function bed_methods:run(arguments, env, input)
  local output, input_path = self.directory .. "/output", self.directory .. "/input"
  files.write(output, "")
  files.write(input_path, input or "")
  local command = { stdin = input_path, stdout = output, stderr = output, env = env }
  for i, argument in ipairs(arguments) do command[i] = argument end
  local pid = assert(testkit.spawn(command))
  local how, status = testkit.waitpid(pid, HANG_SECONDS)
  if how == "running" then
    testkit.kill(pid, "KILL")
    testkit.waitpid(pid)
  end
  os.remove(input_path)
  local printed = files.read(output)
  if how ~= "exited" then printed = ("%s\n[%s did not exit: %s]"):format(printed, arguments[1], how) end
  return how == "exited" and status == 0, printed
end

--- Writes the credential of a gateway's user as docker login, skopeo login and the like write it, and returns the path.
function bed_methods:write_authfile(gate, username, password)
  local path = self:make_directory "docker" .. "/config.json"
  files.write(path, cjson.encode { auths = { ["127.0.0.1:" .. gate.port] = { auth = (mime.b64(username .. ":"
    .. password)) } } })
  return path
end

--- The scopes of the token requests at the cluster, in their order.
function bed_methods:list_scopes()
  local scopes = {}
  for _, request in ipairs(self.stub:requests()) do
    if request.path == registry_bed.TOKEN_PATH then
      scopes[#scopes + 1] = table.concat(request.query.scope or {}, " ")
    end
  end
  return scopes
end

--- How many token requests and how many logins have reached the cluster.
function bed_methods:count_requests()
  local count = { [registry_bed.TOKEN_PATH] = 0, [registry_bed.LOGIN_PATH] = 0 }
  for _, request in ipairs(self.stub:requests()) do count[request.path] = count[request.path] + 1 end
  return count[registry_bed.TOKEN_PATH], count[registry_bed.LOGIN_PATH]
end

--- The Authorization value of a user name and a password.
function registry_bed.to_basic(username, password)
  return "Basic " .. (mime.b64(username .. ":" .. password))
end

--- A request of a client at a gateway.
function registry_bed.ask(gate, method, target, authorization, body, content_type)
  local headers = { Authorization = authorization, Accept = ACCEPT, ["Content-Type"] = content_type }
  return load.request(gate.port, { method = method, target = target, headers = headers, body = body })
end

return registry_bed
