-- The servers that a spec of the gateway uses: the fake ICP, a fake registry behind the gateway, and gateways between
-- them. Owns all of them; close() stops them, and stop() of a gateway may be called earlier.

local cjson = require "cjson"
local gateway = require "support.gateway"
local icptoken = require "icptoken"
local cqueues = require "cqueues"
local stub_client = require "stub.client"
local testkit = require "testkit"

local gateway_bed = {}
local bed_methods = {}
local bed_meta = { __index = bed_methods }

-- What takes longer hangs, even on a slow machine.
local AWAIT_SECONDS = 300

--- Starts the fake ICP and the fake registry. Fields: stub, upstream, credential (an Authorization value that the stub
-- accepts).
function gateway_bed.open()
  local self = setmetatable({ gateways = {} }, bed_meta)
  self.stub = stub_client.start()
  self.credential = "Bearer " .. self.stub.id_token
  local ok, upstream = pcall(gateway.start_upstream)
  if ok then
    self.upstream = upstream
    return self
  end
  self:close()
  error(upstream, 0)
end

--- Stops everything. For busted's teardown, also if open failed and returned nothing.
function gateway_bed.close(self)
  if self then self:close() end
end

function bed_methods:close()
  for _, one in ipairs(self.gateways) do one:stop() end
  if self.upstream then self.upstream:stop() end
  self.stub:stop()
end

--- Lua text of options for the stub's endpoint, without second attempts; more is Lua text of further options, which
-- replace these. NONE stands for an option that is left out.
function bed_methods:write_options(more)
  return ([[(function(NONE, options)
    for name, value in pairs { %s } do
      if value == NONE then value = nil end
      options[name] = value
    end
    return options
  end)({}, { host = "localhost", port = %d, cacert = %q, service = "token-service", retries = 0,
    hedge_after = false })]])
    :format(more or "", self.stub.port, self.stub.ca)
end

--- Starts a gateway. options: those of support.gateway, where `gateway` is Lua text as write_options takes it.
function bed_methods:start(options)
  local all = { stub = self.stub, upstream = self.upstream }
  for name, value in pairs(options or {}) do all[name] = value end
  all.gateway = self:write_options(all.gateway)
  local one = gateway.start(all)
  self.gateways[#self.gateways + 1] = one
  return one
end

--- A request with the stub's ID token. headers: more, and Authorization = false for none.
function bed_methods:request(target, method, headers)
  local all = { Authorization = self.credential }
  for name, value in pairs(headers or {}) do all[name] = value or nil end
  return { target = target, method = method, headers = all }
end

--- The echo of a request that was passed on: the answer of the fake registry.
function gateway_bed.read_echo(answer)
  assert(answer.status, answer.problem)
  local ok, echo = pcall(cjson.decode, answer.body)
  if not ok or not echo.headers then error("no echo: " .. answer.status .. " " .. answer.body, 2) end
  return echo
end

--- The claims of the JWT that the registry received; nil if it received none.
function gateway_bed.read_claims(answer)
  local jwt = (gateway_bed.read_echo(answer).headers.authorization or ""):match "^Bearer (.+)$"
  return jwt and assert(icptoken.decode(jwt)).claims
end

--- The scopes of that JWT in the form of a token request; "" for none.
function gateway_bed.read_scopes(answer)
  local access, scopes = gateway_bed.read_claims(answer).access, {}
  for i, one in ipairs(type(access) == "table" and access or {}) do
    scopes[i] = ("%s:%s:%s"):format(one.type, one.name, table.concat(one.actions, ","))
  end
  return table.concat(scopes, " ")
end

--- The content of a gateway's own answer: the registry's code, the gateway's, and the message; nil for an answer that
-- does not have that form.
function gateway_bed.read_error(answer)
  local ok, body = pcall(cjson.decode, answer.body or "")
  local problem = ok and type(body) == "table" and body.errors and body.errors[1]
  if problem then return problem.code, problem.detail.code, problem.message end
end

--- Calls probe until it returns a true value, and returns that. Raises an error that names what was awaited if it never
-- does.
function gateway_bed.await(what, probe)
  local deadline = testkit.monotonic() + AWAIT_SECONDS
  repeat
    local found = probe()
    if found then return found end
    cqueues.sleep(0.01)
  until testkit.monotonic() > deadline
  error("timed out while waiting for " .. what, 2)
end

--- The process ids of a gateway's workers, once there are as many as there should be.
function gateway_bed.await_workers(one, count)
  return gateway_bed.await("the workers", function()
    local pids = one:workers()
    return #pids == count and pids
  end)
end

return gateway_bed
