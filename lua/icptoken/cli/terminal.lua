-- Questions at the terminal. They go to /dev/tty, so that standard input and output stay free for data.

local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local system = require "icptoken.cli.system"

local terminal = {}

local EINTR = 4
local MAX_ANSWER = 4096
local SLICE_MILLISECONDS = 200

--- Opens the terminal. Returns an object for ask and ask_secretly, or nil if there is none.
function terminal.open()
  local fcntl = system.load "fcntl"
  local descriptor = fcntl.open("/dev/tty", fcntl.O_RDWR + fcntl.O_NOCTTY + (fcntl.O_CLOEXEC or 0))
  return descriptor and { descriptor = descriptor }
end

--- Closes it.
function terminal.close(self)
  system.load("unistd").close(self.descriptor)
end

-- Waits until there is something to read. A signal that comes between on_signal and the wait is seen after a slice.
local function await_input(descriptor, on_signal)
  local poll = system.load "poll"
  repeat
    on_signal()
    local ready = poll.rpoll(descriptor, SLICE_MILLISECONDS)
  until ready == 1
end

-- Reads a line without its end. on_signal is called after a signal, and now and then. Returns nil at the end of the
-- input.
local function read_line(descriptor, on_signal)
  local unistd = system.load "unistd"
  local bytes = {}
  while #bytes <= MAX_ANSWER do
    await_input(descriptor, on_signal)
    local byte, message, number = unistd.read(descriptor, 1)
    if byte == "\n" then return table.concat(bytes) end
    if byte == "" then return #bytes > 0 and table.concat(bytes) or nil end
    if byte then
      bytes[#bytes + 1] = byte
    elseif number ~= EINTR then
      failure.fail("terminal", "cannot read from the terminal: %s", tostring(message))
    end
  end
  failure.fail("terminal", "the answer is longer than %d characters", MAX_ANSWER)
end

local function write(self, text)
  files.write_all(self.descriptor, text)
end

--- Asks, and returns the answer, or nil at the end of the input.
function terminal.ask(self, prompt)
  system.restore_interrupt()
  write(self, prompt)
  return read_line(self.descriptor, function() end)
end

-- A copy of the terminal's attributes that does not echo.
local function without_echo(attributes, termio)
  local copy = {}
  for name, value in pairs(attributes) do copy[name] = value end
  local echo = termio.ECHO
  if math.floor(copy.lflag / echo) % 2 == 1 then copy.lflag = copy.lflag - echo end
  return copy
end

local ENDING = { "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP" }

--- Asks without echo. If a signal ends or stops the program meanwhile, the terminal is restored first.
function terminal.ask_secretly(self, prompt)
  local termio, signal, unistd = system.load "termio", system.load "signal", system.load "unistd"
  local before = termio.tcgetattr(self.descriptor)
  if not before then failure.fail("terminal", "cannot turn off the terminal's echo, so no password is asked for") end
  local quiet = without_echo(before, termio)
  local received, previous = nil, {}
  local function restore() termio.tcsetattr(self.descriptor, termio.TCSANOW, before) end
  for _, name in ipairs(ENDING) do
    previous[name] = signal.signal(signal[name], function(number) received = number end)
  end
  local function act_on_signal()
    if not received then return end
    local number = received
    received = nil
    restore()
    write(self, "\n")
    signal.signal(number, signal.SIG_DFL)
    signal.kill(unistd.getpid(), number)
    -- execution continues here only after a stop
    signal.signal(number, function(again) received = again end)
    termio.tcsetattr(self.descriptor, termio.TCSAFLUSH, quiet)
    write(self, prompt)
  end
  termio.tcsetattr(self.descriptor, termio.TCSAFLUSH, quiet)
  write(self, prompt)
  local ok, answer = pcall(read_line, self.descriptor, act_on_signal)
  restore()
  write(self, "\n")
  for _, name in ipairs(ENDING) do signal.signal(signal[name], previous[name] or signal.SIG_DFL) end
  if not ok then error(answer, 0) end
  return answer
end

return terminal
