-- What the result of a token request or a login changes in the dict: tokens, refusals, pauses, and which credentials
-- are known.
--
-- The functions take `context`: settings, keys, store, metrics, fleet (see flights.new).

local clock = require "icptoken.gateway.clock"
local log = require "icptoken.gateway.log"

local now = clock.now

local outcome = {}

-- An ID token is kept for its user's next login until it has this much left, the least that a token service may return
-- (https://distribution.github.io/distribution/spec/auth/token/).
local MIN_IDENTITY_SECONDS = 60
-- If this many different keys fail in a row, their failures count as the endpoint's.
local MIN_FAILING_KEYS = 3
-- A dict without room concerns all keys, so the log has one line in this time.
local NO_ROOM_SECONDS = 60
local NO_ROOM = "tokens do not fit into lua_shared_dict '%s' (%s), that of key %s for one, so each of their requests "
  .. "fetches another: make the dict larger in nginx.conf, and restart nginx (request %s)"
-- These changes are not logged; the status page shows them.
local PAUSED = "renewals of all keys are paused because the endpoint fails; tokens are used until they expire"
local RESUMED = "renewals are no longer paused because the endpoint answered"

-- Returns whether this worker has not logged NO_ROOM for NO_ROOM_SECONDS. (store:is_first would need room in the dict.)
local function is_news(context)
  local time = now()
  if time < (context.no_room_until or 0) then return false end
  context.no_room_until = time + NO_ROOM_SECONDS
  return true
end

-- Stores a token until expires_at, if that has not passed. refresh_at: from when on it is due for renewal.
local function put_token(context, flight, authorization, refresh_at, expires_at)
  if expires_at <= now() then return end
  local is_stored, problem = context.store:put_token(flight.key, authorization, refresh_at, expires_at)
  if is_stored then return context.metrics:note_expiry(expires_at) end
  if not is_news(context) then return end
  log.write(ngx.WARN, NO_ROOM:format(context.settings.dict, problem, context.store:shorten(flight.key),
    flight.request_id))
end

--- Stores the token of a flight. answer: what worker_thread.fetch returned. Returns its Authorization value.
function outcome.accept_token(context, flight, answer)
  local store, target_key = context.store, context.settings.target.key
  local authorization = "Bearer " .. answer.token
  local expires_at = math.min(answer.usable_until, flight.credential_expiry or math.huge)
  local refresh_at = math.min(answer.refresh_at, expires_at)
  put_token(context, flight, authorization, refresh_at, expires_at)
  store:put_proof(flight.credential_key, expires_at)
  if store:resume(target_key) then store:add_change(target_key, "renewals_resumed", RESUMED) end
  store:resume(flight.key)
  store:clear_failing(target_key)
  store:put_known(flight.credential_key)
  if context.fleet then context.fleet:publish_token(flight, answer.token, authorization, refresh_at, expires_at) end
  return authorization
end

--- Stores a token that another gateway of the fleet has requested: authorization, refresh_at, expires_at. Returns its
-- Authorization value.
function outcome.accept_shared_token(context, flight, shared)
  local expires_at = math.min(shared.expires_at, flight.credential_expiry or math.huge)
  put_token(context, flight, shared.authorization, math.min(shared.refresh_at, expires_at), expires_at)
  context.store:resume(flight.key)
  context.store:put_known(flight.credential_key)
  return shared.authorization
end

--- Stores the ID token that a login returned, { token, expires_at }. Returns it.
function outcome.accept_identity(context, flight, identity)
  local keep_until = (identity.expires_at or 0) - MIN_IDENTITY_SECONDS
  local id_token_key = context.keys:compute_id_token_key(identity.token)
  if keep_until > now() then
    context.store:put_identity(flight.key, flight.sealing_key, identity, keep_until, id_token_key)
  end
  context.store:put_known(flight.credential_key)
  context.store:put_known(id_token_key)
  if context.fleet then context.fleet:publish_proof(flight) end
  return identity
end

--- Notes for some seconds that the endpoint refused a flight's credential or its key.
function outcome.accept_refusal(context, flight, failure, seconds)
  local store = context.store
  if failure.code ~= "unauthorized" then return store:put_refusal(flight.key, failure, seconds) end
  store:put_refusal(flight:get_verdict_key(), failure, seconds)
  store:drop_known(flight.credential_key)
  if flight.is_login then return end
  store:drop_proof(flight.credential_key)
  store:drop_identity(flight.credential_key)
end

--- Notes why a token request or a login failed: a refusal, and a pause of renewals.
function outcome.accept_failure(context, flight, failure)
  local store, settings = context.store, context.settings
  if failure.code == "unauthorized" or failure.code == "forbidden" then
    outcome.accept_refusal(context, flight, failure, settings.error_ttl)
    if context.fleet then context.fleet:publish_refusal(flight, failure) end
  end
  local is_general = failure.is_general and store:count_failing(settings.target.key, flight.key) >= MIN_FAILING_KEYS
  if not flight.renewed_until then return end
  store:pause(flight.key, failure.retry_after)
  if is_general and store:pause(settings.target.key, failure.retry_after) then
    store:add_change(settings.target.key, "renewals_paused", PAUSED)
  end
end

--- Returns a failure if the endpoint has recently refused the flight's key or its credential, or nil.
function outcome.find_refusal(context, flight)
  return context.store:get_refusal(flight.key) or context.store:get_refusal(flight:get_verdict_key())
end

--- Returns what the dict has for a flight: an Authorization value, or of a login { token, expires_at }; or nil and, if
-- there is one, a refusal.
function outcome.find_known(context, flight)
  if flight.is_login then
    local identity = context.store:get_identity(flight.key, flight.sealing_key)
    if identity then return identity end
  else
    local authorization, is_due = context.store:get_token(flight.key)
    if authorization and not (flight.renewed_until and is_due) then return authorization end
  end
  return nil, outcome.find_refusal(context, flight)
end

--- Returns whether the renewal of a token is paused. token_key: its key.
function outcome.is_paused(context, token_key)
  return context.store:is_paused(context.settings.target.key) or context.store:is_paused(token_key)
end

return outcome
