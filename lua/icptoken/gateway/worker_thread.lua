-- Runs in a thread of nginx (ngx.run_worker_thread), in a Lua state without requests. Nothing else in the gateway
-- blocks on the network. Arguments and results are copied between Lua states, so they are plain data.

local ffi = require "ffi"
local icptoken = require "icptoken"
local certificates = require "icptoken.gateway.certificates"
local clock = require "icptoken.gateway.clock"
local jwt = require "icptoken.gateway.jwt"

local worker_thread = {}

ffi.cdef [[unsigned long icptoken_pthread_self(void) __asm__("pthread_self");]]

-- One client for each target (target.lua), by its key. It keeps its connection.
local clients = {}

local function get_client(target_key, options)
  local client = clients[target_key]
  if client then return client end
  local message, code, details
  client, message, code, details = icptoken.new(options)
  clients[target_key] = client
  return client, message, code, details
end

--- Creates a target's client, so that its first request is not delayed by that. Returns true; or false, a message and a
-- code.
function worker_thread.warm(target_key, options)
  local client, message, code = get_client(target_key, options)
  return client ~= nil, message, code
end

-- The seconds before its expiry from which on a token is no longer returned: a tenth of its lifetime, at most 10. If
-- the token has an expiry of its own, at least 1, as servers write whole seconds, but at most half of its lifetime. The
-- module's own cache follows the same rule (lifetime_leeway_ms in src/lifetime.c). It is repeated here because a token
-- table has no field for it: each cache decides how early it stops using a token.
local function compute_leeway(lifetime, token)
  local leeway = math.min(10, lifetime / 10)
  if leeway >= 1 or not jwt.read_expiry(token) then return leeway end
  return math.max(leeway, math.min(1, lifetime / 2))
end

-- With less time left, no request is made.
local MIN_SECONDS = 0.02

-- Replaces the deadline of a request by a timeout and returns that, rounded to hundredths of a second for messages.
-- Returns nil if too little time is left, as the call waited for a free thread.
local function set_timeout(request)
  local left = request.deadline - clock.now()
  if left < MIN_SECONDS then return nil end
  request.timeout, request.deadline = math.ceil(left * 100) / 100, nil
  return request.timeout
end

-- Returns a failure as the functions here do. seconds: the timeout of the request. attempts: how many were made.
local function fail(seconds, message, code, details, attempts)
  details = details or {}
  details.timeout, details.attempts = seconds, attempts
  return nil, message, code, details
end

-- Calls a function. Returns which thread called it and from when to when on clock.now(), followed by its results.
local function note_times(call, ...)
  local times = { thread = tonumber(ffi.C.icptoken_pthread_self()), began_at = clock.now() }
  return (function(...)
    times.finished_at = clock.now()
    return times, ...
  end)(call(...))
end

-- Returns when the first of the certificates expires that the server sent, in seconds since 1970; nil if the connection
-- is an old one.
local function find_certificate_expiry(stats)
  return stats.certificates and certificates.find_first_expiry(stats.certificates)
end

local function fetch(target_key, options, request)
  local seconds = set_timeout(request)
  if not seconds then return nil, nil, "not_requested" end
  local client, message, code, details = get_client(target_key, options)
  if not client then return fail(seconds, message, code, details) end
  local answer
  local attempts_before = client:stats().attempts
  answer, message, code, details = client:fetch(request)
  local stats = client:stats()
  local attempts = stats.attempts - attempts_before
  if not answer then
    details = details or {}
    details.certificate_expires_at = find_certificate_expiry(stats)
    return fail(seconds, message, code, details, attempts)
  end
  -- convert the module's wall-clock times to the monotonic clock; only that is used from here on
  local offset = clock.now() - clock.wall()
  return { token = answer.token, attempts = attempts, seconds = stats.timings.total,
    refresh_at = answer.refresh_at + offset, certificate_expires_at = find_certificate_expiry(stats),
    usable_until = answer.expires_at + offset - compute_leeway(answer.expires_at - clock.wall(), answer.token) }
end

-- Returns when the ID token of a login expires, on the wall clock: the earlier of what the answer says and of what it
-- says itself; nil if neither does.
local function find_expiry(identity)
  local own = jwt.read_expiry(identity.id_token)
  if not own or not identity.expires_at then return own or identity.expires_at end
  return math.min(own, identity.expires_at)
end

local function login(_, options, request)
  local seconds = set_timeout(request)
  if not seconds then return nil, nil, "not_requested" end
  for name, value in pairs(request) do options[name] = value end
  local identity, message, code, details = icptoken.login(options)
  if not identity then return fail(seconds, message, code, details) end
  local expires_at = find_expiry(identity)
  return { token = identity.id_token, expires_at = expires_at and expires_at + clock.now() - clock.wall() }
end

--- Makes a token request. target_key, options: of the client. request: as for client:fetch, but with `deadline` (on
-- clock.now()) in place of `timeout`.
-- Returns { thread, began_at, finished_at }: the thread, and its times on clock.now(); and then { token, refresh_at,
-- usable_until (on clock.now()), attempts (how many were made), seconds (of the one that succeeded),
-- certificate_expires_at (of a new connection) }; or nil, message, code, details, where the details also have `timeout`
-- (seconds that were left), `attempts` and `certificate_expires_at`. The code is
-- "not_requested" if too little time was left for a request.
function worker_thread.fetch(...)
  return note_times(fetch, ...)
end

--- Logs in at the cluster's identity provider. request: username, password and deadline. Returns the times as fetch
-- does; and then { token, expires_at } (the ID token, and its expiry on clock.now() or nil); or nil, message, code,
-- details.
function worker_thread.login(...)
  return note_times(login, ...)
end

return worker_thread
