-- A line of the report: `state` (ok, warn or fail), `cause` (an identifier for programs), `message`, `advice` (what to
-- do), and `is_blocking` (checks that need this one cannot be made).

local line = {}

local function make(state, cause, message, advice, is_blocking)
  return { state = state, cause = cause, message = message, advice = advice, is_blocking = is_blocking or false }
end

--- A line for something that is as it should be.
function line.ok(message) return make("ok", nil, message) end

--- A line for what works, but not for all clients, or not for long; or, with is_blocking, for what fails for a reason
-- that a later line reports.
function line.warn(cause, message, advice, is_blocking) return make("warn", cause, message, advice, is_blocking) end

--- A line for what does not work.
function line.fail(cause, message, advice) return make("fail", cause, message, advice, true) end

--- A failure that was raised, as a line.
function line.of_failure(problem)
  local message, advice = problem.message:match "^(.-)\n(.*)$"
  return make("fail", problem.code, message or problem.message, advice, true)
end

return line
