-- Applies the fleet's verdict (fleet.lua) to a flight: the flight is done, waits for another gateway, or makes its
-- request.
--
-- The functions take `context`: settings, store, roster, poller, fleet (see flights.new).

local clock = require "icptoken.gateway.clock"
local outcome = require "icptoken.gateway.outcome"

local now = clock.now

local sharing = {}

-- With less time left, or less than this share of `timeout`, a flight makes its request itself.
local MIN_SECONDS, MIN_TIMEOUT_SHARE = 2, 0.5

local function has_time_to_wait(context, flight)
  local ends_at = flight.renewed_until or flight.deadline
  return ends_at ~= nil and ends_at - now() > math.min(MIN_SECONDS, MIN_TIMEOUT_SHARE * context.settings.timeout)
end

-- By the kind of a verdict. Each returns true if the flight is done, false if it has to wait, and nil if it is to make
-- its request.
local RULES = {}

function RULES.token(context, flight, verdict)
  context.roster:resolve(flight, outcome.accept_shared_token(context, flight, verdict))
  return true
end

function RULES.refusal(context, flight, verdict)
  outcome.accept_refusal(context, flight, verdict.failure, verdict.seconds)
  context.roster:resolve(flight, nil, verdict.failure)
  return true
end

function RULES.report(context, flight, verdict)
  if flight.renewed_until then context.store:pause(flight.key, verdict.failure.retry_after) end
  context.roster:resolve(flight, nil, verdict.failure)
  return true
end

function RULES.wait(context, flight, verdict)
  if has_time_to_wait(context, flight) then
    -- other flights may need the credential meanwhile, among them the one that makes the request for this key
    if verdict.is_of_key and not flight.is_login then context.roster:unlock(flight, flight.credential_key) end
    return false
  end
  flight.is_alone = true
  context.fleet:note_alone()
end

function RULES.invalid(_, flight)
  flight.is_alone = true
end

RULES.unavailable = RULES.invalid

function RULES.lease() end

RULES.proof = RULES.lease

-- Applies a verdict. Returns what its rule returns.
local function apply(context, flight, verdict)
  if verdict.proven_seconds and not flight.is_login then
    flight.needs_proof = false
    context.store:put_proof(flight.credential_key, 0, verdict.proven_seconds)
    context.roster:unlock(flight, flight.credential_key)
  end
  return RULES[verdict.kind](context, flight, verdict)
end

--- Asks the fleet for a flight that is about to make its request, and holds its locks in the dict. Yields. Returns
-- whether it is to make the request.
function sharing.consult(context, flight, needs_proof)
  flight.needs_proof = needs_proof
  if flight.is_alone then return true end
  local verdict = context.fleet:consult({ flight })[1]
  local is_done = apply(context, flight, verdict)
  if is_done == false and not context.poller:share(flight) then
    context.roster:resolve(flight, nil, { code = "internal" })
  end
  return is_done == nil
end

--- Asks the fleet for flights that wait for another gateway. Yields. Returns a list of functions that take a flight and
-- return the same as a rule, one for each.
function sharing.ask_again(context, flights)
  local rules = {}
  for i, verdict in ipairs(context.fleet:consult(flights)) do
    rules[i] = function(flight) return apply(context, flight, verdict) end
  end
  return rules
end

return sharing
