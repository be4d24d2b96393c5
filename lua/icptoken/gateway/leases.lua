-- The leases in Redis that a worker holds. A lease says which gateway of the fleet makes the request for a key, as a
-- lock in the dict says which worker of a machine does. It lasts 3 seconds and is extended each second, so it lasts as
-- long as the request does, and not much longer than a machine that dies. (Most requests take less than a second, so
-- most leases are never extended.)

local clock = require "icptoken.gateway.clock"
local scripts = require "icptoken.gateway.fleet_scripts"
local timers = require "icptoken.gateway.timers"

local now = clock.now

local leases = {}
local leases_methods = {}
local leases_meta = { __index = leases_methods }

-- A lease is extended EXTEND_SECONDS after it was taken or last extended. Every TICK_SECONDS a timer extends those that
-- are due.
local EXTEND_SECONDS, TICK_SECONDS = 0.9, 0.4

--- How long a lease lasts, in milliseconds.
leases.MILLISECONDS = 3000

-- Returns the calls that extend the leases which are due, and notes that they were extended now.
local function list_due(self)
  local calls, time = {}, now()
  for lease, extended_at in pairs(self.held) do
    if time - extended_at >= EXTEND_SECONDS then
      self.held[lease] = time
      calls[#calls + 1] = { scripts.extend, 1, lease.names.lease, lease.owner, leases.MILLISECONDS }
    end
  end
  return calls
end

-- Extends the leases that are due. One that is lost is not taken again: at worst two gateways make the same request.
-- Returns the seconds until the next time, or nil if the worker holds no lease.
local function extend_due(self)
  self.server:send_all(list_due(self))
  return next(self.held) and TICK_SECONDS
end

--- Returns the leases of a worker, of which it holds none. server: see redis.lua.
function leases.new(server)
  local self = setmetatable({ server = server,
    held = {}, -- lease → when it was taken or last extended
  }, leases_meta)
  self.loop = timers.new_loop("extending leases in Redis", extend_due, self)
  return self
end

--- Extends a lease regularly from now on. lease: names (see fleet_records.lua) and owner.
function leases_methods:keep(lease)
  self.held[lease] = now()
  self.loop:ensure()
end

--- Extends a lease no longer, so that it expires or can be deleted.
function leases_methods:forget(lease)
  self.held[lease] = nil
end

return leases
