-- The clock by which records in Redis are dated: the cluster's, which is the same for all machines of a fleet, however
-- their own clocks are set. A machine learns it from each token that it requests itself, and remembers the difference
-- to clock.now(), which cannot be set. Until it has had a token, it uses its own wall clock.

local clock = require "icptoken.gateway.clock"
local jwt = require "icptoken.gateway.jwt"
local log = require "icptoken.gateway.log"

local fleet_clock = {}
local fleet_clock_methods = {}
local fleet_clock_meta = { __index = fleet_clock_methods }

-- A larger difference of this machine's wall clock is logged, at most once in LOG_SECONDS.
local MAX_DIFFERENCE, LOG_SECONDS = 300, 3600
-- 32 bits of seconds, as in the records of the dict.
local MAX_TIME = 2 ^ 32

--- Returns the clock of a gateway. store: see store.lua. target_key: of the cluster.
function fleet_clock.new(store, target_key)
  return setmetatable({ store = store, name = "o" .. target_key, log_name = "q" .. target_key }, fleet_clock_meta)
end

--- Returns seconds since 1970, and whether they are the cluster's.
function fleet_clock_methods:read()
  local offset = self.store.dict:get(self.name)
  if type(offset) ~= "number" or math.abs(offset) > MAX_TIME then return clock.wall(), false end
  return clock.now() + offset, true
end

--- Logs, at most once in a while, that this machine's clock is wrong or another one's. seconds: how much later it is by
-- this machine's clock.
function fleet_clock_methods:log_difference(seconds)
  if not self.store:is_first(self.log_name, LOG_SECONDS) then return end
  log.write(ngx.WARN, ("the clock of this machine is %.0f seconds %s that of the cluster or of another gateway of the "
    .. "fleet: synchronise the clocks (NTP)"):format(math.abs(seconds), seconds > 0 and "ahead of" or "behind"))
end

--- Learns the cluster's time from a token that it has just issued.
function fleet_clock_methods:learn(token)
  local issued_at = jwt.read_issue(token)
  if not issued_at or issued_at < 0 or issued_at > MAX_TIME then return end
  self.store.dict:set(self.name, issued_at - clock.now())
  local difference = clock.wall() - issued_at
  if math.abs(difference) > MAX_DIFFERENCE then self:log_difference(difference) end
end

return fleet_clock
