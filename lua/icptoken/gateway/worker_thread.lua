-- What runs in a thread of nginx, in a Lua state of its own without requests: the only place where the gateway waits
-- for the network. Arguments and results are copied from state to state, so they are plain data.

local ffi = require "ffi"
local icptoken = require "icptoken"
local clock = require "icptoken.gateway.clock"

local worker_thread = {}

ffi.cdef [[unsigned long icptoken_pthread_self(void) __asm__("pthread_self");]]

-- One client a gateway, which keeps its connection.
local clients = {}

local function get_client(gateway, options)
  local client = clients[gateway]
  if client then return client end
  local message, code, details
  client, message, code, details = icptoken.new(options)
  clients[gateway] = client
  return client, message, code, details
end

--- Makes a client, so that the first request does not pay for it.
function worker_thread.warm(gateway, options)
  local client, message, code = get_client(gateway, options)
  return client ~= nil, message, code
end

-- Shortly before its end a token is not handed out any more: a tenth of its life, 10 s at most, and a second at least
-- as servers write whole seconds, but never more than half of its life. The rule of the module's own cache.
local function compute_leeway(life)
  return math.max(math.min(10, life / 10), math.min(1, life / 2))
end

-- With less time left, nothing is begun.
local MIN_SECONDS = 0.02

-- Makes the deadline of a request its timeout, and gives that; in hundredths, as messages tell it. nil when too little
-- is left, as no thread was free.
local function set_timeout(request)
  local left = request.deadline - clock.now()
  if left < MIN_SECONDS then return nil end
  request.timeout, request.deadline = math.ceil(left * 100) / 100, nil
  return request.timeout
end

-- A failure as the functions here give it: with the time that there was, and how many attempts were made in it.
local function fail(seconds, message, code, details, attempts)
  details = details or {}
  details.timeout, details.attempts = seconds, attempts
  return nil, message, code, details
end

-- Calls a function. Returns which thread did, and from when to when on clock.now(); and then its results.
local function note_times(call, ...)
  local times = { thread = tonumber(ffi.C.icptoken_pthread_self()), began_at = clock.now() }
  return (function(...)
    times.ended_at = clock.now()
    return times, ...
  end)(call(...))
end

local function fetch(gateway, options, request)
  local seconds = set_timeout(request)
  if not seconds then return nil, nil, "not_asked" end
  local client, message, code, details = get_client(gateway, options)
  if not client then return fail(seconds, message, code, details) end
  local answer
  local attempts_before = client:stats().attempts
  answer, message, code, details = client:fetch(request)
  local stats = client:stats()
  local attempts = stats.attempts - attempts_before
  if not answer then return fail(seconds, message, code, details, attempts) end
  -- the module's times are on the wall clock, which counts from here on no more
  local offset = clock.now() - clock.wall()
  return { token = answer.token, attempts = attempts, seconds = stats.timings.total,
    refresh_at = answer.refresh_at + offset,
    end_at = answer.expires_at + offset - compute_leeway(answer.expires_at - clock.wall()) }
end

local function login(_, options, request)
  local seconds = set_timeout(request)
  if not seconds then return nil, nil, "not_asked" end
  for name, value in pairs(request) do options[name] = value end
  local identity, message, code, details = icptoken.login(options)
  if not identity then return fail(seconds, message, code, details) end
  local expires_at = identity.expires_at and identity.expires_at + clock.now() - clock.wall()
  return { token = identity.id_token, expires_at = expires_at }
end

--- Asks the endpoint. gateway names the client, whose options these are. request: as for client:fetch, but `deadline`
-- on clock.now() in place of a timeout. Returns first { thread, began_at, ended_at }: which thread this was, and from
-- when to when on clock.now(); and then the token, when to renew it and until when to use it; or nil, message, code,
-- details, with the timeout that was left and the number of attempts in the details. A token comes with that number as
-- well, and with the seconds that its own attempt took. The code is "not_asked" when none was.
function worker_thread.fetch(...)
  return note_times(fetch, ...)
end

--- Logs in at the cluster's identity provider. request: username, password and deadline. Returns first what fetch
-- does; and then the ID token and, where it is known, when it expires on clock.now(); or nil, message, code, details.
function worker_thread.login(...)
  return note_times(login, ...)
end

return worker_thread
