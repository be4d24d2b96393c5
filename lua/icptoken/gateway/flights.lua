-- One question to the token endpoint for all who need its answer.
--
-- A flight is one key's question. Requests wait for it on a semaphore, each until its own deadline; runners, which are
-- timers of nginx, take flights from a queue, first in, first out, and let a worker thread ask. At most max_inflight
-- runners exist, so that is how many questions a worker has under way. A request is never parked in a thread itself: a
-- reload would reset it.
--
-- Between workers a lock in the dict says who asks. Flights of keys that another worker has locked are looked after by
-- one poller a worker, until there is a token, or a report of the failure, or the lock's owner is gone.
--
-- A flight is wanted while somebody waits on its semaphore (nginx takes those off who go away), or if it renews a
-- token that is still good; what nobody wants is not asked.

local ffi = require "ffi"
local semaphore = require "ngx.semaphore"
local clock = require "icptoken.gateway.clock"
local key = require "icptoken.gateway.key"
local store = require "icptoken.gateway.store"

local now = clock.now

local flights = {}
local flights_methods = {}
local flights_meta = { __index = flights_methods }

ffi.cdef [[int icptoken_kill(int, int) __asm__("kill");]]

local ESRCH = 3

local THREAD_MODULE = "icptoken.gateway.worker_thread"
-- What ngx.run_worker_thread says when all Lua states for threads are in use.
local NO_STATE = "no available Lua vm"
local POLL_SECONDS = 0.01
-- A lock outlives the longest fetch by this much; its owner frees it long before.
local LOCK_SLACK_SECONDS = 5
-- A fetch of less is not begun.
local MIN_FETCH_SECONDS = 0.05
-- A timer of no delay that has not begun after so long was dropped by nginx.
local LOST_SECONDS = 1
-- Looking in vain for queued flights that nobody wants is not done again for so long for each that is queued.
local SWEEP_PAUSE_SECONDS = 2e-6
-- As long as a server may ask for patience.
local MAX_RETRY_AFTER = 2 ^ 31

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

-- A queue from which may be taken at its head, and to which may be added at both ends.
local function new_queue()
  return { first = 1, last = 0 }
end

local function push(queue, flight)
  queue.last = queue.last + 1
  queue[queue.last] = flight
end

local function push_first(queue, flight)
  queue.first = queue.first - 1
  queue[queue.first] = flight
end

local function pop(queue)
  if queue.first > queue.last then return nil end
  local flight = queue[queue.first]
  queue[queue.first] = nil
  queue.first = queue.first + 1
  return flight
end

--- For one gateway in one worker. settings: thread_pool, timeout, error_ttl (seconds), max_inflight, max_queue; client
-- (the name, the options and the text for logs of the client that asks).
function flights.new(settings, tokens, metrics, log)
  return setmetatable({ settings = settings, store = tokens, metrics = metrics, log = log, by_key = {},
    cold = new_queue(), renewals = new_queue(), queued = 0, swept_until = 0, watched = {}, runners = {},
    started = false }, flights_meta)
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

local function resolve(self, flight, authorization, failure)
  if flight.key then self.by_key[flight.key] = nil end
  flight.authorization, flight.failure, flight.done = authorization, failure, true
  local waiting = -flight.semaphore:count()
  if waiting > 0 then flight.semaphore:post(waiting) end
end

-- Cold flights count as queued; a renewal that somebody came to wait for is put among them, and its old place is void.
local function enqueue(self, flight, first)
  flight.queue = flight.renewed_end and self.renewals or self.cold
  if flight.queue == self.cold then
    self.queued = self.queued + 1
    self.metrics:add("queued")
  end
  local add = first and push_first or push
  add(flight.queue, flight)
end

local function take_from(self, queue)
  local flight
  repeat flight = pop(queue) until not flight or flight.queue == queue
  if not flight then return nil end
  flight.queue = nil
  if queue == self.cold then
    self.queued = self.queued - 1
    self.metrics:add("queued", nil, -1)
  end
  return flight
end

local function next_flight(self)
  return take_from(self, self.cold) or take_from(self, self.renewals)
end

local function forget(self, flight)
  if flight.key then self.by_key[flight.key] = nil end
end

