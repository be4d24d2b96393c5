-- One question to the token endpoint for all who need its answer.
--
-- A flight is one key's question. Requests wait for it on a semaphore, each until its own deadline; runners, which are
-- timers of nginx, take flights from a queue, first in, first out, and let a worker thread ask. At most max_inflight
-- runners exist, so that is how many questions a worker has under way; fewer where Lua states are few (permits.lua). A
-- request is never parked in a thread itself: a reload would reset it.
--
-- Between workers a lock in the dict says who asks. Flights of keys that another worker has locked are looked after by
-- one poller a worker, until there is a token, or a report of the failure, or the lock is free or its owner gone.
--
-- A credential that has not had a token for a while is tried once at a time, by all workers: whoever wants another
-- scope for it waits in the same way until it is known whether it is good. So a wrong password and many images are one
-- attempt, not one for each.
--
-- A login is a flight, too; what it brings is an ID token, and its key is made of the credential alone.
--
-- A flight is awaited while somebody waits on its semaphore (nginx takes those off who go away); it is wanted if it is
-- awaited, or renews a token that is still good. What nobody wants is not asked.
--
-- So a flight is in the queue (and a runner will take it), or with a runner, or watched (by the poller), until it is
-- resolved or forgotten. Runners and poller are timers, and timers can get lost: whoever comes for a flight looks
-- whether they are there.

local ffi = require "ffi"
local semaphore = require "ngx.semaphore"
local clock = require "icptoken.gateway.clock"
local endpoint = require "icptoken.gateway.endpoint"
local key = require "icptoken.gateway.key"
local permits = require "icptoken.gateway.permits"
local queue = require "icptoken.gateway.queue"

local now = clock.now

local flights = {}
local flights_methods = {}
local flights_meta = { __index = flights_methods }

ffi.cdef [[int icptoken_kill(int, int) __asm__("kill");]]

local ESRCH = 3

