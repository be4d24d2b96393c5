-- A clock that only runs forward, also while the machine sleeps, and that reads the same in every process and thread.
-- ngx.now() and the limits of a shared dict follow the wall clock, which may be set.

local ffi = require "ffi"

local clock = {}

ffi.cdef [[int icptoken_clock_gettime(int, void *) __asm__("clock_gettime");]]

-- CLOCK_BOOTTIME of Linux; elsewhere CLOCK_MONOTONIC, whose number differs.
local CLOCKS = { Linux = 7, OSX = 6, BSD = 4 }

local WALL_CLOCK = 0
local STEADY_CLOCK = CLOCKS[ffi.os] or 1
local C = ffi.C
local time = ffi.new "struct { long seconds; long nanoseconds; }"

local function read(id)
  C.icptoken_clock_gettime(id, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) * 1e-9
end

--- Seconds since some moment before the process began.
function clock.now()
  return read(STEADY_CLOCK)
end

--- Seconds since 1970, by the wall clock.
function clock.wall()
  return read(WALL_CLOCK)
end

return clock
