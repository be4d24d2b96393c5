-- What the demos of this directory share: their private directory, the fake ICP, how signals end them, small helpers,
-- and cleaning up at the end.

local files = require "files"
local process = require "process"
local signal = require "cqueues.signal"
local socket = require "socket"
local stub = require "stub.client"

local story = {
  SBIN = ":/usr/local/sbin:/usr/sbin", -- where nginx is; not every user has these directories on PATH
  CLUSTER = "mycluster.icp", -- a name of the stub's certificate
  STOP_SECONDS = 10,
  --- Programs that are stopped at the end, by the number of the process: { name =, end_signal = }.
  programs = {},
}

local directory, icp

-- Signals stay pending until pause reads them, so that tell always cleans up. SIGPIPE: the reader of the output is
-- gone.
local SIGNALS = { signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE }
signal.block(unpack(SIGNALS))
local interruption = signal.listen(unpack(SIGNALS))

--- Waits for this many seconds. Raises if a signal arrives.
function story.pause(seconds)
  local number = interruption:wait(seconds)
  if number then error(("interrupted (%s)"):format(signal.strsignal(number)), 0) end
end

--- Prints a line; the arguments are those of string.format.
function story.say(text, ...)
  print(text:format(...))
  io.stdout:flush()
end

--- Returns the first line that a shell command prints.
function story.read_line(command)
  local shell = assert(io.popen(command))
  local line = shell:read "*l"
  shell:close()
  return line
end

--- Returns whether a program can be found.
function story.has_program(name)
  return story.read_line(("PATH=$PATH%s; command -v %s"):format(story.SBIN, name)) ~= nil
end

--- Makes the private directory, and starts the fake ICP. Returns both.
function story.begin()
  directory = story.read_line "mktemp -d" or error("mktemp created no directory", 0)
  icp = stub.start()
  return directory, icp
end

--- Returns the path of a file in the private directory.
function story.in_directory(name)
  return directory .. "/" .. name
end

--- Returns a text with these replacements, { old, new } each, of plain text wherever it occurs. Raises if an old text
-- is not there.
function story.replace_all(text, changes)
  for _, change in ipairs(changes) do
    local count
    text, count = text:gsub(change[1]:gsub("%p", "%%%0"), (change[2]:gsub("%%", "%%%%")))
    if count == 0 then error(("the demo replaces '%s' in nginx.conf, but it is not there"):format(change[1]), 0) end
  end
  return text
end

--- Returns a port that is free now; another process may take it before the program that it is for.
function story.find_free_port()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  server:close()
  return tonumber(port)
end

-- Returns the names of the programs that did not stop.
local function clean_up()
  local remaining = process.stop_all(story.programs, story.STOP_SECONDS)
  if icp then icp:stop() end
  if directory then os.execute("rm -rf " .. files.quote(directory)) end
  return remaining
end

--- Calls body, stops what was started, removes the directory, and exits: with 0 if body raised nothing and nothing is
-- left.
function story.tell(body)
  local ok, problem = pcall(body)
  local remaining = clean_up()
  if ok and #remaining == 0 then
    story.say "\nAll is stopped, and nothing is left."
    os.exit(0)
  end
  if not ok then io.stderr:write("\nThe demo failed: ", tostring(problem), "\n") end
  if #remaining > 0 then io.stderr:write("This still runs: ", table.concat(remaining, ", "), "\n") end
  os.exit(1)
end

return story