local POLL_SECONDS = 0.01
-- A lock outlives the longest fetch by this much; its owner frees it long before.
local LOCK_SLACK_SECONDS = 5
-- A fetch of less is not begun.
local MIN_FETCH_SECONDS = 0.05
-- A gateway that was not started says so once in so many seconds.
local TELL_SECONDS = 60
-- A credential that had a token so long ago may have become wrong; another attempt goes first.
local PROVEN_SECONDS = 60
-- An ID token is remembered for its user's next login until it has so long left, the least that a token service may
-- hand out (https://distribution.github.io/distribution/spec/auth/token/).
local MIN_IDENTITY_SECONDS = 60
-- What is about one key, and not about the credential or the endpoint.
local KEY_FAILURES = { forbidden = true, not_found = true, http_status = true, rate_limited = true }

-- A timer of no delay that has not begun after so long was dropped by nginx.
local LOST_SECONDS = 1

local TIMEOUT = { code = "timeout" }

-- Numbers the locks of this process, of all its gateways.
local sequence = 0

local function next_owner()
  sequence = sequence + 1
  return ngx.worker.pid() .. ":" .. sequence
end

local function is_running(owner)
  local pid = tonumber(owner:match "^(%d+):")
  -- kill takes 0, and what does not fit, for groups of processes
  if not pid or pid < 1 or pid >= 2 ^ 31 then return false end
  return ffi.C.icptoken_kill(pid, 0) == 0 or ffi.errno() ~= ESRCH
end

--- For one gateway in one worker. settings: those of endpoint.new, and error_ttl (seconds), max_inflight, max_queue.
function flights.new(settings, tokens, metrics, log)
  local self = setmetatable({ settings = settings, store = tokens, metrics = metrics, log = log,
    endpoint = endpoint.new(settings, tokens, metrics, log), queue = queue.new(metrics), by_key = {}, watched = {},
    runners = {}, started = false }, flights_meta)
  self.forget = function(flight)
    if self.by_key[flight.key] == flight then self.by_key[flight.key] = nil end
  end
  return self
end

local function is_awaited(flight)
  return flight.semaphore:count() < 0
end

local function is_paused(self, name)
  return self.store:is_paused(self.settings.client.name) or self.store:is_paused(name)
end

local function is_wanted(self, flight)
  if is_awaited(flight) then return true end
  return flight.renewed_end ~= nil and now() < flight.renewed_end and not is_paused(self, flight.key)
end

-- result: an Authorization value, or of a login { token, expires_at }.
local function resolve(self, flight, result, failure)
  self.forget(flight)
  flight.result, flight.failure, flight.done = result, failure, true
  local waiting = -flight.semaphore:count()
  if waiting > 0 then flight.semaphore:post(waiting) end
end

local run, poll

-- A timer that is due at once. nginx drops one that is too many (lua_max_running_timers) when it is due, without a word
-- to who set it, so each has a ticket to tell that by. Returns the ticket, or nil where there can be no timer.
local function start_timer(self, body)
  local ticket = { due = now() + LOST_SECONDS, began = false }
  local ok, problem = ngx.timer.at(0, body, self, ticket)
  if ok then return ticket end
  self.log(ngx.ERR, "no timer: " .. problem)
  return nil
end

local function is_lost(ticket)
  return not ticket.began and now() > ticket.due
end

-- What the dict has for a flight: an Authorization value, or of a login the ID token.
local function find_known(self, flight)
  if flight.sealing_key then return self.store:get_identity(flight.key, flight.sealing_key) end
  local authorization, is_due = self.store:get_token(flight.key)
  if authorization and not (flight.renewed_end and is_due) then return authorization end
end

local function find_refusal(self, flight)
  return self.store:get_refusal(flight.key) or flight.credential and self.store:get_refusal(flight.credential)
end

-- A token or a refusal that came while the flight was queued is its answer.
local function take_known(self, flight)
  local known = find_known(self, flight)
  local refusal = not known and find_refusal(self, flight) or nil
  if not known and not refusal then return false end
  resolve(self, flight, known, refusal)
  return true
end

-- How long a question may take: until the last who came for it leaves; a renewal half of the time that is left, so that
-- there is still a token to hand out when it fails.
local function compute_limit(self, flight)
  local limit = flight.deadline and flight.deadline - now() or self.settings.timeout
  if flight.renewed_end then limit = math.min(limit, (flight.renewed_end - now()) / 2) end
  return math.max(MIN_FETCH_SECONDS, limit)
end

local function accept_token(self, flight, answer)
  local authorization = "Bearer " .. answer.token
  local end_at = math.min(answer.end_at, flight.credential_end or math.huge)
  local refresh_at = math.min(answer.refresh_at, end_at)
  if end_at > now() then
    local stored, problem = self.store:put_token(flight.key, authorization, refresh_at, end_at)
    if not stored then
      self.log(ngx.WARN, ("key %s: the token finds no room in the dict (%s)"):format(key.shorten(flight.key), problem))
    end
  end
  self.store:put_proof(flight.credential, end_at, PROVEN_SECONDS)
  self.store:resume(self.settings.client.name)
  self.store:resume(flight.key)
  return authorization
end

local function accept_identity(self, flight, identity)
  local end_at = (identity.expires_at or 0) - MIN_IDENTITY_SECONDS
  if end_at > now() then
    local credential = flight.name_credential(identity.token)
    self.store:put_identity(flight.key, flight.sealing_key, identity, end_at, credential)
  end
  return identity
end

local function accept_failure(self, flight, failure, owner)
  if failure.code == "unauthorized" then
    self.store:put_refusal(flight.credential or flight.key, failure, self.settings.error_ttl)
    if flight.credential then
      self.store:drop_proof(flight.credential)
      self.store:drop_identity(flight.credential)
    end
  elseif failure.code == "forbidden" then
    self.store:put_refusal(flight.key, failure, self.settings.error_ttl)
  end
  if flight.renewed_end then
    self.store:pause(failure.is_general and self.settings.client.name or flight.key, failure.retry_after)
  end
  -- who waits in another worker has a deadline of its own, and may have more time to ask
  if failure.code ~= "timeout" then self.store:put_report(owner, failure) end
end

-- Did a question end before the deadline of somebody who came for it meanwhile?
local function has_time_left(flight)
  return is_awaited(flight) and flight.deadline - now() > MIN_FETCH_SECONDS
end

-- Where no Lua state is left, the flight goes back in front of the queue, and the third result is true.
local function ask(self, flight)
  local name = flight.sealing_key and "login" or "fetch"
  local answer, failure, is_starved = self.endpoint:ask(name, flight.request, now() + compute_limit(self, flight))
  if is_starved then self.queue:add_first(flight) end
  return answer, failure, is_starved
end

-- Asks for a token, or logs in, with the lock in hand, and lets all know. Returns whether no Lua state was left.
local function fetch(self, flight, owner)
  local answer, failure, is_starved = ask(self, flight)
  if is_starved then return true end
  if answer then
    local accept = flight.sealing_key and accept_identity or accept_token
    return resolve(self, flight, accept(self, flight, answer))
  end
  if failure then accept_failure(self, flight, failure, owner) end
  local is_late = not failure or failure.code == "timeout"
  if is_late and has_time_left(flight) then return self.queue:add(flight) end
  resolve(self, flight, nil, failure or TIMEOUT)
end

-- Returns whether there is a poller.
local function ensure_poller(self)
  if not self.poller or is_lost(self.poller) then self.poller = start_timer(self, poll) end
  return self.poller ~= nil
end

-- Somebody else asks: what this flight waits for will be found in the dict. lock: the key that is locked.
local function watch(self, flight, lock, holder)
  flight.lock, flight.holder = lock, holder
  self.watched[flight.key] = flight
  if ensure_poller(self) then return end
  self.watched[flight.key] = nil
  resolve(self, flight, nil, { code = "internal" })
end

-- Takes the lock of a flight's key, or of its credential, and calls a function with the flight and the lock's owner; or
-- has the flight watched. Returns what the function does.
local function with_lock(self, flight, lock, owner, act)
  local locked, holder = self.store:lock(lock, owner, self.settings.timeout + LOCK_SLACK_SECONDS)
  if not locked then return watch(self, flight, lock, holder) end
  local ok, result = pcall(act, self, flight, owner)
  self.store:unlock(lock, owner)
  if not ok then error(result, 0) end
  return result
end

local function fetch_unknown(self, flight, owner)
  if not take_known(self, flight) then return fetch(self, flight, owner) end
end

local function serve_key(self, flight, owner)
  return with_lock(self, flight, flight.key, owner, fetch_unknown)
end

-- Returns whether no Lua state was left.
local function serve(self, flight)
  if not is_wanted(self, flight) then return self.forget(flight) end
  local credential = flight.credential
  if not credential or self.store:is_proven(credential) then return serve_key(self, flight, next_owner()) end
  return with_lock(self, flight, credential, next_owner(), serve_key)
end

-- Returns whether there was a flight, and whether no Lua state was left for it.
local function serve_next(self)
  local flight = self.queue:take()
  if not flight then return false end
  local ok, result = pcall(serve, self, flight)
  if ok then return true, result end
  self.log(ngx.ERR, "internal error while fetching a token: " .. tostring(result))
  resolve(self, flight, nil, { code = "internal" })
  return true
end

-- Serves flights until the queue is empty, each with a permit.
local function drain_queue(self)
  local was_served, is_starved
  repeat
    local ok
    permits.acquire(is_starved)
    ok, was_served, is_starved = pcall(serve_next, self)
    permits.release()
    if not ok then error(was_served, 0) end
  until not was_served
end

-- The body of a runner. What is under way goes on while the worker winds up (premature): requests wait for it.
function run(_, self, ticket)
  if not self.runners[ticket] then return end -- it was given up for lost
  ticket.began = true
  local ok, problem = pcall(drain_queue, self)
  if not ok then self.log(ngx.ERR, "internal error while fetching tokens: " .. tostring(problem)) end
  self.runners[ticket] = nil
end

-- How many runners there are, and whether one of them is yet to begin.
local function count_runners(self)
  local count, is_pending = 0, false
  for ticket in pairs(self.runners) do
    if is_lost(ticket) then
      self.runners[ticket] = nil
    else
      count, is_pending = count + 1, is_pending or not ticket.began
    end
  end
  return count, is_pending
end

-- Has one more runner started where there may be more. Returns whether there is any.
local function start_runner(self)
  local count = count_runners(self)
  if count >= self.settings.max_inflight then return true end
  local ticket = start_timer(self, run)
  if ticket then self.runners[ticket] = true end
  return ticket ~= nil or count > 0
end

-- Looks after a flight whose key or credential another flight has locked. Returns whether that is over.
local function check_watched(self, flight)
  if not is_wanted(self, flight) then
    self.forget(flight)
    return true
  end
  if take_known(self, flight) then return true end
  local holder = self.store:get_lock(flight.lock)
  if holder and holder == flight.holder then
    if is_running(holder) then return false end
    self.log(ngx.WARN, ("key %s: its lock belonged to a worker that is gone"):format(key.shorten(flight.key)))
    self.store:unlock(flight.lock, holder)
  end
  local report = flight.holder and self.store:get_report(flight.holder)
  if report and not (flight.lock ~= flight.key and KEY_FAILURES[report.code]) then
    resolve(self, flight, nil, report)
    return true
  end
  self.queue:add_first(flight)
  start_runner(self)
  return true
end

local function check_all_watched(self)
  for name, flight in pairs(self.watched) do
    local ok, is_over = pcall(check_watched, self, flight)
    if not ok then
      self.log(ngx.ERR, "a fault of icptoken: " .. tostring(is_over))
      resolve(self, flight, nil, { code = "internal" })
    end
    if not ok or is_over then self.watched[name] = nil end
  end
end

-- The body of the poller.
function poll(_, self, ticket)
  if self.poller ~= ticket then return end -- it was given up for lost
  ticket.began = true
  check_all_watched(self)
  while next(self.watched) do
    ngx.sleep(POLL_SECONDS)
    check_all_watched(self)
  end
  self.poller = nil
end

-- Sees to it that somebody looks after a flight that was there already.
local function ensure_served(self, flight)
  if flight.list and not select(2, count_runners(self)) then start_runner(self) end
  if self.watched[flight.key] == flight then ensure_poller(self) end
end

local function add_flight(self, flight)
  local problem
  flight.semaphore, problem = semaphore.new(0)
  if not flight.semaphore then
    self.log(ngx.ERR, "no semaphore: " .. tostring(problem))
    return nil, { code = "internal" }
  end
  if not start_runner(self) then return nil, { code = "internal" } end
  self.by_key[flight.key] = flight
  self.queue:add(flight)
  return flight
end

-- Says now and then why nothing is done.
local function tell_not_started(self)
  if not self.store:is_first("n" .. self.settings.client.name, TELL_SECONDS) then return end
  self.log(ngx.EMERG, "no token is fetched: is there a line \"init_worker_by_lua_block { gateway:start() }\" in "
    .. "nginx.conf, and lua_code_cache on? Until then requests are answered with 503")
end

-- May a new cold flight be queued?
local function find_obstacle(self)
  if not self.started then tell_not_started(self) end
  if not self.started or self.broken then return { code = "not_started" } end
  if self.queue:is_full(self.settings.max_queue, is_awaited, self.forget) then return { code = "queue_full" } end
end

local function wait(self, flight, deadline)
  local started = now()
  flight.deadline = math.max(flight.deadline or 0, deadline)
  flight.semaphore:wait(math.max(0, deadline - started))
  self.metrics:observe("wait_seconds", now() - started)
  if flight.done then return flight.result, flight.failure end
  return nil, { code = "timeout" }
end

-- Somebody needs what was only to be renewed.
local function turn_cold(self, flight)
  flight.renewed_end = nil
  if flight.list then self.queue:add(flight) end
end

-- A new flight that somebody will wait for; nil and a failure where there can be none.
local function begin_cold(self, flight)
  local failure = find_refusal(self, flight) or find_obstacle(self)
  if failure then return nil, failure end
  return add_flight(self, flight)
end

-- Waits for what a key's flight brings: one that is there already, or the one that make_flight returns (or nil and a
-- failure).
local function join(self, name, make_flight, ...)
  local flight, failure = self.by_key[name]
  if not flight then
    flight, failure = make_flight(name, ...)
    if flight then flight, failure = begin_cold(self, flight) end
    if not flight then return nil, failure end
  else
    if flight.renewed_end then turn_cold(self, flight) end
    ensure_served(self, flight)
  end
  return wait(self, flight, now() + self.settings.timeout)
