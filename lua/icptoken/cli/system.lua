-- luaposix, loaded module by module when something needs it, so that commands that do not need it start sooner and run
-- without it. luaposix before 34 lacks fstat and O_NOFOLLOW; nothing here uses them.

local failure = require "icptoken.cli.failure"

local system = {}

-- Debian 12 has luaposix for Lua 5.1 to 5.3 and LuaJIT only.
local function describe_absence()
  local runtime = rawget(_G, "jit") and "LuaJIT" or _VERSION
  return ("this needs luaposix, and %s has none. Install it (Debian: lua-posix; LuaRocks: luaposix), or install "
    .. "icptoken for a Lua that has it: make install LUA=lua5.3"):format(runtime)
end

--- A module of luaposix: system.load "unistd" is posix.unistd. If there is none, fails and says what to install.
function system.load(name)
  local ok, module = pcall(require, "posix." .. name)
  if not ok then failure.fail("missing_library", "%s", describe_absence()) end
  return module
end

--- The same, but returns nil if there is none.
function system.try(name)
  local ok, module = pcall(require, "posix." .. name)
  return ok and module or nil
end

--- Has Ctrl-C end this process at once, as it ends other programs. lua(1) catches it to raise an error, but a blocking
-- read would not be interrupted by that.
function system.restore_interrupt()
  local signal = system.try "signal"
  if signal then signal.signal(signal.SIGINT, signal.SIG_DFL) end
end

--- Ends this process by a signal, so that the shell learns of it.
function system.die_of(number)
  local signal, unistd = system.load "signal", system.load "unistd"
  signal.signal(number, signal.SIG_DFL)
  signal.kill(unistd.getpid(), number)
end

--- The value of an environment variable, or nil if it is not set or empty.
function system.environment(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

return system
