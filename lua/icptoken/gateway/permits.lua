-- How many Lua states this worker's gateways may use for threads at a time, all of them together.
--
-- ngx.run_worker_thread takes a Lua state from a pool of the worker (lua_worker_thread_vm_pool_size: 100 by default,
-- and 10 from ngx_lua 0.10.27 on) and fails at once when none is left. Nothing tells how many there are, and other Lua
-- code may use some. So a runner takes a permit before it takes a flight. Permits are unlimited until a call fails;
-- from then on there are as many as calls were running at that moment. Runners that find none wait in line, first in,
-- first out, whatever their gateway. While they wait, the first one is let through above the limit once in
-- PROBE_SECONDS, and the limit rises as long as such calls succeed. A call that fails has not waited and costs its
-- flight nothing: the flight is put back in front of its queue, and its runner goes to the front of the line.
--
-- Modules are loaded once in a worker, so this state is the worker's.

local clock = require "icptoken.gateway.clock"
local semaphore = require "ngx.semaphore"

local now = clock.now

local permits = {}

-- What ngx.run_worker_thread returns when no Lua state is left.
local NO_STATE = "no available Lua vm"
-- How long the limit holds before one more is tried: in general, and where no call of ours is running whose end could
-- be waited for, as all states are in use by other code.
local PROBE_SECONDS = 1
local IDLE_PROBE_SECONDS = 0.1
-- nginx's timers count milliseconds; and a semaphore cannot be waited for without a limit.
local MIN_WAIT_SECONDS = 0.001
local MAX_WAIT_SECONDS = 3600

local limit = math.huge
-- Permits in use, and calls that hold a Lua state. Each call has a permit, so there are never more calls than permits:
-- after a call has failed, its permit is one above the new limit, and its runner has to wait for another.
local held, running = 0, 0
local probe_at = 0
-- Those who wait: line[first] to line[last].
local line, first, last = {}, 1, 0

-- ngx.run_worker_thread fails before it yields, so every call that others find running has a state.
local function learn()
  if running > limit then limit, probe_at = running, now() end
end

-- Takes a permit where there is one, or where one above the limit is due to be tried. Returns whether it did.
local function take()
  learn()
  if held >= limit then
    local time = now()
    if time < probe_at then return false end
    probe_at = time + PROBE_SECONDS
  end
  held = held + 1
  return true
end

-- Gives permits to those in line as long as there are any. The first of those who remain is woken once, as it has to
-- try at probe_at.
local function serve_line()
  while first <= last and take() do
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

--- Takes a permit; waits in line where there is none. is_first: at the front of the line, for a runner whose call found
-- no Lua state. Each permit is returned with release(), whatever happened in between. Raises, without a permit, where
-- there is no memory for a semaphore.
function permits.acquire(is_first)
  if (is_first or first > last) and take() then return end
  local waiter = { semaphore = assert(semaphore.new(0)), has_permit = false, is_first = false }
  join_line(waiter, is_first)
  serve_line()
  while not waiter.has_permit do
    waiter.semaphore:wait(compute_wait(waiter))
    serve_line()
  end
end

--- Returns a permit; the first in line gets it.
function permits.release()
  held = held - 1
  serve_line()
end

local function finish(is_called, ok, ...)
  if not is_called then
    running = running - 1
    return false, ok
  end
  if ok then learn() end
  running = running - 1
  if not ok and (...) == NO_STATE then
    limit = running
    probe_at = now() + (running > 0 and PROBE_SECONDS or IDLE_PROBE_SECONDS)
  end
  return ok, ...
end

--- Calls ngx.run_worker_thread, whose arguments and results these are. For those who have a permit.
function permits.run_thread(...)
  running = running + 1
  return finish(pcall(ngx.run_worker_thread, ...))
end

local function release_after(...)
  permits.release()
  return ...
end

--- The same without waiting for a permit, for calls that may as well find no Lua state. Meanwhile it has one, above the
-- limit if need be: the state that it uses is none that others could have.
function permits.run_unlimited(...)
  held = held + 1
  return release_after(permits.run_thread(...))
end

--- Whether what run_thread returned says that no Lua state was left.
function permits.is_exhausted(ok, message)
  return not ok and message == NO_STATE
end

return permits