end

-- make_request returns the request, the name of its credential, and when the credential expires (or nil); or nil and a
-- failure.
local function make_fetch(name, make_request)
  local request, credential, credential_end = make_request()
  if not request then return nil, credential end
  return { key = name, request = request, credential = credential, credential_end = credential_end }
end

--- Waits for a key's token. Returns its Authorization value, or nil and a failure. make_request is called for a new
-- question; it returns the request, the name of its credential, and when the credential expires (or nil); or nil and a
-- failure.
function flights_methods:obtain(name, make_request)
  return join(self, name, make_fetch, make_request)
end

--- Has a key's token renewed, which is good until renewed_end, behind all who wait for one, if there is room in the
-- queue. Returns at once; false where its renewals pause, as one has failed.
function flights_methods:renew(name, renewed_end, make_request)
  local flight = self.by_key[name]
  if flight then
    ensure_served(self, flight)
    return true
  end
  if is_paused(self, name) then return false end
  if find_obstacle(self) or self.queue:count_renewals() >= self.settings.max_queue then return true end
  flight = make_fetch(name, make_request)
  if not flight then return true end
  flight.renewed_end = renewed_end
  add_flight(self, flight)
  return true
end

local function make_login(name, sealing_key, name_credential, request)
  return { key = name, sealing_key = sealing_key, name_credential = name_credential, request = request }
end

--- The ID token of a user, { token, expires_at }, or nil and a failure: one that an earlier login brought, or that a
-- login brings, for which it waits. name: of the credential. sealing_key: made of the credential, for what is kept.
-- name_credential: gives the name that an ID token has as a credential itself. request: username, password.
function flights_methods:log_in(name, sealing_key, name_credential, request)
  local identity = self.store:get_identity(name, sealing_key)
  if identity then return identity end
  return join(self, name, make_login, sealing_key, name_credential, request)
end

-- One of many at a time, so that as many Lua states are made.
local function warm(_, self)
  local ok, problem = self.endpoint:warm()
  if ok or self.broken then return end
  self.broken = true
  self.log(ngx.EMERG, ("%s: is there a line \"thread_pool %s threads=16;\" in the main part of nginx.conf? Until "
    .. "then every request is answered with 503"):format(problem, self.settings.thread_pool))
end

--- Begins work in this worker, in init_worker_by_lua.
function flights_methods:start()
  self.started = true
  for _ = 1, self.settings.max_inflight do
    local ok, problem = ngx.timer.at(0, warm, self)
    if not ok then self.log(ngx.ERR, "no timer: " .. problem) end
  end
end

return flights
