-- The registry token that the endpoint returned: for whom it is, for what, and for how long.

local jwt = require "icptoken.cli.jwt"
local line = require "icptoken.command.check.line"
local output = require "icptoken.cli.output"
local times = require "icptoken.cli.times"

local check = {}

local SHORT_SECONDS = 60
-- Registries allow a minute.
local SKEW_SECONDS = 60

local ADVICE = {
  forbidden = "Ask the cluster's administrators for access to it, or log in as a user who has it.",
  server_error = "Try again later. If it stays so, look at the image manager's pods on the cluster.",
  rate_limited = "Try again later.",
  expired = "Look at the clocks of the cluster's nodes.",
  invalid_response = "Is a proxy in between? Look at the image manager's version and its log.",
}

local function has_audience(claims, service)
  local audience = claims.aud
  if type(audience) ~= "table" then return audience == service end
  for _, one in ipairs(audience) do
    if one == service then return true end
  end
  return false
end

local function list_audience(claims)
  local audience = claims.aud
  if type(audience) == "table" then audience = table.concat(audience, ", ") end
  return audience and audience ~= "" and "'" .. output.clean(audience) .. "'" or "nobody"
end

-- The actions of a scope that the claims do not grant. Only scopes that this command makes have to be understood.
local function list_missing(claims, scope)
  local name, actions = scope:match "^repository:(.+):([%w,]+)$"
  local missing = {}
  for action in (actions or ""):gmatch "[^,]+" do
    local is_granted = false
    for _, access in ipairs(type(claims.access) == "table" and claims.access or {}) do
      for _, granted in ipairs(access.name == name and type(access.actions) == "table" and access.actions or {}) do
        if granted == action or granted == "*" then is_granted = true end
      end
    end
    if not is_granted then missing[#missing + 1] = action end
  end
  return missing
end

local function describe_life(claims, token)
  local life = token.expires_in
  if type(claims.exp) == "number" and type(claims.iat) == "number" and claims.exp > claims.iat then
    life = math.min(life, claims.exp - claims.iat)
  end
  return life
end

local function judge_claims(claims, facts)
  if not has_audience(claims, facts.service) then
    return line.fail("audience",
      ("the token is for %s, not for '%s', which was requested"):format(list_audience(claims),
      facts.service), "The registry refuses it. Is the service right (the option service; ICP's is token-service)?")
  end
  local missing = facts.scope and list_missing(claims, facts.scope) or {}
  if #missing > 0 then
    return line.fail("access", ("the token does not grant %s for %s"):format(table.concat(missing, ", "),
      facts.scope:match "^repository:(.+):"), "Is the name right, with its namespace, and may this user see it?")
  end
  if type(claims.nbf) == "number" and claims.nbf > facts.now + SKEW_SECONDS then
    return line.fail("not_yet_valid", ("the token is not valid until %s (%s)"):format(times.utc(claims.nbf),
      times.relative(claims.nbf, facts.now)), "Look at the clocks of the cluster's nodes.")
  end
end

--- The line for a token. facts: `token` (the module's table), `service` and `scope` (asked for), `now`.
function check.judge(facts)
  local decoded, message = jwt.decode(facts.token.token)
  if not decoded then
    return line.fail("not_a_jwt", "the token is no JWT: " .. output.clean(message), "No registry takes it: is this the "
      .. "cluster's token endpoint?")
  end
  local claims = decoded.claims
  local problem = judge_claims(claims, facts)
  if problem then return problem end
  if type(claims.exp) == "number" and type(claims.iat) == "number" and claims.exp <= claims.iat then
    return line.warn("no_expiry", "the token expires when it is issued (its exp is no later than its iat)",
      "Registries take it for a minute at most.")
  end
  local life = describe_life(claims, facts.token)
  local text = ("for '%s'%s, good for %s"):format(facts.service, facts.scope and " with " .. facts.scope or "",
    times.span(life))
  if life < SHORT_SECONDS then
    return line.warn("short", text, "That is short for a push; see the image manager's settings.")
  end
  return line.ok(text)
end

--- Judges what the endpoint returned for the credential.
function check.run(context)
  local trial = context.trial
  if not trial.token then
    return { line.fail(trial.code, trial.message, ADVICE[trial.code] or "Try again.") }
  end
  context:add_secret(trial.token.token)
  return { check.judge { token = trial.token, service = context.service, scope = context.scope, now = context:now() } }
end

return check
