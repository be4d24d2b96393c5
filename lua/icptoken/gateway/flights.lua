-- One token request for all who need its answer.
--
-- A flight is one key's token request. Requests wait for it on a semaphore, each until its own deadline; runners, which
-- are timers of nginx, take flights from a queue, which decides who goes first (queue.lua), and make the token request
-- in a worker thread. At most max_inflight runners exist, so that is how many token requests a worker has under way;
-- fewer where Lua states are few (permits.lua). A request is never parked in a thread itself: a reload would reset it.
--
-- Where more come than can be served, the time until each one's deadline must go to those who can still get an answer:
-- a flight that would wait too long for a runner is refused when it comes, and one that has waited too long is refused
-- without a token request.
--
-- Between workers a lock in the dict says who asks. Flights of keys that another worker has locked are looked after by
-- one poller a worker, until there is a token, or a report of the failure, or the lock is free or its owner gone. The
-- same poller puts flights back into the queue whose attempt failed and that wait for the next one (retries), so that
-- they occupy no runner meanwhile. They keep their lock.
--
-- A credential that has not had a token for a while is tried once at a time, by all workers: whoever wants another
-- scope for it waits in the same way until it is known whether it is good. So a wrong password and many images are one
-- attempt, not one for each.
--
-- A login is a flight, too; what it brings is an ID token, and its key is made of the credential alone.
--
-- A flight is awaited while somebody waits on its semaphore (nginx removes waiters whose client it sees disconnect, and
-- client.lua tells of others); it is wanted if it is awaited, or renews a token that is still good. No token request is
-- made for a flight that is not wanted.
--
-- So a flight is in the queue (and a runner will take it), or with a runner, or watched or delayed (and the poller
-- looks after it), until it is resolved. Runners and poller are timers, and timers can get lost: whoever comes for a
-- flight looks whether they are there.

local ffi = require "ffi"
local semaphore = require "ngx.semaphore"
local client = require "icptoken.gateway.client"
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
-- After these the identity provider has not judged a login.
local UNJUDGED_CODES = { resolve = true, connect = true, proxy = true }
local UNJUDGED_STATUSES = { [502] = true, [503] = true, [504] = true }

-- A timer of no delay that has not begun after so long was dropped by nginx.
local LOST_SECONDS = 1

-- Back-off before the first retry, doubled for each further one, give or take a tenth; as the module's own.
local BACKOFF_SECONDS = 0.25
-- So many different keys must fail one after the other before their failures are taken for the endpoint's.
local MIN_FAILING_KEYS = 3
-- A flight is refused when it comes if by an estimate, which is not exact, its answer would come after so many times
-- the timeout.
local WAIT_MARGIN = 1.25
-- The longest Retry-After of a refusal for lack of time.
local MAX_OVERLOAD_SECONDS = 60

local TIMEOUT = { code = "timeout" }
local CLIENT_GONE = { code = "client_gone" }
local QUEUE_FULL = { code = "queue_full" }

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

--- For one gateway in one worker. settings: those of endpoint.new, and error_ttl (seconds), max_inflight, max_queue,
-- retries. find_address: returns what tells the current request's client from others, as a string.
function flights.new(settings, tokens, metrics, log, find_address)
  local self = setmetatable({ settings = settings, store = tokens, metrics = metrics, log = log,
    endpoint = endpoint.new(settings, tokens, metrics, log), queue = queue.new(metrics, settings.max_inflight),
    find_address = find_address, by_key = {}, watched = {}, delayed = {}, runners = {}, started = false }, flights_meta)
  self.drop = function(flight) self:resolve(flight, nil, CLIENT_GONE) end
  self.displace = function(flight) self:resolve(flight, nil, QUEUE_FULL) end
  return self
end

local function is_awaited(flight)
  return flight.semaphore:count() < 0
end

-- Whether somebody waits whose connection is open.
local function is_present(flight)
  return is_awaited(flight) and not client.are_gone(flight.descriptors)
end

local function is_paused(self, name)
  return self.store:is_paused(self.settings.client.name) or self.store:is_paused(name)
end

local function is_wanted(self, flight)
  if is_present(flight) then return true end
  return flight.renewed_end ~= nil and now() < flight.renewed_end and not is_paused(self, flight.key)
