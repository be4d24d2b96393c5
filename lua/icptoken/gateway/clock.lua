-- A clock that only runs forward, also while the machine sleeps, and is the same in all processes and threads.
-- ngx.now() and the expiry of a lua_shared_dict follow the wall clock, which can be set.

local ffi = require "ffi"

local tonumber = tonumber

local clock = {}

ffi.cdef [[int icptoken_clock_gettime(int, void *) __asm__("clock_gettime");]]

-- CLOCK_BOOTTIME on Linux; elsewhere CLOCK_MONOTONIC, whose number differs.
local CLOCKS = { Linux = 7, OSX = 6, BSD = 4 }

local WALL_CLOCK = 0
local STEADY_CLOCK = CLOCKS[ffi.os] or 1
local C = ffi.C
local time = ffi.new "long[2]" -- struct timespec: seconds, nanoseconds

--- Returns seconds since a moment before the process started.
function clock.now()
  C.icptoken_clock_gettime(STEADY_CLOCK, time)
  return tonumber(time[0]) + tonumber(time[1]) * 1e-9
end

--- Returns seconds since 1970, by the wall clock.
function clock.wall()
  C.icptoken_clock_gettime(WALL_CLOCK, time)
  return tonumber(time[0]) + tonumber(time[1]) * 1e-9
end

return clock
