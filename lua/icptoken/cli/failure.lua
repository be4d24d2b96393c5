-- Failures as the programs raise and report them: a table with `message` (one line for a person), `code`, `exit`
-- (the exit status), and `retryable` and `status` where they are known.

local failure = {}
local meta = {}

-- Exit statuses. 75 is EX_TEMPFAIL of sysexits.h.
local FAILED, USAGE, TEMPORARY = 1, 2, 75

--- Raises a failure. fields: `message`, `code`, `exit` (1), `retryable`, `status`, and `silent` for one that is not
-- reported.
function failure.raise(fields)
  fields.exit = fields.exit or FAILED
  fields.retryable = fields.retryable or false
  error(setmetatable(fields, meta), 0)
end

--- Raises a failure with exit status 1. The rest are format and arguments of its message.
function failure.fail(code, format, ...)
  failure.raise { code = code, message = format:format(...) }
end

--- Raises a failure of the command line or the configuration, with exit status 2.
function failure.usage(code, format, ...)
  failure.raise { code = code, message = format:format(...), exit = USAGE }
end

--- Raises the failure that a call of the module icptoken returned. hint: what to do, if the message does not say so;
-- nil for none.
function failure.raise_result(message, code, details, hint)
  details = details or {}
  failure.raise { code = code, message = hint and message .. "\n" .. hint or message, status = details.status,
    retryable = details.retryable == true, exit = details.retryable and TEMPORARY or FAILED }
end

--- Whether a raised value is a failure.
function failure.is(value)
  return getmetatable(value) == meta
end

return failure
