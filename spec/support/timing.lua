-- Helpers for specs that measure time on a machine that may be busy. A busy machine only adds to the measured time. So
-- if a limit is kept once, the module keeps it; and if the module does not keep it, no try does.

local testkit = require "testkit"

local timing = {}

-- On a machine that is busy all the time, a pause disturbs most tries, also those with the longest limits.
local TRIES = 12
local MAX_FACTOR = 32
local HANG_SECONDS = 300

--- Calls body(1), body(2), body(4), …, body(MAX_FACTOR), body(1), … until one call raises no error, at most TRIES
--- times, and returns its results. If all fail, the last error is raised. A body multiplies its own time limits by its
--- argument.
function timing.try(body)
  local factor = 1
  for _ = 1, TRIES - 1 do
    local results = { pcall(body, factor) }
    if results[1] then return results[2], results[3], results[4] end
    factor = factor < MAX_FACTOR and 2 * factor or 1
  end
  return body(factor)
end

--- Calls `check` until it returns a true value, and returns that. Fails if `what` has not happened in HANG_SECONDS.
function timing.wait_for(what, check)
  local deadline = testkit.monotonic() + HANG_SECONDS
  while true do
    local result = check()
    if result then return result end
    if testkit.monotonic() > deadline then error(what .. " did not happen", 2) end
    testkit.sleep(0.005)
  end
end

return timing
