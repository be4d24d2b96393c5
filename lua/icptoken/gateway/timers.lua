-- Timers of nginx that run at once. nginx silently drops timers beyond lua_max_running_timers when they are due, so
-- each timer has a ticket that tells whether it has begun.

local clock = require "icptoken.gateway.clock"
local log = require "icptoken.gateway.log"

local now = clock.now

local timers = {}
local loop_methods = {}
local loop_meta = { __index = loop_methods }

-- A timer that has not begun after this time was dropped by nginx.
local LOST_SECONDS = 1
-- A loop pauses for this long after a round that raised an error.
local ERROR_PAUSE_SECONDS = 0.1

-- The message of ngx.timer.at if there are lua_max_pending_timers already.
local TOO_MANY = "too many pending timers"

--- Logs that nginx refused to start a timer. purpose: what the timer was to do. problem: the message of ngx.timer.at.
function timers.log_refusal(purpose, problem)
  log.write(ngx.ERR, ("cannot start a timer to %s: %s"):format(purpose,
    problem == TOO_MANY and TOO_MANY .. ", raise lua_max_pending_timers" or tostring(problem)))
end

--- Starts a timer without delay, which calls body(premature, argument, ticket); that must set ticket.has_begun first.
-- Returns the ticket, or nil, after a line in the log, if nginx refuses the timer.
function timers.start(body, argument)
  local ticket = { due = now() + LOST_SECONDS, has_begun = false }
  local ok, problem = ngx.timer.at(0, body, argument, ticket)
  if ok then return ticket end
  timers.log_refusal("request tokens", problem)
  return nil
end

--- Returns whether the timer of a ticket was dropped by nginx.
function timers.is_lost(ticket)
  return not ticket.has_begun and now() > ticket.due
end

--- Returns a loop that is not running: a timer that calls round(argument) until it has no more to do. round returns the
-- seconds until the next call, or a false value if there is none. It may yield. purpose: what it does, for the log.
function timers.new_loop(purpose, round, argument)
  return setmetatable({ purpose = purpose, round = round, argument = argument, ticket = nil }, loop_meta)
end

-- The body of a loop's timer.
local function run(_, self, ticket)
  if self.ticket ~= ticket then return end -- it began too late: another one has replaced it
  ticket.has_begun = true
  local seconds
  repeat
    local ok, result = pcall(self.round, self.argument)
    if not ok then log.write(ngx.ERR, ("internal error while %s: %s"):format(self.purpose, tostring(result))) end
    seconds = not ok and ERROR_PAUSE_SECONDS or result
    if seconds then ngx.sleep(seconds) end
  until not seconds
  self.ticket = nil
end

--- Starts the loop, unless it is running, or if nginx has dropped its timer. Returns whether it runs now.
function loop_methods:ensure()
  if not self.ticket or timers.is_lost(self.ticket) then self.ticket = timers.start(run, self) end
  return self.ticket ~= nil
end

return timers
