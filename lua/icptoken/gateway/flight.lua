-- A flight: the token request, or the login, for one key, and all requests that wait for its result.
--
-- Its states:
--   queued    in the queue, until a runner takes it
--   running   with a runner
--   watched   another flight, of another worker or another scope, holds a lock that it needs; the poller waits for it
--   delayed   an attempt has failed, and the poller waits for the time of the next one
--   shared    another gateway of the fleet makes the request, or one with the credential; the poller waits for it
--   done      it has a result or a failure, and all waiters have been woken
--
-- It is awaited while a request waits on its semaphore (nginx removes waiters whose client it sees disconnect, and
-- client.lua notices others). It is wanted if it is awaited, or if it renews a token that is still valid. No request is
-- made for a flight that is not wanted.

local semaphore = require "ngx.semaphore"
local client = require "icptoken.gateway.client"
local clock = require "icptoken.gateway.clock"

local now = clock.now

local flight = {}
local flight_methods = {}
local flight_meta = { __index = flight_methods }

-- With less time left, no attempt is made.
local MIN_FETCH_SECONDS = 0.05

--- Returns a new flight, which is to be opened before anybody waits for it. plan: the fields from key to renewed_until
-- below. Times are on clock.now().
function flight.new(plan)
  return setmetatable({
    key = plan.key,                             -- of the token, or of the login
    is_login = plan.is_login,
    request = plan.request,                     -- for worker_thread.fetch or worker_thread.login
    request_id = plan.request_id,               -- of the client's request that caused it
    credential_key = plan.credential_key,
    credential_expiry = plan.credential_expiry, -- of a token request with an ID token that has one
    sealing_key = plan.sealing_key,             -- of a login: for the ID token in the dict
    renewed_until = plan.renewed_until,         -- expiry of the token that is renewed; nil once a request waits
    state = "queued",
    semaphore = nil,                            -- where requests wait
    descriptors = {},                           -- of the waiting clients' connections
    deadline = nil,                             -- of the last waiter
    -- of the queue
    client_address = nil,                       -- of the first waiter, if the credential is unknown
    known_client = nil,                         -- credential and first waiter's address, if it is known
    class = nil,                                -- in the metrics: known, unknown, renewal
    queued_as = nil,                            -- its class in the queue
    list = nil,                                 -- where the flight is queued
    taken_as = nil,                             -- its class when a runner took it
    -- of the attempts
    attempts = 0,
    is_sent = false,                            -- an attempt has begun
    last_failure = nil,                         -- of an attempt that was not the last
    wake_at = nil,                              -- when a delayed flight continues
    -- of the locks in the dict
    locks = {},                                 -- set of the keys whose lock it holds
    owner = nil,                                -- its name as their holder
    awaited_lock = nil, awaited_holder = nil,   -- what a watched flight waits for
    -- of the fleet
    leases = {},                                -- by key: those that it holds in Redis or waits for (fleet.lua)
    needs_proof = nil,                          -- whether its credential is not known to be right
    is_alone = nil,                             -- whether it makes its request without the fleet
    asked = 0, ask_at = nil,                    -- of a shared flight: queries to Redis so far; time of the next
    -- when done
    result = nil,                               -- an Authorization value; of a login { token, expires_at }
    failure = nil,
  }, flight_meta)
end

--- Creates its semaphore. Returns true, or nil and a message if there is no memory.
function flight_methods:open()
  local problem
  self.semaphore, problem = semaphore.new(0)
  return self.semaphore and true, problem
end

--- Returns whether requests wait for it.
function flight_methods:is_awaited()
  return self.semaphore:count() < 0
end

--- Returns whether a request waits whose client is still connected.
function flight_methods:is_present()
  return self:is_awaited() and not client.are_gone(self.descriptors)
end

--- Returns whether there is time for another attempt that begins in this many seconds (0 if omitted).
function flight_methods:has_time_left(seconds)
  return self:is_awaited() and now() + (seconds or 0) + MIN_FETCH_SECONDS < self.deadline
end

--- Returns the seconds that an attempt may take: until the last waiter's deadline, or `timeout`; for a renewal at most
-- half of the time until the token expires, so that there still is a token if the renewal fails.
function flight_methods:compute_limit(timeout)
  local limit = self.deadline and self.deadline - now() or timeout
  if self.renewed_until then limit = math.min(limit, (self.renewed_until - now()) / 2) end
  return math.max(MIN_FETCH_SECONDS, limit)
end

--- Returns the key under which the endpoint's refusal of the credential is remembered: for all token requests with it,
-- but for each login on its own.
function flight_methods:get_verdict_key()
  return self.is_login and self.key or self.credential_key
end

--- Returns the id of the request that sent the token request of this key: the flight's own, or that of another worker
-- whose result it waits for; nil if there was none.
function flight_methods:get_sent_id()
  if self.is_sent then return self.request_id end
  if self.awaited_lock ~= self.key then return nil end
  return (self.awaited_holder or ""):match ":(%x+)$"
end

--- Waits for the result, until a deadline. Yields. Returns whether the flight is done.
function flight_methods:wait(deadline)
  self.deadline = math.max(self.deadline or 0, deadline)
  client.add_descriptor(self.descriptors, client.get_descriptor())
  self.semaphore:wait(math.max(0, deadline - now()))
  return self.state == "done"
end

--- Makes it done and wakes all waiters. Does not free its locks; see roster.lua.
function flight_methods:finish(result, failure)
  self.result, self.failure, self.state = result, failure, "done"
  local waiting = -self.semaphore:count()
  if waiting > 0 then self.semaphore:post(waiting) end
end

return flight
