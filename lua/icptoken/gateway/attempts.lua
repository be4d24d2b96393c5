-- The attempts of a flight that a runner has taken: locks, one attempt, and what follows from its result (done, delayed
-- until the next attempt, or back in the queue).
--
-- The functions take `context`: settings, keys, store, endpoint, queue, roster, poller, fleet, consult (see
-- flights.new).

local clock = require "icptoken.gateway.clock"
local guesses = require "icptoken.gateway.guesses"
local outcome = require "icptoken.gateway.outcome"

local now = clock.now

local attempts = {}

-- Back-off before the second attempt, doubled for each further one, plus or minus a tenth; as in the module.
local BACKOFF_SECONDS = 0.25
-- After these failures the identity provider has not checked a login.
local UNJUDGED_CODES = { resolve = true, connect = true, proxy = true }
local UNJUDGED_STATUSES = { [502] = true, [503] = true, [504] = true }

local TIMEOUT = { code = "timeout" }
local CLIENT_GONE = { code = "client_gone" }

-- Returns whether the result of a flight is needed.
local function is_wanted(context, flight)
  if flight:is_present() then return true end
  return flight.renewed_until ~= nil and now() < flight.renewed_until and not outcome.is_paused(context, flight.key)
end

--- Makes a flight done if its result is no longer needed. Returns whether it did.
function attempts.drop_unwanted(context, flight)
  if is_wanted(context, flight) then return false end
  context.roster:resolve(flight, nil, CLIENT_GONE)
  return true
end

--- Makes a flight done if a token or a refusal has come into the dict since it was queued. Returns whether it did.
function attempts.take_known(context, flight)
  local known, refusal = outcome.find_known(context, flight)
  if not known and not refusal then return false end
  context.roster:resolve(flight, known, refusal)
  return true
end

-- Returns whether a failed attempt may be repeated. An identity provider counts the logins that it judges and locks
-- accounts, so a login is repeated only if it cannot have been checked.
local function is_repeatable(flight, failure)
  if not flight.is_login then return failure.retryable and failure.code ~= "no_memory" end
  return UNJUDGED_CODES[failure.code] or UNJUDGED_STATUSES[failure.status]
end

-- Returns the seconds to wait before another attempt, or nil if there is to be none. The rules are the module's.
local function compute_retry_wait(context, flight, failure)
  if not is_repeatable(flight, failure) or flight.attempts > context.settings.retries then return nil end
  if failure.code == "rate_limited" and not failure.retry_after then return nil end
  if failure.code == "timeout" then return nil end -- see finish
  local backoff = BACKOFF_SECONDS * 2 ^ (flight.attempts - 1) * (0.9 + 0.2 * math.random())
  local wait = math.max(backoff, failure.retry_after or 0)
  return flight:has_time_left(wait) and wait or nil
end

-- Arranges another attempt, if there is to be one. Returns whether it did.
local function delay(context, flight, failure)
  local wait = compute_retry_wait(context, flight, failure)
  if not wait or not context.poller:delay(flight, wait) then return false end
  flight.last_failure = failure
  -- for requests in other workers whose deadline passes before the next attempt
  context.roster:report(flight, failure, flight.deadline - now())
  -- the credential's other scopes need not wait for this one's next attempt
  if not flight.is_login then context.roster:unlock(flight, flight.credential_key) end
  return true
end

-- Returns the budget of second attempts beside the first, or nil if there are to be none: for logins, and for a
-- password that is not known to be right, as sending it twice at a time may count as two wrong ones.
local function choose_budget(context, flight)
  if flight.is_login then return nil end
  if context.store:is_known(flight.credential_key) then return "known" end
  return not flight.request.password and "unknown" or nil
end

-- Makes one attempt. Returns the answer; nil and a failure, or nil, nil if there was no time for one; or nil, nil, true
-- if the flight is done, delayed, or, as no Lua state was left, back at the front of the queue. The fourth result is
-- true for the latter.
local function attempt(context, flight)
  local refusal = guesses.count(context, flight)
  if refusal then
    context.roster:resolve(flight, nil, refusal)
    return nil, nil, true
  end
  local name, deadline = flight.is_login and "login" or "fetch", now() + flight:compute_limit(context.settings.timeout)
  flight.is_sent = true
  local answer, failure, is_starved =
    context.endpoint:request(name, flight.request, deadline, choose_budget(context, flight))
  if is_starved then
    flight.is_sent = flight.attempts > 0
    context.queue:add_first(flight)
    return nil, nil, true, true
  end
  if answer or failure then flight.attempts = flight.attempts + 1 end
  if failure and delay(context, flight, failure) then return nil, nil, true end
  if answer or failure then context.endpoint:note_result(name, failure, flight.request_id) end
  return answer, failure
end

-- Returns the failure for those who waited: the cluster's, if there ever was one, rather than a timeout.
local function choose_failure(flight, failure)
  if failure and failure.code ~= "timeout" then return failure end
  return flight.last_failure or failure or TIMEOUT
end

-- Makes a flight done after its last attempt. failure: nil if there was no time for an attempt. If a request has
-- joined meanwhile that has more time left, the flight goes back into the queue instead.
local function finish(context, flight, answer, failure)
  local roster = context.roster
  if answer or failure and failure.code == "forbidden" then guesses.clear(context, flight) end
  if answer then
    local accept = flight.is_login and outcome.accept_identity or outcome.accept_token
    return roster:resolve(flight, accept(context, flight, answer))
  end
  if failure then outcome.accept_failure(context, flight, failure) end
  local is_late = not failure or failure.code == "timeout"
  -- requests in other workers have their own deadlines, so a timeout here does not apply to them
  if not is_late then
    roster:report(flight, failure)
    if context.fleet then context.fleet:publish_report(flight, failure) end
  end
  if is_late and flight:has_time_left() then
    roster:unlock_all(flight)
    return context.queue:add(flight)
  end
  roster:resolve(flight, nil, choose_failure(flight, failure))
end

-- Returns whether the flight has the lock of a key. If not, the flight is watched.
local function lock(context, flight, lock_key)
  local is_locked, holder = context.roster:lock(flight, lock_key)
  if is_locked then return true end
  if not context.poller:watch(flight, lock_key, holder) then
    context.roster:resolve(flight, nil, { code = "internal" })
  end
  return false
end

--- Serves a flight that a runner has taken. The lock of its key comes first, and the flight keeps it while it waits for
-- the lock of its credential or for another attempt, but not if no Lua state was left. Yields. Returns true if none
-- was.
function attempts.serve(context, flight)
  local credential_key = flight.credential_key
  if not lock(context, flight, flight.key) or attempts.take_known(context, flight) then return false end
  local needs_proof = not flight.is_login and not context.store:is_proven(credential_key)
  if needs_proof then
    if not lock(context, flight, credential_key) then return false end
    -- another worker may have held that lock, and noted a refusal, since take_known
    if attempts.take_known(context, flight) then return false end
  end
  if context.fleet and not context.consult(flight, needs_proof) then return false end
  local answer, failure, is_pending, is_starved = attempt(context, flight)
  if not is_pending then finish(context, flight, answer, failure) end
  if is_starved then context.roster:unlock_all(flight) end
  return is_starved
end

return attempts