end

-- Returns a lock, if the flight holds it.
local function unlock_one(self, flight, name)
  if not flight.locks[name] then return end
  flight.locks[name] = nil
  self.store:unlock(name, flight.owner)
end

-- Returns all locks that a flight holds.
local function unlock(self, flight)
  for name in pairs(flight.locks) do unlock_one(self, flight, name) end
end

local function forget(self, flight)
  if self.by_key[flight.key] == flight then self.by_key[flight.key] = nil end
  unlock(self, flight)
end

-- Ends a flight: wakes all who wait for it. result: an Authorization value, or of a login { token, expires_at }.
local function resolve(self, flight, result, failure)
  forget(self, flight)
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

-- A method for callbacks that are made once.
flights_methods.resolve = resolve

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

-- Stores a token, and returns its Authorization value.
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
  self.store:clear_failing(self.settings.client.name)
  self.store:note_subject(flight.subject)
  return authorization
end

local function accept_identity(self, flight, identity)
  local end_at = (identity.expires_at or 0) - MIN_IDENTITY_SECONDS
  if end_at > now() then
    local credential = flight.name_credential(identity.token)
    self.store:put_identity(flight.key, flight.sealing_key, identity, end_at, credential)
  end
  self.store:note_subject(flight.subject)
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
  if failure.code == "unauthorized" then self.store:forget_subject(flight.subject) end
  local is_general = failure.is_general
    and self.store:count_failing(self.settings.client.name, flight.key) >= MIN_FAILING_KEYS
  if flight.renewed_end then
    self.store:pause(flight.key, failure.retry_after)
    if is_general then self.store:pause(self.settings.client.name, failure.retry_after) end
  end
  -- who waits in another worker has a deadline of its own, and may have more time to ask
  if failure.code ~= "timeout" then self.store:put_report(owner, failure) end
end

-- Did a question end before the deadline of somebody who came for it meanwhile?
local function has_time_left(flight)
  return is_awaited(flight) and flight.deadline - now() > MIN_FETCH_SECONDS
end

-- Whether a failed attempt may be repeated. An identity provider counts the logins that it judges, and locks accounts,
-- so a login is repeated only where it cannot have been judged.
local function is_repeatable(flight, failure)
  if not flight.sealing_key then return failure.retryable and failure.code ~= "no_memory" end
  return UNJUDGED_CODES[failure.code] or UNJUDGED_STATUSES[failure.status]
end

-- The seconds to wait before another attempt, or nil where there is to be none: the rules are the module's own.
local function compute_retry_wait(self, flight, failure)
  if not is_repeatable(flight, failure) or flight.attempts > self.settings.retries then return nil end
  if failure.code == "rate_limited" and not failure.retry_after then return nil end
  if failure.code == "timeout" then return nil end -- see fetch
  local backoff = BACKOFF_SECONDS * 2 ^ (flight.attempts - 1) * (0.9 + 0.2 * math.random())
  local wait = math.max(backoff, failure.retry_after or 0)
  local has_time = is_awaited(flight) and now() + wait + MIN_FETCH_SECONDS < flight.deadline
  return has_time and wait or nil
end

-- Returns whether there is a poller.
local function ensure_poller(self)
  if not self.poller or is_lost(self.poller) then self.poller = start_timer(self, poll) end
  return self.poller ~= nil
end

-- The report of an owner's failed attempt that is not the last one.
local function name_interim(owner)
  return owner .. ":interim"
end

-- Arranges another attempt, if there is to be one. Returns whether it did.
local function delay(self, flight, failure)
  local wait = compute_retry_wait(self, flight, failure)
  if not wait or not ensure_poller(self) then return false end
  flight.last_failure, flight.wake_at = failure, now() + wait
  self.delayed[flight] = true
  -- for those who wait in another worker and whose deadline passes before the next attempt is over
  self.store:put_report(name_interim(flight.owner), failure, flight.deadline - now())
  -- the credential's other scopes need not wait for this one's next attempt
  if flight.credential then unlock_one(self, flight, flight.credential) end
  return true
end

-- A password that has not been accepted recently may be wrong, and is not sent twice at a time.
local function may_hedge(self, flight)
  return not flight.request.password or self.store:is_subject_known(flight.subject)
