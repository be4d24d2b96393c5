-- One token request for all requests that need its result.
--
-- A flight (flight.lua) is the token request for one key. Requests wait for it, each until its own deadline; runners
-- (runners.lua) take flights from the queue (queue.lua) and make the request in a worker thread (attempts.lua). Flights
-- that wait for another worker's request, or for their next attempt, occupy no runner (poller.lua). The timers of both
-- can get lost, so a request that joins a flight checks that they exist.
--
-- If more requests come than can be served, the capacity goes to those that can still be answered in time: a flight
-- that would wait too long for a runner is refused when it comes, and one that has waited too long is refused without a
-- token request.

local attempts = require "icptoken.gateway.attempts"
local client = require "icptoken.gateway.client"
local clock = require "icptoken.gateway.clock"
local endpoint = require "icptoken.gateway.endpoint"
local flight = require "icptoken.gateway.flight"
local guesses = require "icptoken.gateway.guesses"
local log = require "icptoken.gateway.log"
local outcome = require "icptoken.gateway.outcome"
local poller = require "icptoken.gateway.poller"
local queue = require "icptoken.gateway.queue"
local roster = require "icptoken.gateway.roster"
local runners = require "icptoken.gateway.runners"
local timers = require "icptoken.gateway.timers"

local now = clock.now
local find_request_id = client.find_request_id

local flights = {}
local flights_methods = {}
local flights_meta = { __index = flights_methods }

-- A gateway that was not started logs that at most once in this time.
local NOT_STARTED_SECONDS = 60
-- A flight is refused when it comes if its answer is estimated to take more than this many times the timeout. The
-- estimate is not exact.
local WAIT_MARGIN = 1.25
-- The longest Retry-After of a refusal for lack of time.
local MAX_OVERLOAD_SECONDS = 60

-- The status page shows at most one refusal for lack of room in this time.
local FULL_SECONDS = 60
local FULL = "requests are answered with 503: more keys wait for a token than max_queue allows, or than the cluster "
  .. "can serve in time"

local TIMEOUT = { code = "timeout" }
local CLIENT_GONE = { code = "client_gone" }
local QUEUE_FULL = { code = "queue_full" }

local function make_overload(self, one)
  local seconds = math.max(1, math.min(MAX_OVERLOAD_SECONDS, self.queue:estimate_wait(one)))
  return { code = "overloaded", retry_after = seconds }
end

local function note_full(self)
  self.store:add_first_change(self.settings.target.key, "queue_full", FULL, FULL_SECONDS)
end

-- While others wait, a token request is not made if its answer would probably come too late.
local function is_too_late(self, one)
  if one.renewed_until or self.queue:count_cold() == 0 then return false end
  return one.deadline - now() < self.endpoint:estimate_seconds()
end

-- Returns whether a flight that a runner has taken is to be served. If not, it is done.
local function is_servable(self, one)
  if attempts.drop_unwanted(self, one) then return false end
  if not is_too_late(self, one) then return true end
  note_full(self)
  self.roster:resolve(one, nil, one.last_failure or make_overload(self, one))
  return false
end

-- Puts a flight back into the queue, in front of those of its class.
local function requeue(self, one)
  self.queue:add_first(one)
  self.runners:start()
end

