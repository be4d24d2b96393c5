-- Stops processes where they stand, until they get the signal CONT.

local cqueues = require "cqueues"
local files = require "support.files"
local testkit = require "testkit"

local SECONDS = 60

local function has_stopped(pid)
  return files.read(("/proc/%d/stat"):format(pid)):match "^%d+ %(.*%) (%a)" == "T"
end

--- Stops a process, and waits until it has stopped: a worker of nginx that has got the signal may still be woken for a
-- connection, which it does not accept then.
return function(pid)
  testkit.kill(pid, "STOP")
  local deadline = testkit.monotonic() + SECONDS
  while not has_stopped(pid) do
    assert(testkit.monotonic() < deadline, "a process did not stop")
    cqueues.sleep(0.001)
  end
end