end

-- One attempt. Returns the answer; nil and a failure, or nil where there was no time for one; or nil, nil, true where
-- that was not the end of it: the flight waits for another attempt, or, as no Lua state was left, is back in front of
-- the queue. The fourth result is true for the latter.
local function attempt(self, flight)
  local name, deadline = flight.sealing_key and "login" or "fetch", now() + compute_limit(self, flight)
  local answer, failure, is_starved = self.endpoint:ask(name, flight.request, deadline, may_hedge(self, flight))
  if is_starved then
    self.queue:add_first(flight)
    return nil, nil, true, true
  end
  if answer or failure then flight.attempts = flight.attempts + 1 end
  if failure and delay(self, flight, failure) then return nil, nil, true end
  if answer or failure then self.endpoint:note_result(name, failure) end
  return answer, failure
end

-- What those get whose flight failed: what the cluster said, if it ever did, rather than that there was no time left.
local function choose_failure(flight, failure)
  if failure and failure.code ~= "timeout" then return failure end
  return flight.last_failure or failure or TIMEOUT
end

-- Makes a token request, or logs in, with the locks in hand, and lets all know. Returns whether no Lua state was left.
local function fetch(self, flight)
  local answer, failure, is_pending, is_starved = attempt(self, flight)
  if is_pending then return is_starved end
  if answer then
    local accept = flight.sealing_key and accept_identity or accept_token
    return resolve(self, flight, accept(self, flight, answer))
  end
  if failure then accept_failure(self, flight, failure, flight.owner) end
  local is_late = not failure or failure.code == "timeout"
  if is_late and has_time_left(flight) then
    unlock(self, flight)
    return self.queue:add(flight)
  end
  resolve(self, flight, nil, choose_failure(flight, failure))
end

-- Another flight makes the request: what this one waits for will be found in the dict. lock: the name of its lock.
local function watch(self, flight, lock, holder)
  flight.lock, flight.holder = lock, holder
  self.watched[flight.key] = flight
  if ensure_poller(self) then return end
  self.watched[flight.key] = nil
  resolve(self, flight, nil, { code = "internal" })
end

-- Returns whether the flight has a lock, of its key or of its credential. Otherwise it is watched.
local function lock(self, flight, name)
  if flight.locks[name] then return true end
  if not next(flight.locks) then flight.owner = next_owner() end
  local locked, holder = self.store:lock(name, flight.owner, self.settings.timeout + LOCK_SLACK_SECONDS)
  if locked then
    flight.locks[name] = true
  else
    watch(self, flight, name, holder)
  end
  return locked
end

-- Serves a flight that a runner has taken. The lock of its key comes first and stays with it while it waits for that of
-- its credential, or for another attempt, but not where no Lua state was left. Returns whether none was.
local function serve(self, flight)
  local credential = flight.credential
  if not lock(self, flight, flight.key) or take_known(self, flight) then return false end
  if credential and not self.store:is_proven(credential) and not lock(self, flight, credential) then return false end
  local is_starved = fetch(self, flight)
  if is_starved then unlock(self, flight) end
  return is_starved
end

local function make_overload(self, flight)
  local seconds = math.max(1, math.min(MAX_OVERLOAD_SECONDS, self.queue:estimate_wait(flight)))
  return { code = "overloaded", retry_after = seconds }
end

-- While others wait, a token request is not made that will probably be answered too late.
local function is_too_late(self, flight)
  if flight.renewed_end or self.queue:count_cold() == 0 then return false end
  return flight.deadline - now() < self.endpoint:estimate_seconds()
end

-- Whether a flight that a runner has taken is to be served. Ends it, if not.
local function is_servable(self, flight)
  if not is_wanted(self, flight) then
    resolve(self, flight, nil, CLIENT_GONE)
    return false
  end
  if not is_too_late(self, flight) then return true end
  resolve(self, flight, nil, flight.last_failure or make_overload(self, flight))
  return false
end

local function take_servable(self)
  local flight = self.queue:take()
  while flight and not is_servable(self, flight) do
    self.queue:finish(flight)
    flight = self.queue:take()
  end
  return flight
end

local continue_elsewhere

