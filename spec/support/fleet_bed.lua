-- The servers that a spec of a fleet uses: the fake ICP, a fake registry, a real Redis, and several gateways that share
-- it. Owns all of them; close() stops them.

local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local redis = require "support.redis"

local fleet_bed = {}
local bed_methods = {}
local bed_meta = { __index = bed_methods }

local SECRET = ("s"):rep(42) .. "o="

--- Starts the fake ICP, the fake registry, and Redis. program: of Redis (the first of redis.list_programs). Fields:
-- stub, upstream, credential (as in gateway_bed), redis, gateways.
function fleet_bed.open(program)
  local self = setmetatable({ bed = gateway_bed.open() }, bed_meta)
  for _, name in ipairs { "stub", "upstream", "credential", "gateways" } do self[name] = self.bed[name] end
  self.redis = redis.start { program = program or redis.list_programs()[1] }
  self.secret_file = self:write_secret("secret", SECRET)
  return self
end

--- Stops everything. For busted's teardown, also if open failed and returned nothing.
function fleet_bed.close(self)
  if not self then return end
  self.bed:close()
  self.redis:stop()
end

--- Writes a file with a secret (base64 of 32 bytes), and returns its path.
function bed_methods:write_secret(name, secret)
  local path = self.redis.dir .. "/" .. name
  files.write(path, secret .. "\n")
  assert(os.execute("chmod 600 " .. path))
  return path
end

--- Lua text of the option `fleet`, with time limits for a Redis on a busy machine. fields: Lua text of more fields,
-- which replace these.
function bed_methods:write_fleet(fields)
  return ('fleet = { redis = "redis://127.0.0.1:%d", secret_file = %q, timeout = 10, connect_timeout = 10, %s }')
    :format(self.redis.port, self.secret_file, fields or "")
end

--- Starts a gateway of the fleet, with time limits for a busy machine, and whose refusals hold longer than a spec
-- takes. options: those of gateway_bed's start, and `fleet`: Lua text of fields of the option, or false for a gateway
-- without a fleet.
function bed_methods:start(options)
  local all = { locations = gateway_probe.LOCATIONS }
  for name, value in pairs(options or {}) do all[name] = value end
  if all.fleet ~= false then
    all.gateway = self:write_fleet(all.fleet or nil) .. ", timeout = 40, error_ttl = 120, " .. (all.gateway or "")
  end
  return self.bed:start(all)
end

--- Starts this many gateways of the fleet, and returns the list.
function bed_methods:start_all(count, options)
  local gateways = {}
  for i = 1, count do gateways[i] = self:start(options) end
  return gateways
end

--- Calls body(key, value) for each key in Redis, found with SCAN.
function bed_methods:each_record(body)
  local cursor = "0"
  repeat
    local reply = assert(self.redis:command("SCAN", cursor, "COUNT", 1000))
    cursor = reply[1]
    for _, key in ipairs(reply[2]) do
      local value = self.redis:command("GET", key)
      if value then body(key, value) end
    end
  until cursor == "0"
end

--- The names in Redis with this ending (":t", ":l", ":f", ":r"), in no particular order.
function bed_methods:list_records(ending)
  local names = {}
  self:each_record(function(key) if key:sub(-#ending) == ending then names[#names + 1] = key end end)
  return names
end

--- Waits until no gateway has a lease, so that all results are in Redis.
function bed_methods:await_no_leases()
  gateway_bed.await("the end of all leases", function() return #self:list_records ":l" == 0 end)
end

--- How often Redis has run a command, also in scripts. name: in lower case.
function bed_methods:count_commands(name)
  return tonumber(self.redis:command("INFO", "commandstats"):match("cmdstat_" .. name .. ":calls=(%d+)") or 0)
end

--- How often Redis has run EVALSHA and EVAL.
function bed_methods:count_calls()
  return self:count_commands "evalsha" + self:count_commands "eval"
end

--- A request for a repository.
function bed_methods:request(name, headers)
  return self.bed:request("/v2/" .. name .. "/manifests/latest", nil, headers)
end

--- Sends `count` requests, `concurrency` at a time, request i to gateway choose(i) (a port), and returns the answers.
function bed_methods.run(_, count, choose, make, concurrency)
  local answers, tasks, next_index = {}, {}, 1
  for _ = 1, math.min(count, concurrency) do
    tasks[#tasks + 1] = function()
      while next_index <= count do
        local i = next_index
        next_index = i + 1
        answers[i] = load.perform(choose(i), make(i))
      end
    end
  end
  load.together(unpack(tasks))
  return answers
end

--- How many token requests for each repository the stub received.
function bed_methods:count_fetches()
  local counts, total = {}, 0
  for _, received in ipairs(self.stub:requests()) do
    local scope = received.query and received.query.scope and received.query.scope[1]
    local name = scope and scope:match "^repository:(.*):"
    if name then counts[name], total = (counts[name] or 0) + 1, total + 1 end
  end
  return counts, total
end

--- The sum of a metric over all these gateways.
function fleet_bed.sum_metric(gateways, name, label)
  local sum = 0
  for _, one in ipairs(gateways) do sum = sum + gateway_probe.read_metric(one.port, name, label) end
  return sum
end

return fleet_bed