-- Frees the places of cold flights that nobody waits for any more.
local function sweep(self)
  local queue, last = self.cold, self.cold.first - 1
  for i = queue.first, queue.last do
    local flight = queue[i]
    queue[i] = nil
    if is_awaited(flight) then
      last = last + 1
      queue[last] = flight
    else
      flight.queue = nil
      forget(self, flight)
    end
  end
  local swept = queue.last - last
  queue.last, self.queued = last, self.queued - swept
  self.metrics:add("queued", nil, -swept)
  if swept == 0 then self.swept_until = now() + self.queued * SWEEP_PAUSE_SECONDS end
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

-- A token or a refusal that came while the flight was queued is its answer.
local function take_known(self, flight)
  local authorization, is_due = self.store:get_token(flight.key)
  if authorization and not (flight.renewed_end and is_due) then
    resolve(self, flight, authorization)
    return true
  end
  local refusal = self.store:get_refusal(flight.key)
  if refusal then resolve(self, flight, nil, refusal) end
  return refusal ~= nil
end

-- One call of a worker thread. Waits for a Lua state where all are taken. Returns its answer, or nil and a failure.
local function call_thread(self, flight, name, options, request)
  local settings = self.settings
  local ok, answer, message, code, details
  repeat
    ok, answer, message, code, details =
      ngx.run_worker_thread(settings.thread_pool, THREAD_MODULE, name, settings.client.name, options, request)
    local is_busy = not ok and answer == NO_STATE
    if is_busy then ngx.sleep(POLL_SECONDS) end
  until not is_busy or not is_wanted(self, flight)
  if ok and answer then return answer end
  if not ok and answer == NO_STATE then return nil, { code = "timeout", is_unasked = true } end
  if not ok then
    self.log(ngx.ERR, "the worker thread failed: " .. tostring(answer))
    return nil, { code = "internal" }
  end
  local retry_after = type(details) == "table" and details.retry_after
  return nil, { code = code, message = message, retry_after = retry_after and math.min(retry_after, MAX_RETRY_AFTER) }
end

-- Asks with measure. flight.ask is "fetch" or "login".
local function ask(self, flight, options, request)
  local metrics = self.metrics
  local started = now()
  metrics:add "inflight"
  local answer, failure = call_thread(self, flight, flight.ask, options, request)
  metrics:add("inflight", nil, -1)
  metrics:observe("fetch_seconds", now() - started)
  if answer and not store.is_authorization("Bearer " .. tostring(answer.token)) then
    answer, failure = nil, { code = "invalid_response", message = "its token holds characters that no token has" }
  end
  metrics:add("fetches", answer and "ok" or failure.code)
  return answer, failure
end

-- How long a question may take: until the last who came for it leaves; a renewal half of the time that is left, so that
-- there is still a token to hand out when it fails.
local function compute_limit(self, flight)
  local limit = flight.deadline and flight.deadline - now() or self.settings.timeout
  if flight.renewed_end then limit = math.min(limit, (flight.renewed_end - now()) / 2) end
  return math.max(MIN_FETCH_SECONDS, limit)
end

-- Is it the credential that was refused, not the endpoint that fails?
local function is_refusal(failure)
  return failure.code == "unauthorized" or failure.code == "forbidden" or failure.code == "invalid_credential"
end

-- One line in the log when the endpoint begins to fail or answers again, of all workers. A question that had little
-- time, as its requests had waited in the queue, says nothing about the endpoint.
local function note_endpoint_state(self, failure, limit)
  local client = self.settings.client
  if failure and is_refusal(failure) then failure = nil end
  if failure and (failure.code == "internal" or failure.is_unasked) then return end
  if failure and failure.code == "timeout" and limit < self.settings.timeout / 2 then return end
  local before = self.store:put_state(client.name, failure and failure.code or "ok")
  if not before then return end
  if failure then
    self.log(ngx.ERR, ("%s fails: %s"):format(client.url, failure.message or failure.code))
  else
    self.log(ngx.NOTICE, ("%s answers again (it failed with %s)"):format(client.url, before))
  end
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
  self.store:resume(self.settings.client.name)
  self.store:resume(flight.key)
  return authorization
end