-- Serves the next flight, with a permit in hand. Returns it (nil where there is none that may be taken), and whether no
-- Lua state was left.
local function serve_next(self)
  local flight = take_servable(self)
  if not flight then return nil end
  continue_elsewhere(self)
  local ok, is_starved = pcall(serve, self, flight)
  if ok then return flight, is_starved end
  self.log(ngx.ERR, "internal error while fetching a token: " .. tostring(is_starved))
  resolve(self, flight, nil, { code = "internal" })
  return flight, false
end

-- Serves flights until there is none that may be taken.
local function drain_queue(self)
  local is_starved
  repeat
    local began = now()
    permits.acquire(is_starved)
    local ok, flight, result = pcall(serve_next, self)
    permits.release()
    if not ok then error(flight, 0) end
    is_starved = result
    if flight then self.queue:finish(flight, not is_starved and now() - began or nil) end
  until not flight
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

-- Starts one more runner where there may be more. Returns whether there is any.
local function start_runner(self)
  local count = count_runners(self)
  if count >= self.settings.max_inflight then return true end
  local ticket = start_timer(self, run)
  if ticket then self.runners[ticket] = true end
  return ticket ~= nil or count > 0
end

-- Starts one more runner, unless one is about to begin, if there is a flight for it: runners end while unknown flights
-- have all the runners that they may have.
function continue_elsewhere(self)
  if self.queue:has_next() and not select(2, count_runners(self)) then start_runner(self) end
end

-- Puts a flight back into the queue, in front of those of its class.
local function requeue(self, flight)
  self.queue:add_first(flight)
  start_runner(self)
end

-- Why the flight of this owner failed, or nil where that says nothing about the flight that waits for its lock.
local function find_report(self, flight, owner)
  local report = self.store:get_report(owner)
  local is_of_other_key = report and flight.lock ~= flight.key and KEY_FAILURES[report.code]
  return not is_of_other_key and report or nil
end

-- Looks after a flight whose key or credential another flight has locked. Returns whether that is over.
local function check_watched(self, flight)
  if not is_wanted(self, flight) then
    resolve(self, flight, nil, CLIENT_GONE)
    return true
  end
  if take_known(self, flight) then return true end
  local holder = self.store:get_lock(flight.lock)
  if holder and holder == flight.holder then
    if is_running(holder) then return false end
    self.log(ngx.WARN, ("key %s: its lock belonged to a worker that is gone"):format(key.shorten(flight.key)))
    self.store:unlock(flight.lock, holder)
  end
  local report = flight.holder and find_report(self, flight, flight.holder)
  if report then
    resolve(self, flight, nil, report)
    return true
  end
  requeue(self, flight)
  return true
end

-- Looks after a flight that waits for another attempt. Returns whether that is over.
local function check_delayed(self, flight)
  if not is_wanted(self, flight) then
    resolve(self, flight, nil, CLIENT_GONE)
    return true
  end
  if now() < flight.wake_at then return false end
  requeue(self, flight)
  return true
end

-- Calls check for each flight of a table, and removes those that it is done with.
local function check_each(self, some, get_flight, check)
  for name, value in pairs(some) do
    local flight = get_flight(name, value)
    local ok, is_over = pcall(check, self, flight)
    if not ok then
      self.log(ngx.ERR, "internal error while waiting for a token: " .. tostring(is_over))
      resolve(self, flight, nil, { code = "internal" })
    end
    if not ok or is_over then some[name] = nil end
  end
end

local function check_all(self)
  check_each(self, self.watched, function(_, flight) return flight end, check_watched)
  check_each(self, self.delayed, function(flight) return flight end, check_delayed)
end

-- The body of the poller.
function poll(_, self, ticket)
  if self.poller ~= ticket then return end -- it was given up for lost
  ticket.began = true
  check_all(self)
  while next(self.watched) or next(self.delayed) do
    ngx.sleep(POLL_SECONDS)
    check_all(self)
  end
  self.poller = nil
end

-- Sees to it that somebody looks after a flight that was there already.
local function ensure_served(self, flight)
  if flight.list and not select(2, count_runners(self)) then start_runner(self) end
  if self.watched[flight.key] == flight or self.delayed[flight] then ensure_poller(self) end
end

