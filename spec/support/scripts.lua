-- What the specs of the scripts share: running shells, waiting for events, and scripts that run until they get a
-- signal.

local files = require "support.files"
local shell = require "support.shell"
local testkit = require "testkit"

local scripts = {}

-- A script that takes longer hangs: none takes that long, even on a slow machine.
scripts.SECONDS = 300

--- Runs a command in a shell and returns what it printed, without the last line's end.
function scripts.shell(command)
  local output = shell.run(command)
  return (output:gsub("\n$", ""))
end

--- Returns whether a file exists.
scripts.exists = files.exists

--- Calls probe until it returns a true value, and returns that. Raises an error that names what was awaited otherwise.
function scripts.await(what, probe)
  local deadline = testkit.monotonic() + scripts.SECONDS
  repeat
    local found = probe()
    if found then return found end
    testkit.sleep(0.05)
  until testkit.monotonic() > deadline
  error("timed out while waiting for " .. what, 2)
end

--- Starts a program (testkit.spawn's table) with its output in a file, and with the default action for the signals that
-- end it: scripts/run-jobs or a shell may have started the specs with these ignored. Returns its process id.
function scripts.start(output, arguments)
  local program = { "env", "--default-signal=HUP,INT,TERM", stdin = arguments.stdin or "/dev/null", stdout = output,
    stderr = output, env = arguments.env }
  for _, argument in ipairs(arguments) do program[#program + 1] = argument end
  return assert(testkit.spawn(program))
end

--- Waits until a process exits. Returns its exit status.
function scripts.finish(pid)
  local how, status = testkit.waitpid(pid, scripts.SECONDS)
  assert(how == "exited", how)
  return status
end

--- Runs a program. Returns its exit status and what it printed.
function scripts.run(output, arguments)
  files.write(output, "")
  local status = scripts.finish(scripts.start(output, arguments))
  return status, files.read(output)
end

return scripts