local function accept_failure(self, flight, failure, owner)
  if failure.code == "unauthorized" or failure.code == "forbidden" then
    self.store:put_refusal(flight.key, failure, self.settings.error_ttl)
  end
  if flight.renewed_end then
    self.store:pause(is_refusal(failure) and flight.key or self.settings.client.name, failure.retry_after)
  end
  -- who waits in another worker has a deadline of its own, and may have more time to ask
  if failure.code ~= "timeout" then self.store:put_report(owner, failure) end
end

-- Did a question end before the deadline of somebody who came for it meanwhile?
local function has_time_left(flight)
  return is_awaited(flight) and flight.deadline - now() > MIN_FETCH_SECONDS
end

-- Asks for a token with the lock in hand, and lets all know.
local function fetch(self, flight, owner)
  local limit = compute_limit(self, flight)
  flight.request.timeout = limit
  local answer, failure = ask(self, flight, self.settings.client.options, flight.request)
  note_endpoint_state(self, failure, limit)
  local authorization
  if answer then
    authorization = accept_token(self, flight, answer)
  else
    accept_failure(self, flight, failure, owner)
  end
  self.store:unlock(flight.key, owner)
  if failure and failure.code == "timeout" and has_time_left(flight) then return enqueue(self, flight, true) end
  resolve(self, flight, authorization, failure)
end

-- Another worker asks: what this flight waits for will be found in the dict.
local function watch(self, flight, holder)
  flight.holder = holder
  self.watched[flight.key] = flight
  if self.poller and not is_lost(self.poller) then return end
  self.poller = start_timer(self, poll)
  if self.poller then return end
  self.watched[flight.key] = nil
  resolve(self, flight, nil, { code = "internal" })
end

local function serve_key(self, flight)
  local owner = next_owner()
  local locked, holder = self.store:lock(flight.key, owner, self.settings.timeout + LOCK_SLACK_SECONDS)
  if not locked then
    watch(self, flight, holder)
  elseif take_known(self, flight) then
    self.store:unlock(flight.key, owner)
  else
    fetch(self, flight, owner)
  end
end

local function serve_login(self, flight)
  flight.request.timeout = compute_limit(self, flight)
  local answer, failure = ask(self, flight, flight.request)
  flight.answer = answer
  resolve(self, flight, answer and answer.token, failure)
end

local function serve(self, flight)
  if not is_wanted(self, flight) then
    forget(self, flight)
  elseif flight.key then
    serve_key(self, flight)
  else
    serve_login(self, flight)
  end
end

-- The body of a runner. What is under way goes on while the worker winds up (premature): requests wait for it.
function run(_, self, ticket)
  if not self.runners[ticket] then return end -- it was given up for lost
  ticket.began = true
  local flight = next_flight(self)
  while flight do
    local ok, problem = pcall(serve, self, flight)
    if not ok then
      self.log(ngx.ERR, "a fetch failed by a fault of icptoken: " .. tostring(problem))
      resolve(self, flight, nil, { code = "internal" })
    end
    flight = next_flight(self)
  end
  self.runners[ticket] = nil
end

local function count_runners(self)
  local count = 0
  for ticket in pairs(self.runners) do
    if is_lost(ticket) then
      self.runners[ticket] = nil
    else
      count = count + 1
    end
  end
  return count
end

-- Returns whether there is a runner.
local function start_runner(self)
  local count = count_runners(self)
  if count >= self.settings.max_inflight then return true end
  local ticket = start_timer(self, run)
  if ticket then self.runners[ticket] = true end
  return ticket ~= nil or count > 0
end

-- Looks after a flight whose key another worker has locked. Returns whether that is over.
local function check_watched(self, flight)
  if not is_wanted(self, flight) then
    forget(self, flight)
    return true
  end
  if take_known(self, flight) then return true end
  local holder = self.store:get_lock(flight.key)
  if holder and holder == flight.holder then
    if is_running(holder) then return false end
    self.log(ngx.WARN, ("key %s: its lock belonged to a worker that is gone"):format(key.shorten(flight.key)))
    self.store:unlock(flight.key, holder)
  end
  local report = flight.holder and self.store:get_report(flight.holder)
  if report then
    resolve(self, flight, nil, report)
    return true
  end
  enqueue(self, flight, true)
  start_runner(self)
  return true
end

