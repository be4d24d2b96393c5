-- Other programs, started without a shell, and functions of this one that run in a child process with a time limit.

local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local system = require "icptoken.cli.system"

local process = {}

local EINTR = 4
-- What shells exit with for a program that cannot be started.
local NOT_STARTED = 127
local MAX_BYTES = 16 * 1024 * 1024

-- In the child: becomes the program; never returns.
local function become(words)
  local unistd, signal = system.load "unistd", system.load "signal"
  local arguments = {}
  for i = 2, #words do arguments[i - 1] = words[i] end
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  unistd.execp(words[1], arguments)
  unistd._exit(NOT_STARTED)
end

local function read_clock()
  local time = system.load "time"
  local now = time.clock_gettime(time.CLOCK_MONOTONIC)
  return now.tv_sec + now.tv_nsec / 1e9
end

-- Waits until there is something to read. False if the deadline (nil for none) comes first.
local function await_output(descriptor, deadline)
  if not deadline then return true end
  local poll = system.load "poll"
  repeat
    local left = deadline - read_clock()
    if left <= 0 then return false end
    local ready = poll.rpoll(descriptor, math.ceil(left * 1000))
  until ready == 1
  return true
end

-- Reads to the end. Returns what was read, and whether the deadline came first.
local function read_all(descriptor, deadline)
  local unistd = system.load "unistd"
  local parts, size = {}, 0
  while size < MAX_BYTES do
    if not await_output(descriptor, deadline) then return table.concat(parts), true end
    local bytes, _, number = unistd.read(descriptor, 65536)
    if bytes == "" or not bytes and number ~= EINTR then break end
    if bytes then
      parts[#parts + 1] = bytes
      size = size + #bytes
    end
  end
  return table.concat(parts), false
end

--- Waits for a child. Returns its exit status, or nil and the number of the signal that killed it.
function process.wait(pid)
  local wait = system.load "sys.wait"
  while true do
    local ended, how, status = wait.wait(pid)
    if ended == pid then
      if how == "exited" then return status end
      if how == "killed" then return nil, status end
    elseif not ended and status ~= EINTR then
      return NOT_STARTED
    end
  end
end

-- Runs body in a child process, with `input` on its standard input. options: as process.run takes them. Returns the
-- child's exit status (nil for one that was killed), its output, and whether the time was up.
local function capture(name, input, options, body)
  local unistd, signal = system.load "unistd", system.load "signal"
  local deadline = options.seconds and read_clock() + options.seconds
  local child_in, to_child = unistd.pipe()
  local from_child, child_out = unistd.pipe()
  if not child_in or not from_child then failure.fail("process", "there are too many open files") end
  local pid, message = unistd.fork()
  if not pid then failure.fail("process", "cannot start %s: %s", name, tostring(message)) end
  if pid == 0 then
    unistd.dup2(child_in, 0)
    unistd.dup2(child_out, 1)
    if options.errors == "output" then unistd.dup2(child_out, 2) end
    if options.errors == "nowhere" then unistd.dup2(system.load("fcntl").open("/dev/null", 1), 2) end
    for _, descriptor in ipairs { child_in, to_child, from_child, child_out } do
      if descriptor > 2 then unistd.close(descriptor) end
    end
    pcall(body)
    unistd._exit(NOT_STARTED)
  end
  unistd.close(child_in)
  unistd.close(child_out)
  -- without this, a program that does not read its input would end this one by SIGPIPE
  local previous = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
  files.write_all(to_child, input)
  unistd.close(to_child)
  local output, is_late = read_all(from_child, deadline)
  unistd.close(from_child)
  signal.signal(signal.SIGPIPE, previous or signal.SIG_DFL)
  if is_late then signal.kill(pid, signal.SIGKILL) end
  return process.wait(pid), output, is_late
end

--- Runs a program with `input` on its standard input, and returns its exit status, its standard output, and whether it
-- was killed because the time was up. Fails where the program cannot be started. words: the program and its arguments.
-- options: `seconds` (its time), `errors` (where its standard error goes: "output", "nowhere", or, without it, to that
-- of this process).
function process.run(words, input, options)
  local status, output, is_late = capture(words[1], input, options or {}, function() become(words) end)
  if status == NOT_STARTED then failure.fail("process", "cannot run %s: is it installed, and in $PATH?", words[1]) end
  return status or 1, output, is_late
end

--- Calls body, a function that blocks, in a child process with a limit of this many seconds. body is called with a
-- function that writes bytes, and returns a whole number up to 100. Returns that number, or nil if the time was up, and
-- the bytes.
function process.call(seconds, body)
  local unistd = system.load "unistd"
  local status, output, is_late = capture("a process", "", { seconds = seconds }, function()
    unistd._exit(body(function(bytes) files.write_all(1, bytes) end))
  end)
  return not is_late and status or nil, output
end

--- The path of a program in $PATH, or nil.
function process.find(name)
  for directory in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = directory .. "/" .. name
    if system.load("unistd").access(path, "x") then return path end
  end
end

return process