--- Returns the flights of one gateway in one worker, which are also the context of attempts.lua and outcome.lua.
-- settings: those of endpoint.new, and error_ttl (seconds), max_inflight, max_queue, max_passwords, retries,
-- client_address, dict, request_id_header, headers (the client's).
-- keys: see key.new. metrics: see metrics.new. fleet: see fleet.lua, or nil.
function flights.new(settings, keys, store, metrics, fleet)
  local sharing = fleet and require "icptoken.gateway.sharing"
  local self = setmetatable({ settings = settings, keys = keys, store = store, metrics = metrics, fleet = fleet,
    endpoint = endpoint.new(settings, store, metrics), queue = queue.new(metrics, settings.max_inflight),
    roster = roster.new(store, metrics, settings.timeout, fleet), is_started = false, is_warm = false,
    is_broken = false }, flights_meta)
  self.runners = runners.new(self.queue, settings.max_inflight, {
    is_servable = function(one) return is_servable(self, one) end,
    serve = function(one) return attempts.serve(self, one) end,
    fail = function(one) self.roster:resolve(one, nil, { code = "internal" }) end,
  })
  self.poller = poller.new(self.roster, {
    drop_unwanted = function(one) return attempts.drop_unwanted(self, one) end,
    take_known = function(one) return attempts.take_known(self, one) end,
    requeue = function(one) requeue(self, one) end,
    ask_again = sharing and function(list) return sharing.ask_again(self, list) end,
  })
  self.consult = sharing and function(one, needs_proof) return sharing.consult(self, one, needs_proof) end
  -- for queue:sweep and queue:make_room
  self.is_present = function(one) return one:is_present() end
  self.forget = function(one) self.roster:resolve(one, nil, CLIENT_GONE) end
  self.displace = function(one)
    note_full(self)
    self.roster:resolve(one, nil, QUEUE_FULL)
  end
  return self
end

-- Queues a new flight. Returns it, or nil and a failure.
local function add(self, one)
  local is_open, problem = one:open()
  if not is_open then
    log.write(ngx.ERR, ("cannot create a semaphore to wait for a token (%s): answering the request with 500")
      :format(tostring(problem)))
    return nil, { code = "internal" }
  end
  if not self.runners:start() then return nil, { code = "internal" } end
  self.roster:add(one)
  self.queue:add(one)
  return one
end

local function log_not_started(self)
  local name = self.metrics.gateway_name
  if not self.store:is_first("n" .. self.settings.target.key .. name, NOT_STARTED_SECONDS) then return end
  log.write(ngx.EMERG, ("the gateway '%s' was not started: add \"init_worker_by_lua_block { gateway:start() }\" to the "
    .. "http context of nginx.conf and keep lua_code_cache on; answering 503 until then"):format(name))
end

-- Returns why no flight can be queued at all, or nil.
local function find_obstacle(self)
  if not self.is_started then log_not_started(self) end
  if not self.is_started or self.is_broken then return { code = "not_started" } end
end

-- Returns whether a flight that comes now would wait too long.
local function is_hopeless(self, one)
  local wait = self.queue:estimate_wait(one)
  return wait > 0 and wait + self.endpoint:estimate_seconds() > WAIT_MARGIN * self.settings.timeout
end

-- Makes room for a flight if `limit` of them wait already. Those with unknown credentials that wait for a lock or an
-- attempt count, too, although they occupy no runner, for one client could make any number of them. But known flights
-- need not make room for them. Returns whether there is room.
local function make_room(self, one, limit)
  local waiting = self.queue
  if not one.client_address then return waiting:make_room(one, limit, 0, self.displace) end
  local parked, own = self.poller:count_unknown(one.client_address)
  if waiting:count_cold() + parked < limit then return true end
  local displaced = self.poller:displace(own + waiting:count_of(one.client_address) + 1)
  if displaced then self.displace(displaced) end
  return displaced ~= nil or waiting:make_room(one, limit - parked, own, self.displace)
end

-- Returns why a flight that a request will wait for is not to be queued, or nil.
local function find_shortage(self, one)
  local limit = self.settings.max_queue
  if is_hopeless(self, one) or self.queue:count_cold() >= limit then self.queue:sweep(self.is_present, self.forget) end
  if is_hopeless(self, one) then return make_overload(self, one) end
  return not make_room(self, one, limit) and QUEUE_FULL or nil
end

local function is_client_gone()
  local descriptor = client.get_descriptor()
  return descriptor ~= nil and client.are_gone { descriptor }
end

-- Returns a new flight that a request will wait for; or nil and a failure if there can be none.
local function begin_cold(self, plan)
  local one = flight.new(plan)
  local failure = outcome.find_refusal(self, one) or find_obstacle(self)
  if failure then return nil, failure end
  local address = client.find_address(self.settings, self.store)
  if self.store:is_known(one.credential_key) then
    one.known_client = one.credential_key .. address
  else
    one.client_address = address
  end
  failure = guesses.find_failure(self, one) or find_shortage(self, one)
  if failure then
    if failure.code ~= "too_many_passwords" then note_full(self) end
    return nil, failure
  end
  return add(self, one)
end

-- Waits for a flight, `timeout` seconds at most. Returns its result, or nil and a failure.
local function wait(self, one)
  local began_at = now()
  local is_done = one:wait(began_at + self.settings.timeout)
  self.metrics:observe("wait_seconds", now() - began_at)
  -- the answer may have come after that
  if one.credential_expiry and now() >= one.credential_expiry then return nil, { code = "unauthorized" } end
  if is_done then return one.result, one.failure end
  return nil, one.last_failure or self.roster:get_report(one, true) or TIMEOUT
end

-- The same, and also returns the flight.
local function wait_for(self, one)
  local result, failure = wait(self, one)
  return result, failure, one
end

-- Makes sure that a runner or the poller will serve a flight that existed before.
local function ensure_served(self, one)
  if one.state == "queued" then self.runners:ensure() end
  if one.state == "watched" or one.state == "delayed" or one.state == "shared" then self.poller:ensure() end
end

-- Makes a renewal an ordinary flight, as a request needs its result.
local function turn_cold(self, one)
  one.renewed_until = nil
  if one.state == "queued" then self.queue:add(one) end
end

-- Waits for the flight of a key: the one that exists, or a new one. make_plan returns the plan of a new one (see
-- flight.new), or nil and a failure. Returns the flight's result, nil, and the flight; or nil, a failure, and the
-- flight or nil.
local function join(self, key, make_plan, ...)
  local one = self.roster:find(key)
  if one then
    if one.renewed_until then turn_cold(self, one) end
    ensure_served(self, one)
    return wait_for(self, one)
  end
  if is_client_gone() then return nil, CLIENT_GONE end
  local plan, failure = make_plan(self, key, ...)
  if plan then one, failure = begin_cold(self, plan) end
  if not one then return nil, failure end
  return wait_for(self, one)
end

-- Returns the headers of a token request that tell the cluster its id, or nil for the client's own.
local function make_headers(settings, request_id)
  if not settings.request_id_header then return nil end
  local headers = { [settings.request_id_header] = request_id }
  for name, value in pairs(settings.headers or {}) do headers[name] = value end
  return headers
end

local function plan_fetch(self, token_key, make_request)
  local request, credential_key, credential_expiry = make_request()
  if not request then return nil, credential_key end
  local request_id = find_request_id()
  request.headers = make_headers(self.settings, request_id)
  return { key = token_key, is_login = false, request = request, request_id = request_id,
    credential_key = credential_key, credential_expiry = credential_expiry }
end

local function plan_login(self, login_key, credential_key, sealing_key, request)
  local request_id = find_request_id()
  request.headers = make_headers(self.settings, request_id)
  return { key = login_key, is_login = true, request = request, request_id = request_id,
    credential_key = credential_key, sealing_key = sealing_key }
end

--- Waits for the token of a key. Yields. make_request is called if a token request is needed; it returns the request
-- (for worker_thread.fetch), the key of its credential, and when the credential expires on clock.now() (or nil); or nil
-- and a failure. Returns the Authorization value, nil, and the flight; or nil, a failure, and the flight or nil.
function flights_methods:obtain(token_key, make_request)
  return join(self, token_key, plan_fetch, make_request)
end

--- Has the token of a key renewed if there is room in the queue. Does not wait. renewed_until: when the current token
-- expires. make_request: as for obtain. Returns false if its renewals are paused, as one has failed; otherwise true,
-- and the flight if it is a new one.
function flights_methods:renew(token_key, renewed_until, make_request)
  local one = self.roster:find(token_key)
  if one then
    ensure_served(self, one)
    return true
  end
  if outcome.is_paused(self, token_key) then return false end
  if find_obstacle(self) or self.queue:count_renewals() >= self.settings.max_queue then return true end
  local plan = plan_fetch(self, token_key, make_request)
  if not plan then return true end
  plan.renewed_until = renewed_until
  return true, (add(self, flight.new(plan)))
end

--- Returns the ID token of a user, { token, expires_at }, from an earlier login or from a new one, for which it waits;
-- or nil and a failure; and the flight or nil. credential_key: of the user name and password as a credential of token
-- requests. sealing_key: 32 bytes, derived from the password, for the ID token in the dict. request: username and
-- password.
function flights_methods:log_in(login_key, credential_key, sealing_key, request)
  local identity = self.store:get_identity(login_key, sealing_key)
  if identity then return identity end
  return join(self, login_key, plan_login, credential_key, sealing_key, request)
end

-- The body of a timer. Several run at once, so that as many Lua states are created.
local function warm(_, self)
  local ok, problem = self.endpoint:warm()
  if ok and not self.is_warm then
    self.is_warm = true
    self.metrics:add "started"
  end
  if ok or self.is_broken then return end
  self.is_broken = true
  local name = self.settings.thread_pool
  log.write(ngx.EMERG, ("cannot use thread_pool '%s' (%s): add \"thread_pool %s threads=16;\" to the main context of "
    .. "nginx.conf; answering 503 until then"):format(name, problem, name))
end

--- Starts work in this worker. For init_worker_by_lua.
function flights_methods:start()
  self.is_started = true
  for _ = 1, self.settings.max_inflight do
    local ok, problem = ngx.timer.at(0, warm, self)
    if not ok then timers.log_refusal("prepare threads", problem) end
  end
end

return flights
