-- The flights of a worker that are not done, by key, and the locks in the dict that they hold.
--
-- A lock in the dict says which worker makes the request for a key. A credential has a lock, too, while it is not
-- proven: so a wrong password and many images are one attempt at a time, not one for each image.

local ffi = require "ffi"
local codes = require "icptoken.gateway.codes"
local log = require "icptoken.gateway.log"

local roster = {}
local roster_methods = {}
local roster_meta = { __index = roster_methods }

ffi.cdef [[int icptoken_kill(int, int) __asm__("kill");]]

local ESRCH = 3
-- A lock outlives the longest request by this much; its holder frees it long before.
local LOCK_SLACK_SECONDS = 5

-- The results of flights in the metrics; all other codes are "failed".
local RESULTS = { unauthorized = "refused", forbidden = "refused", invalid_credential = "refused",
  too_many_passwords = "refused", overloaded = "overloaded", queue_full = "overloaded", client_gone = "client_gone" }

-- Numbers the holders of locks in this process, for all its gateways.
local sequence = 0

-- Returns the name of a flight as the holder of locks: the process, a number, and the id of its request.
local function make_owner(flight)
  sequence = sequence + 1
  return ("%d:%d:%s"):format(ngx.worker.pid(), sequence, flight.request_id)
end

local function is_running(owner)
  local pid = tonumber(owner:match "^(%d+):")
  -- to kill, 0, negative and out-of-range numbers mean process groups
  if not pid or pid < 1 or pid >= 2 ^ 31 then return false end
  return ffi.C.icptoken_kill(pid, 0) == 0 or ffi.errno() ~= ESRCH
end

--- Returns an empty roster. store: see store.lua. metrics: where the results of flights are counted. timeout: the
-- longest time of a request, in seconds. fleet: see fleet.lua, or nil.
function roster.new(store, metrics, timeout, fleet)
  return setmetatable({ store = store, metrics = metrics, fleet = fleet, lock_seconds = timeout + LOCK_SLACK_SECONDS,
    by_key = {} },
    roster_meta)
end

--- Returns the flight of a key, or nil.
function roster_methods:find(flight_key)
  return self.by_key[flight_key]
end

--- Adds a flight.
function roster_methods:add(flight)
  self.by_key[flight.key] = flight
end

--- Makes a flight done: removes it, frees its locks, and wakes all who wait for it. result: an Authorization value, or
-- of a login { token, expires_at }; or nil and a failure.
function roster_methods:resolve(flight, result, failure)
  if self.by_key[flight.key] == flight then self.by_key[flight.key] = nil end
  self:unlock_all(flight)
  self.metrics:add("fetch_results", flight.class .. "," .. (result and "ok" or RESULTS[failure.code] or "failed"))
  flight:finish(result, failure)
end

--- Takes the lock of a key for a flight. Returns true; or false and the holder (nil if it is free now: try again).
function roster_methods:lock(flight, lock_key)
  if flight.locks[lock_key] then return true end
  if not next(flight.locks) then flight.owner = make_owner(flight) end
  local is_locked, holder = self.store:lock(lock_key, flight.owner, self.lock_seconds)
  if is_locked then flight.locks[lock_key] = true end
  return is_locked, holder
end

--- Frees a lock, if the flight holds it, and with it the fleet's lease.
function roster_methods:unlock(flight, lock_key)
  if not flight.locks[lock_key] then return end
  if self.fleet then self.fleet:release(flight, lock_key) end
  flight.locks[lock_key] = nil
  self.store:unlock(lock_key, flight.owner)
end

--- Frees all locks that a flight holds.
function roster_methods:unlock_all(flight)
  for lock_key in pairs(flight.locks) do self:unlock(flight, lock_key) end
end

--- Returns whether the lock that a watched flight waits for is still held. Frees it if its holder's process has died.
function roster_methods:is_held(flight)
  local holder = self.store:get_lock(flight.awaited_lock)
  if not holder or holder ~= flight.awaited_holder then return false end
  if is_running(holder) then return true end
  log.write(ngx.WARN, ("key %s: the worker that was requesting its token has crashed; another one requests it "
    .. "now (request %s)"):format(self.store:shorten(flight.key), flight.request_id))
  self.store:unlock(flight.awaited_lock, holder)
  return false
end

-- Returns why the flight of an owner failed, or nil if that says nothing about the flight that waits for its lock.
local function find_report(self, flight, owner)
  local report = self.store:get_report(owner)
  local is_of_other_key = report and flight.awaited_lock ~= flight.key and codes.is_of_one_key(report.code)
  return not is_of_other_key and report or nil
end

-- The name of the report of an attempt that was not the last one.
local function name_interim(owner)
  return owner .. ":interim"
end

--- Tells flights that wait for this one's locks, in all workers, why it failed. seconds: nil; or, for a failure of an
-- attempt that is not the last one, the time until the last waiter's deadline.
function roster_methods:report(flight, failure, seconds)
  self.store:put_report(seconds and name_interim(flight.owner) or flight.owner, failure, seconds)
end

--- Returns why the flight failed whose lock a flight waited for; or nil. is_interim: also where it will try again.
function roster_methods:get_report(flight, is_interim)
  local holder = flight.awaited_holder
  if not holder then return nil end
  return find_report(self, flight, holder) or is_interim and find_report(self, flight, name_interim(holder)) or nil
end

return roster
