-- What the programs write. Only results go to standard output; messages go to standard error, and, if that is a
-- terminal, the line that shows what is being waited for.

local failure = require "icptoken.cli.failure"
local system = require "icptoken.cli.system"

local output = { verbose = false }

local EPIPE = 32
local DEFAULT_COLUMNS = 80

local function check_written(ok, message, number)
  if ok then return end
  if number == EPIPE then failure.raise { code = "closed_pipe", silent = true } end
  failure.fail("output", "cannot write to standard output: %s", tostring(message))
end

--- Writes to standard output. Ends the program silently if its reader is gone.
function output.write(...)
  check_written(io.stdout:write(...))
end

--- Writes what is still in the buffer of standard output. Called once, at the end.
function output.finish()
  check_written(io.stdout:flush())
end

--- Whether a standard stream (0, 1 or 2) is a terminal; false without luaposix, which is needed to know.
function output.is_terminal(descriptor)
  local unistd = system.try "unistd"
  return unistd ~= nil and unistd.isatty(descriptor) == 1
end

--- Whether standard error may be redrawn and coloured.
function output.is_capable()
  local kind = system.environment "TERM"
  return output.is_terminal(2) and kind ~= nil and kind ~= "dumb"
end

--- Gives text a colour ("red", "green", "yellow", "bold", "dim") if stream 1 or 2 shows colours.
function output.colour(name, text, stream)
  local codes = { red = "31", green = "32", yellow = "33", bold = "1", dim = "2" }
  local kind = system.environment "TERM"
  if os.getenv "NO_COLOR" and os.getenv "NO_COLOR" ~= "" or not kind or kind == "dumb" then return text end
  if not output.is_terminal(stream or 2) then return text end
  return "\27[" .. codes[name] .. "m" .. text .. "\27[0m"
end

--- How many columns the terminal has.
function output.count_columns()
  local columns = tonumber(os.getenv "COLUMNS")
  if columns and columns >= 20 then return math.floor(columns) end
  local process = output.is_terminal(2) and io.popen("stty size 2>/dev/null </dev/tty", "r")
  if not process then return DEFAULT_COLUMNS end
  local answer = process:read "*a"
  process:close()
  columns = tonumber(answer:match "^%d+ (%d+)")
  return columns and columns >= 20 and columns or DEFAULT_COLUMNS
end

--- Writes a line to standard error: "icptoken: …".
function output.note(format, ...)
  io.stderr:write("icptoken: ", format:format(...), "\n")
end

--- Writes a line to standard error, with -v only. It must not contain a secret.
function output.trace(format, ...)
  if output.verbose then output.note(format, ...) end
end

--- Writes text over the line on standard error that this function wrote before; "" removes it.
function output.redraw(text)
  io.stderr:write("\r\27[K", text)
  io.stderr:flush()
end

--- Makes one line of text that came from elsewhere: control characters become "?".
function output.clean(text)
  return (tostring(text):gsub("[%z\1-\31\127]", "?"))
end

return output
