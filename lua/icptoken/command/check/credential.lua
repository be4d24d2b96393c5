-- The credential: whether there is one, what its own claims say, and whether the token endpoint accepts it.

local cluster = require "icptoken.cli.cluster"
local credential = require "icptoken.cli.credential"
local files = require "icptoken.cli.files"
local jwt = require "icptoken.cli.jwt"
local line = require "icptoken.command.check.line"
local network = require "icptoken.cli.network"
local output = require "icptoken.cli.output"
local session = require "icptoken.cli.session"
local times = require "icptoken.cli.times"

local check = {}

local MAX_BYTES = 64 * 1024

-- Whether claims are those of a registry token, which people take for an ID token.
local function is_registry_token(claims)
  return claims.access ~= nil or claims.iss == "registry-token-issuer"
end

local function judge_claims(facts, claims)
  if is_registry_token(claims) then
    return line.fail("registry_token", facts.what .. " is a registry token, not an ID token",
      "The endpoint accepts the ID token of a login, and returns registry tokens for it. " .. facts.advice)
  end
  local expiry, issued = claims.exp, claims.iat
  if type(expiry) ~= "number" then return nil end
  if type(issued) == "number" and expiry <= issued then
    return line.warn("no_expiry", facts.what .. " does not say when it expires (its exp is no later than its iat)",
      "Nothing to do while the endpoint takes it: ICP issues such ID tokens.")
  end
  if expiry <= facts.now then
    return line.fail("expired", ("%s expired %s (%s)"):format(facts.what, times.relative(expiry, facts.now),
      times.utc(expiry)), facts.advice)
  end
end

--- The line for a credential by its own claims. facts: `what` (it is, for a sentence), `text`, `now`, `advice`,
-- `expires_at` (by its session). The second result is whether to make a request with it.
function check.judge(facts)
  if not facts.text:find "^[%w._~+/-]+=*$" then
    return line.fail("not_a_token", facts.what .. " contains characters that no token has", facts.advice), false
  end
  local decoded = jwt.decode(facts.text)
  local judged = decoded and judge_claims(facts, decoded.claims)
  if judged and judged.state == "fail" then return judged, false end
  if facts.expires_at and facts.expires_at <= facts.now then
    return line.fail("expired", ("%s expired %s"):format(facts.what, times.relative(facts.expires_at, facts.now)),
      facts.advice), false
  end
  if judged then return judged, true end
  if not decoded then
    return line.warn("not_a_jwt", facts.what .. " is no JWT, as ICP's ID tokens are",
      "Is it the access token? cloudctl tokens shows both."), true
  end
  local expiry = jwt.find_expiry(facts.text) or facts.expires_at
  return line.ok(facts.what .. (expiry and " expires " .. times.relative(expiry, facts.now) or "")), true
end

--- The line for a credential that looked right, when the token endpoint has judged it: code and message are the
-- module's.
function check.judge_trial(judged, facts, code, message)
  if code == "invalid_credential" then return line.fail("not_a_token", message, facts.advice) end
  if code ~= "unauthorized" then return judged end
  local hint = judged.cause == "no_expiry" and "It may have expired: it does not say when. "
    or judged.cause == "not_a_jwt" and judged.advice .. " " or ""
  return line.fail("refused", ("%s is refused: %s"):format(facts.what, message), hint .. facts.advice)
end

local function describe_absence(chosen, content)
  local login = "icptoken login" .. cluster.flags(chosen)
  if content then
    return line.fail("expired", ("the session of %s has expired"):format(output.clean(content.username
      or "an ID token")),
      "Log in again: " .. login)
  end
  return line.fail("none", "there is no credential: nobody is logged in at " .. chosen.endpoint,
    ("Log in: %s. Or pass an ID token in $ID_TOKEN, or with --id-token-file FILE."):format(login))
end

-- The facts for judge, or nil and a line.
local function find(context)
  local chosen = context.chosen
  local advice = "Log in again: icptoken login" .. cluster.flags(chosen)
  local found, source = credential.find_named(chosen, context.arguments, false)
  if not found then
    local content = session.read(chosen.endpoint)
    if not session.is_valid(content) then return nil, describe_absence(chosen, content) end
    return { what = ("the session of %s"):format(output.clean(content.username or "an ID token")), advice = advice,
      text = jwt.strip(content.id_token), expires_at = content.expires_at }
  end
  if found.id_token then return { what = "the ID token from " .. source, text = found.id_token, advice =
    ("Get another one, or leave %s out and log in: icptoken login%s"):format(source, cluster.flags(chosen)) } end
  local text, message = files.read(found.id_token_file, MAX_BYTES)
  if not text then
    return nil, line.fail("unreadable", "the ID token cannot be read: " .. message, "Is the path right? " .. advice)
  end
  return { what = "the ID token in " .. source, text = text, advice =
    ("Write another one to %s, or log in: icptoken login%s"):format(source, cluster.flags(chosen)) }
end

--- Checks it, and requests a token with it if the endpoint works.
function check.run(context)
  local facts, problem = find(context)
  if not facts then return { problem } end
  facts.text, facts.now = jwt.strip(facts.text), context:now()
  context:add_secret(facts.text)
  local judged, is_worth_trying = check.judge(facts)
  context.id_token = facts.text
  if is_worth_trying and context:has_passed "endpoint" then
    local token, message, code, details = network.fetch(context.chosen, { id_token = facts.text },
      { service = context.service, scope = context.scope })
    context.trial = { token = token, message = message, code = code, details = details or {} }
    judged = check.judge_trial(judged, facts, code, message)
  end
  return { judged }
end

return check
