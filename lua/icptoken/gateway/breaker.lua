-- Says for all workers whether Redis is to be used. After MAX_FAILURES failures in a row the breaker is open for 1 s,
-- then 2 s, 4 s … 30 s; when that time is over one worker tries, in a timer, so that no request waits for the attempt.
-- The time continues to double if Redis fails again soon after it has answered.
--
-- In the dict, under names that begin with "b": the state, a record (record.lua) with the seconds of the pause as text
-- and, as the mark, the end of the pause, or 0 while the breaker is closed; and the number of failures in a row.

local clock = require "icptoken.gateway.clock"
local log = require "icptoken.gateway.log"
local record = require "icptoken.gateway.record"

local now = clock.now

local breaker = {}
local breaker_methods = {}
local breaker_meta = { __index = breaker_methods }

local MAX_FAILURES = 3
-- Failures count as in a row only within this time of the first one.
local FAILURE_SECONDS = 60
local MAX_PAUSE_SECONDS = 30
-- The pause starts from 1 s again if Redis has worked for this long.
local FORGET_SECONDS = 60
-- An attempt may take TRY_SECONDS. If none has started GRACE_SECONDS after the pause, any worker starts one, because
-- the worker that should have done so may have exited.
local TRY_SECONDS = 5
local GRACE_SECONDS = 1
-- How long the dict keeps the state of an open breaker; without it the breaker is closed.
local OPEN_SECONDS = 86400

--- Returns a breaker. store: see store.lua. key: 32 bytes that say which Redis it is for. try: makes an attempt, may
-- yield; returns true, or nil and a failure. on_change(failure, seconds) is called in the worker that opens the breaker
-- for this many seconds, and without arguments in the one that closes it.
function breaker.new(store, key, try, on_change)
  return setmetatable({ store = store, dict = store.dict, key = key, state_name = "b" .. key,
    count_name = "bn" .. key, try = try, on_change = on_change, is_trying = false }, breaker_meta)
end

-- Returns the end of the pause (nil if the breaker is closed), and the seconds of the last one (or nil).
local function read_state(self)
  local text, open_until = record.decode(self.dict:get(self.state_name))
  local seconds = text and text:find "^%d%d?$" and tonumber(text)
  if not seconds or open_until > now() + MAX_PAUSE_SECONDS then return nil end
  return open_until > 0 and open_until or nil, seconds
end

local function write_state(self, seconds, open_until, keep_seconds)
  self.dict:set(self.state_name, record.encode(now() + keep_seconds, open_until, ("%d"):format(seconds)), keep_seconds)
  self.dict:delete(self.count_name)
end

local start_try

local function open(self, failure)
  local was_open, last = read_state(self)
  local seconds = math.min(MAX_PAUSE_SECONDS, last and 2 * last or 1)
  write_state(self, seconds, now() + seconds, OPEN_SECONDS)
  if not was_open then self.on_change(failure, seconds) end
  start_try(self, seconds)
end

local function close(self)
  local was_open, last = read_state(self)
  if not was_open then return end
  write_state(self, last, 0, FORGET_SECONDS)
  self.on_change()
end

-- The body of the timer.
local function run_try(is_premature, self)
  self.is_trying = false
  local open_until = read_state(self)
  if is_premature or not open_until or now() < open_until then return end
  local owner = "b" .. ngx.worker.pid()
  if not self.store:lock(self.state_name, owner, TRY_SECONDS) then return end
  local ok, succeeded, failure = pcall(self.try)
  if ok and succeeded then
    close(self)
  else
    open(self, failure)
  end
  self.store:unlock(self.state_name, owner)
  if not ok then
    log.write(ngx.ERR, "internal error while testing whether Redis works again: " .. tostring(succeeded))
  end
end

function start_try(self, seconds)
  if self.is_trying then return end
  -- a little later than the end of the pause, which has milliseconds
  self.is_trying = ngx.timer.at(seconds > 0 and seconds + 0.002 or 0, run_try, self) ~= nil
end

--- Returns whether Redis is to be used. If the pause is long over, also starts the attempt.
function breaker_methods:is_closed()
  local open_until = read_state(self)
  if not open_until then return true end
  if now() > open_until + GRACE_SECONDS then start_try(self, 0) end
  return false
end

--- Notes that Redis answered.
function breaker_methods:note_success()
  if self.dict:get(self.count_name) then self.dict:delete(self.count_name) end
end

--- Notes a failure, which may open the breaker. is_final: opens it at once.
function breaker_methods:note_failure(failure, is_final)
  if read_state(self) then return end
  local count = self.dict:incr(self.count_name, 1, 0, FAILURE_SECONDS)
  if not count then self.dict:delete(self.count_name) end
  if is_final or count and count % MAX_FAILURES == 0 then open(self, failure) end
end

return breaker
