-- Calls functions that may raise an error. The error's message is never logged, as it may contain a credential.

local log = require "icptoken.gateway.log"

local guard = {}

-- The innermost Lua source line on the stack.
local function find_position()
  local level = 2
  local info = debug.getinfo(level, "Sl")
  while info and info.currentline <= 0 do
    level = level + 1
    info = debug.getinfo(level, "Sl")
  end
  return info and ("%s:%d"):format(info.short_src, info.currentline) or "an unknown position"
end

--- Calls a function. Returns true and its first result; or false and the source line where it raised an error.
function guard.call(callback, ...)
  return xpcall(callback, find_position, ...)
end

--- Logs a fault of a function that the user passed as an option, once for each request, as the function may be called
-- several times for one. option: its name. fault: what the function did.
function guard.log_fault(option, fault)
  local context = ngx.ctx
  local logged = context.icptoken_faults or {}
  context.icptoken_faults = logged
  if logged[option] then return end
  logged[option] = true
  log.write(ngx.ERR, ("the function of option '%s' %s"):format(option, fault))
end

--- Calls a function that the user passed as an option. Returns true and its first result; or false, after a line in the
-- log. option: its name.
function guard.call_option(option, callback)
  local ok, result = guard.call(callback)
  if ok then return true, result end
  guard.log_fault(option, ("raised an error at %s: its message is not logged, as it may contain a credential")
    :format(result))
  return false
end

return guard
