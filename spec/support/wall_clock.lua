-- The wall clock for comparisons with the module's times.

local testkit = require "testkit"

local wall_clock = {}

-- time(2), which os.time() is, reads a clock that is behind the precise one by up to a tick of the kernel.
local TICK_SECONDS = 0.01

--- Seconds since 1970, not less than the time that the module has just read.
function wall_clock.read_after()
  testkit.sleep(2 * TICK_SECONDS)
  return os.time()
end

return wall_clock
