-- Runners take flights from the queue and serve them, one at a time. A runner is a timer of nginx, and at most
-- max_inflight of them exist, so that is how many token requests a worker has in progress; fewer if Lua states are few
-- (permits.lua). Requests of clients never wait in a thread themselves, as a reload of nginx would reset them.

local clock = require "icptoken.gateway.clock"
local log = require "icptoken.gateway.log"
local permits = require "icptoken.gateway.permits"
local timers = require "icptoken.gateway.timers"

local now = clock.now

local runners = {}
local runners_methods = {}
local runners_meta = { __index = runners_methods }

--- Returns a set without runners. queue: see queue.lua. limit: how many there may be. rules, with functions that take a
-- flight: is_servable (makes it done if it is not to be served), serve (returns true if no Lua state was left), and
-- fail (makes it done after an internal error).
function runners.new(queue, limit, rules)
  return setmetatable({ queue = queue, limit = limit, rules = rules, tickets = {} }, runners_meta)
end

local function take_servable(self)
  local flight = self.queue:take()
  while flight and not self.rules.is_servable(flight) do
    self.queue:finish(flight)
    flight = self.queue:take()
  end
  return flight
end

-- Returns how many runners there are, and whether one of them has not begun.
local function count(self)
  local total, is_pending = 0, false
  for ticket in pairs(self.tickets) do
    if timers.is_lost(ticket) then
      self.tickets[ticket] = nil
    else
      total, is_pending = total + 1, is_pending or not ticket.has_begun
    end
  end
  return total, is_pending
end

-- Starts one more runner if there is a flight for it, unless one is about to begin. (Runners exit while the unknown
-- flights have all the runners that they may have.)
local function start_next(self)
  if self.queue:has_next() and not select(2, count(self)) then self:start() end
end

-- Serves the next flight, with a permit in hand. Returns it (nil if there is none that may be taken), and whether no
-- Lua state was left.
local function serve_next(self)
  local flight = take_servable(self)
  if not flight then return nil end
  start_next(self)
  local ok, is_starved = pcall(self.rules.serve, flight)
  if ok then return flight, is_starved end
  log.write(ngx.ERR, "internal error while requesting a token: " .. tostring(is_starved))
  self.rules.fail(flight)
  return flight, false
end

-- Serves flights until there is none that may be taken.
local function drain_queue(self)
  local is_starved
  repeat
    local began_at = now()
    permits.acquire(is_starved)
    local ok, flight, result = pcall(serve_next, self)
    permits.release()
    if not ok then error(flight, 0) end
    is_starved = result
    if flight then self.queue:finish(flight, not is_starved and now() - began_at or nil) end
  until not flight
end

-- The body of a runner's timer. It also serves flights while the worker exits gracefully (premature), as requests wait
-- for them.
local function run(_, self, ticket)
  if not self.tickets[ticket] then return end -- it began too late: it counts as lost
  ticket.has_begun = true
  local ok, problem = pcall(drain_queue, self)
  if not ok then log.write(ngx.ERR, "internal error in the queue of token requests: " .. tostring(problem)) end
  self.tickets[ticket] = nil
end

--- Starts one more runner if there may be more. Returns whether there is any.
function runners_methods:start()
  local total = count(self)
  if total >= self.limit then return true end
  local ticket = timers.start(run, self)
  if ticket then self.tickets[ticket] = true end
  return ticket ~= nil or total > 0
end

--- Makes sure that a runner will look at the queue, although nginx may have dropped its timer.
function runners_methods:ensure()
  if not select(2, count(self)) then self:start() end
end

return runners
