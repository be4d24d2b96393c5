-- Whether the gateway can serve requests, for load balancers.
--
-- The functions take `self`, a gateway: target, store, counters, flights.

local clock = require "icptoken.gateway.clock"
local timers = require "icptoken.gateway.timers"

local health = {}

-- The endpoint is probed at most once in this time, by one of all workers.
local PROBE_SECONDS = 5

-- Makes a token request without a credential: whatever the endpoint answers to that, it works. The body of a timer.
local function probe(_, self)
  self.flights.endpoint:probe()
end

-- While the gateway is not ready, load balancers send it no requests, so nothing else would notice that the endpoint
-- works.
local function start_probe(self)
  if not self.store:is_first("e" .. self.target.key, PROBE_SECONDS) then return end
  local ok, problem = ngx.timer.at(0, probe, self)
  if not ok then timers.log_refusal("probe the endpoint", problem) end
end

--- Returns why the gateway cannot serve requests, or nil if it can: "not_started" (or no thread is ready yet),
-- "endpoint_unknown" (it has not answered yet) or "endpoint_failing". While it fails, the gateway can serve as long as
-- there are tokens.
function health.find_obstacle(self)
  local flights, counters = self.flights, self.counters
  if not flights.is_started or not flights.is_warm then return "not_started" end
  local is_known, is_failing = counters:get_last_answer "token" > 0, self.store:get_state(self.target.key) ~= "ok"
  if is_known and not is_failing or counters:get_tokens_until() > clock.now() then return nil end
  start_probe(self)
  return is_failing and "endpoint_failing" or "endpoint_unknown"
end

return health