-- Queues a new flight. Returns it, or nil and a failure.
local function add_flight(self, flight)
  local problem
  flight.attempts, flight.descriptors, flight.locks = 0, {}, {}
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

-- Why no flight can be queued at all, or nil.
local function find_obstacle(self)
  if not self.started then tell_not_started(self) end
  if not self.started or self.broken then return { code = "not_started" } end
end

-- Whether a flight that comes now would wait too long.
local function is_hopeless(self, flight)
  local wait = self.queue:estimate_wait(flight)
  return wait > 0 and wait + self.endpoint:estimate_seconds() > WAIT_MARGIN * self.settings.timeout
end

-- Why a flight that somebody will wait for is not to be queued, or nil. Who cannot be served learns it now.
local function find_shortage(self, flight)
  local limit = self.settings.max_queue
  if is_hopeless(self, flight) or self.queue:count_cold() >= limit then self.queue:sweep(is_present, self.drop) end
  if is_hopeless(self, flight) then return make_overload(self, flight) end
  return not self.queue:make_room(flight, limit, self.displace) and QUEUE_FULL or nil
end

local function is_client_gone()
  local descriptor = client.get_descriptor()
  return descriptor ~= nil and client.are_gone { descriptor }
end

local function wait(self, flight, deadline)
  local started = now()
  flight.deadline = math.max(flight.deadline or 0, deadline)
  client.add_descriptor(flight.descriptors, client.get_descriptor())
  flight.semaphore:wait(math.max(0, deadline - started))
  self.metrics:observe("wait_seconds", now() - started)
  -- the answer may have come after that
  if flight.credential_end and now() >= flight.credential_end then return nil, { code = "unauthorized" } end
  if flight.done then return flight.result, flight.failure end
  local reported = flight.holder
    and (find_report(self, flight, flight.holder) or find_report(self, flight, name_interim(flight.holder)))
  return nil, flight.last_failure or reported or TIMEOUT
end

-- Somebody needs what was only to be renewed.
local function turn_cold(self, flight)
  flight.renewed_end = nil
  if flight.list then self.queue:add(flight) end
end

-- Queues a flight that somebody will wait for. Returns it, or nil and a failure.
local function add_cold(self, flight)
  if not self.store:is_subject_known(flight.subject) then flight.client = self.find_address() end
  local failure = find_shortage(self, flight)
  if failure then return nil, failure end
  return add_flight(self, flight)
end

-- A new flight that somebody will wait for; nil and a failure where there can be none.
local function begin_cold(self, flight)
  local failure = find_refusal(self, flight) or find_obstacle(self)
  if failure then return nil, failure end
  return add_cold(self, flight)
end

-- Waits for what a key's flight brings: one that is there already, or the one that make_flight returns (or nil and a
-- failure).
local function join(self, name, make_flight, ...)
  local flight, failure = self.by_key[name]
  if not flight then
    if is_client_gone() then return nil, CLIENT_GONE end
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
  return { key = name, request = request, credential = credential, subject = credential,
    credential_end = credential_end }
end

--- Waits for a key's token. Returns its Authorization value, or nil and a failure. make_request is called for a new
-- token request; it returns the request, the name of its credential, and when the credential expires (or nil); or nil
-- and a failure.
function flights_methods:obtain(name, make_request)
  return join(self, name, make_fetch, make_request)
end

--- Has a key's token renewed, which is good until renewed_end, if there is room in the queue. Returns at once; false
-- where its renewals pause, as one has failed.
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

local function make_login(name, subject, sealing_key, name_credential, request)
  return { key = name, subject = subject, sealing_key = sealing_key, name_credential = name_credential,
    request = request }
end

--- The ID token of a user, { token, expires_at }, or nil and a failure: one that an earlier login brought, or that a
-- login brings, for which it waits. name: of the login. subject: the name of the user name and password as a
-- credential of token requests. sealing_key: made of the credential, for what is kept. name_credential: returns the
-- name that an ID token has as a credential itself. request: username, password.
function flights_methods:log_in(name, subject, sealing_key, name_credential, request)
  local identity = self.store:get_identity(name, sealing_key)
  if identity then return identity end
  return join(self, name, make_login, subject, sealing_key, name_credential, request)
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