function poll(_, self, ticket)
  if self.poller ~= ticket then return end
  ticket.began = true
  while next(self.watched) do
    for name, flight in pairs(self.watched) do
      local ok, is_over = pcall(check_watched, self, flight)
      if not ok then
        self.log(ngx.ERR, "a fault of icptoken: " .. tostring(is_over))
        resolve(self, flight, nil, { code = "internal" })
      end
      if not ok or is_over then self.watched[name] = nil end
    end
    if next(self.watched) then ngx.sleep(POLL_SECONDS) end
  end
  self.poller = nil
end

local function add_flight(self, flight)
  local problem
  flight.semaphore, problem = semaphore.new(0)
  if not flight.semaphore then
    self.log(ngx.ERR, "no semaphore: " .. tostring(problem))
    return nil, { code = "internal" }
  end
  if not start_runner(self) then return nil, { code = "internal" } end
  if flight.key then self.by_key[flight.key] = flight end
  enqueue(self, flight)
  return flight
end

-- May a new cold flight be queued?
local function find_obstacle(self)
  if not self.started or self.broken then return { code = "not_started" } end
  local max_queue = self.settings.max_queue
  if self.queued >= max_queue and now() >= self.swept_until then sweep(self) end
  if self.queued >= max_queue then return { code = "queue_full" } end
end

local function wait(self, flight, deadline)
  local started = now()
  flight.deadline = math.max(flight.deadline or 0, deadline)
  flight.semaphore:wait(math.max(0, deadline - started))
  self.metrics:observe("wait_seconds", now() - started)
  if flight.done then return flight.authorization, flight.failure end
  return nil, { code = "timeout" }
end

-- Somebody needs what was only to be renewed.
local function turn_cold(self, flight)
  flight.renewed_end = nil
  if flight.queue then enqueue(self, flight) end
end

-- A new flight that somebody will wait for; nil and a failure where there can be none.
local function begin_cold(self, name, make_request)
  local request, credential_end = make_request()
  if not request then return nil, credential_end end
  local failure = self.store:get_refusal(name) or find_obstacle(self)
  if failure then return nil, failure end
  return add_flight(self, { ask = "fetch", key = name, request = request, credential_end = credential_end })
end

--- Waits for a key's token. Returns its Authorization value, or nil and a failure. make_request is called for a new
-- question; it returns the request and when the credential ends (or nil), or nil and a failure.
function flights_methods:obtain(name, make_request)
  local flight, failure = self.by_key[name]
  if not flight then
    flight, failure = begin_cold(self, name, make_request)
    if not flight then return nil, failure end
  elseif flight.renewed_end then
    turn_cold(self, flight)
  end
  return wait(self, flight, now() + self.settings.timeout)
end

--- Has a key's token renewed, which is good until renewed_end, behind all who wait for one. Returns at once, and
-- whether renewals of it do not pause.
function flights_methods:renew(name, renewed_end, make_request)
  if self.by_key[name] then return true end
  if is_paused(self, name) then return false end
  if find_obstacle(self) or self.renewals.last - self.renewals.first >= self.settings.max_queue then return true end
  local request, credential_end = make_request()
  if not request then return true end
  add_flight(self, { ask = "fetch", key = name, request = request, credential_end = credential_end,
    renewed_end = renewed_end })
  return true
end

--- Waits for a log-in with these options. Returns { token, expires_at } or nil and a failure.
function flights_methods:log_in(options)
  local obstacle = find_obstacle(self)
  if obstacle then return nil, obstacle end
  local flight, problem = add_flight(self, { ask = "login", request = options })
  if not flight then return nil, problem end
  local _, failure = wait(self, flight, now() + self.settings.timeout)
  return flight.answer, failure
end

-- One thread, to make a client in its Lua state; many at a time, so that as many states are made.
local function warm(_, self)
  local settings = self.settings
  local ok, made, message =
    ngx.run_worker_thread(settings.thread_pool, THREAD_MODULE, "warm", settings.client.name, settings.client.options)
  if ok and made then return end
  local problem = tostring(ok and message or made)
  if problem == NO_STATE or self.broken then return end
  self.broken = true
  self.log(ngx.EMERG, ("%s: is there a line \"thread_pool %s threads=16;\" in the main part of nginx.conf? Until "
    .. "then every request is answered with 503"):format(problem, settings.thread_pool))
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
