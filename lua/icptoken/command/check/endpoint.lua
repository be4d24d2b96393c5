-- The cluster's clock compared with this machine's, and the token endpoint's answer to a request without a credential.

local line = require "icptoken.command.check.line"
local times = require "icptoken.cli.times"

local endpoint = {}

-- Registries allow a minute; ID tokens and certificates last longer, so a few minutes may go unnoticed.
local TOLERATED_SECONDS, WRONG_SECONDS = 60, 300

--- The line for the cluster's clock. offset: by how many seconds it is ahead of this machine's, or nil. reason: why it
-- is not known.
function endpoint.judge_clock(offset, reason)
  if not offset then return line.warn("unknown", reason, "Compare it yourself: date -u, here and there.") end
  local distance = times.span(offset)
  if math.abs(offset) <= TOLERATED_SECONDS then
    return line.ok(("it agrees with the cluster's to %s"):format(distance))
  end
  local text = ("this machine's clock is %s %s the cluster's"):format(distance, offset > 0 and "behind" or "ahead of")
  local advice = "Correct the one that is wrong (timedatectl shows it): tokens and certificates count as expired, or "
    .. "as not yet valid."
  if math.abs(offset) <= WRONG_SECONDS then return line.warn("clock", text, advice) end
  return line.fail("clock", text, advice)
end

--- Compares the clocks.
function endpoint.check_clock(context)
  local reason = "the cluster's answer has no Date, so its clock is not known"
  if not context.response and not context.has_openssl then
    reason = "the program openssl is not installed, so the cluster's clock is not known"
  elseif not context.response then
    -- other lines report what is wrong with the answer
    return {}
  end
  return { endpoint.judge_clock(context.clock_offset, reason) }
end

local ADVICE = {
  redirect = "A captive portal or a proxy may be in between: open the address in a browser. Or host, port or path are "
    .. "those of something else.",
  not_found = "Is this the cluster's master, and its management port (8443)? The option path names another place.",
  server_error = "Try again later. If it stays so, look at the image manager's pods on the cluster.",
  rate_limited = "Try again later.",
  timeout = "Try again, or look at the image manager's pods on the cluster.",
  network = "Try again. If it stays so, something in between may cut the connection.",
}
local WEB_PAGE = "A captive portal, a proxy or a console is in its place: open the address in a browser, and check "
  .. "host, port and path."

--- The line for an answer to a request without a credential: `token`, or `code` and `message`. kind: its Content-Type,
-- where it is known.
function endpoint.judge(answer, kind)
  if answer.code == "unauthorized" then return line.ok "it is there, and wants a credential" end
  if answer.token then
    return line.warn("anonymous", "it returns tokens without a credential",
      "ICP's does not: is this the cluster?")
  end
  local is_page = kind ~= nil and kind:find "^text/html" ~= nil
  if is_page and answer.code ~= "redirect" and answer.code ~= "not_found" and answer.code ~= "server_error" then
    return line.fail("web_page", "it answers with a web page, not as a token endpoint does: " .. answer.message,
      WEB_PAGE)
  end
  local advice = ADVICE[answer.code] or "Is this the cluster's master? Check host, port and path."
  return line.fail(answer.code, answer.message, advice)
end

--- Judges the answer to the first request.
function endpoint.run(context)
  local response = context.response
  local kind = response and response.headers["content-type"]
  return { endpoint.judge(context.answer, kind and kind[1]) }
end

return endpoint
