-- Limits how many Lua states all gateways of this worker use for threads at a time.
--
-- ngx.run_worker_thread takes a Lua state from a pool of the worker (lua_worker_thread_vm_pool_size: 100 by default,
-- and 10 from ngx_lua 0.10.27 on) and fails at once if none is left. The size of the pool cannot be queried, and other
-- Lua code may use it, too. So a runner takes a permit before it takes a flight. Permits are unlimited until a call
-- fails; from then on there are as many as calls were running at that moment. Runners that find none wait in line,
-- first in, first out, across gateways. While they wait, the first one is let through above the limit once in
-- PROBE_SECONDS, and the limit rises as long as such calls succeed. A call that fails has not waited, and its flight
-- loses nothing: it goes back to the front of its queue, and its runner to the front of the line.
--
-- A module is loaded once in a worker, so the variables below belong to the worker.

local clock = require "icptoken.gateway.clock"
local semaphore = require "ngx.semaphore"

local now = clock.now

local permits = {}

-- The message of ngx.run_worker_thread if no Lua state is left.
local NO_STATE = "no available Lua vm"
-- Time until one more permit is tried: in general, and if none of our calls is running, as other code uses all states.
local PROBE_SECONDS = 1
local IDLE_PROBE_SECONDS = 0.1
-- nginx's timers count milliseconds, and waiting for a semaphore needs a timeout.
local MIN_WAIT_SECONDS = 0.001
local MAX_WAIT_SECONDS = 3600

local limit = math.huge
-- Permits in use, and calls that hold a Lua state. Each call has a permit. After a call has failed, its permit is above
-- the new limit, and its runner has to wait for another one.
local held, running = 0, 0
local probe_at = 0
-- Waiting runners: line[first] to line[last].
local line, first, last = {}, 1, 0

-- ngx.run_worker_thread fails before it yields, so every call counted in `running` has a Lua state.
local function raise_limit()
  if running > limit then limit, probe_at = running, now() end
end

-- Takes a permit if there is one, or if it is time to try one above the limit. Returns whether it did.
local function try_acquire()
  raise_limit()
  if held >= limit then
    local time = now()
    if time < probe_at then return false end
    probe_at = time + PROBE_SECONDS
  end
  held = held + 1
  return true
end

-- Gives permits to waiting runners as long as there are any. The first of the remaining ones is woken once, as it has
-- to try again at probe_at.
local function serve_line()
  while first <= last and try_acquire() do
    local waiter = line[first]
    line[first] = nil
    first = first + 1
    waiter.has_permit = true
    waiter.semaphore:post(1)
  end
  local waiter = line[first]
  if not waiter or waiter.is_first then return end
  waiter.is_first = true
  waiter.semaphore:post(1)
end

local function join_line(waiter, is_first)
  if is_first then
    if line[first] then line[first].is_first = false end
    first = first - 1
    line[first] = waiter
  else
    last = last + 1
    line[last] = waiter
  end
end

local function compute_wait(waiter)
  return line[first] == waiter and math.max(MIN_WAIT_SECONDS, probe_at - now()) or MAX_WAIT_SECONDS
end

--- Takes a permit; waits in line if there is none. is_first: at the front of the line, for a runner whose call found no
-- Lua state. The caller must release() the permit, whatever happens. Raises, without a permit, if there is no memory
-- for a semaphore.
function permits.acquire(is_first)
  if (is_first or first > last) and try_acquire() then return end
  local waiter = { semaphore = assert(semaphore.new(0)), has_permit = false, is_first = false }
  join_line(waiter, is_first)
  serve_line()
  while not waiter.has_permit do
    waiter.semaphore:wait(compute_wait(waiter))
    serve_line()
  end
end

--- Releases a permit; the first runner in line gets it.
function permits.release()
  held = held - 1
  serve_line()
end

local function finish(is_called, ok, ...)
  if not is_called then
    running = running - 1
    return false, ok
  end
  if ok then raise_limit() end
  running = running - 1
  if not ok and (...) == NO_STATE then
    limit = running
    probe_at = now() + (running > 0 and PROBE_SECONDS or IDLE_PROBE_SECONDS)
  end
  return ok, ...
end

--- Calls ngx.run_worker_thread, with its arguments and results. The caller holds a permit.
function permits.run_thread(...)
  running = running + 1
  return finish(pcall(ngx.run_worker_thread, ...))
end

local function release_after(...)
  permits.release()
  return ...
end

--- Does the same without waiting for a permit, for a call that may fail if no Lua state is left. It counts as a permit
-- while it runs, above the limit if need be, as no other call can use its Lua state.
function permits.run_unlimited(...)
  held = held + 1
  return release_after(permits.run_thread(...))
end

--- Returns whether the results of run_thread say that no Lua state was left.
function permits.is_exhausted(ok, message)
  return not ok and message == NO_STATE
end

return permits
