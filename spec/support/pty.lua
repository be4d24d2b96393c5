-- A pseudoterminal, through luaposix, at which a spec types.

local fcntl = require "posix.fcntl"
local poll = require "posix.poll"
local stdlib = require "posix.stdlib"
local termio = require "posix.termio"
local testkit = require "testkit"
local unistd = require "posix.unistd"

local pty = {}
local pty_methods = {}
local pty_meta = { __index = pty_methods }

local SECONDS = 60

--- Opens a terminal.
function pty.open()
  local master = assert(stdlib.openpt(fcntl.O_RDWR + fcntl.O_NOCTTY))
  assert(stdlib.grantpt(master))
  assert(stdlib.unlockpt(master))
  local self = { master = master, name = assert(stdlib.ptsname(master)), shown = "" }
  -- while it is open here, reading from the other end does not fail
  self.slave = assert(fcntl.open(self.name, fcntl.O_RDWR + fcntl.O_NOCTTY))
  return setmetatable(self, pty_meta)
end

--- Closes it.
function pty_methods:close()
  unistd.close(self.master)
  unistd.close(self.slave)
end

--- Starts a program with this terminal as its controlling one, as standard input and, unless named in `words`, as
-- output. words: as testkit.spawn takes them. Returns its pid.
function pty_methods:spawn(words)
  table.insert(words, 1, "setsid")
  table.insert(words, 2, "--ctty")
  words.stdin = self.name
  words.stdout, words.stderr = words.stdout or self.name, words.stderr or self.name
  return assert(testkit.spawn(words))
end

--- Reads what is shown until it contains a plain text. Returns all that was shown since the last call.
function pty_methods:await(text)
  local deadline = testkit.monotonic() + SECONDS
  while not self.shown:find(text, 1, true) do
    if testkit.monotonic() > deadline then error("the terminal does not show " .. text .. ": " .. self.shown, 2) end
    if poll.rpoll(self.master, 100) == 1 then self.shown = self.shown .. (unistd.read(self.master, 4096) or "") end
  end
  local shown = self.shown
  self.shown = ""
  return shown
end

--- Types.
function pty_methods:type(text)
  assert(unistd.write(self.master, text))
end

--- Whether the terminal echoes what is typed.
function pty_methods:echoes()
  return math.floor(termio.tcgetattr(self.master).lflag / termio.ECHO) % 2 == 1
end

--- Waits until it echoes, or does not.
function pty_methods:await_echo(echoes)
  local deadline = testkit.monotonic() + SECONDS
  while self:echoes() ~= echoes do
    if testkit.monotonic() > deadline then error("the terminal's echo stays as it was", 2) end
    testkit.sleep(0.01)
  end
end

return pty
