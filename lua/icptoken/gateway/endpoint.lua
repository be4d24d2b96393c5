-- The token endpoint as a worker sees it. Requests to it are made in a thread of nginx (worker_thread.lua), as the
-- module blocks while it waits for the network. Each is counted and timed, and the log says when the endpoint begins to
-- fail and when it answers again.

local bearer = require "icptoken.gateway.bearer"
local client = require "icptoken.gateway.client"
local clock = require "icptoken.gateway.clock"
local latency = require "icptoken.gateway.latency"
local log = require "icptoken.gateway.log"
local permits = require "icptoken.gateway.permits"

local now = clock.now

local endpoint = {}
local endpoint_methods = {}
local endpoint_meta = { __index = endpoint_methods }

local THREAD_MODULE = "icptoken.gateway.worker_thread"
-- The endpoint works, and refuses the credential.
local REFUSALS = { unauthorized = true, forbidden = true }
-- The failure concerns one request or its credential and says nothing about other keys.
local OF_ONE_KEY = { rate_limited = true, not_found = true, http_status = true }
-- No request was sent.
local LOCAL_FAILURES = { internal = true, invalid_credential = true }
local SHORTAGE = "token requests are waiting for a worker thread: thread_pool '%s' and lua_worker_thread_vm_pool_size "
  .. "must each be at least the sum of max_inflight over all gateways"
-- At most one line in the log in this time: about too few threads, and for each state of an endpoint.
local SHORTAGE_SECONDS = 60
local STATE_SECONDS = 10
-- A token request may wait for a thread for this share of `timeout` before the log says that threads are too few.
local MAX_DELAY_SHARE = 0.1
-- A second attempt starts beside one that takes HEDGE_FACTOR times as long as this share of the recent answers, but not
-- before MIN_HEDGE_SECONDS; and after DEFAULT_HEDGE_SECONDS while too few answers are known.
local HEDGE_SHARE, HEDGE_FACTOR, MIN_HEDGE_SECONDS, DEFAULT_HEDGE_SECONDS = 0.9, 2, 0.1, 1
-- Each token request adds HEDGE_EARNINGS to a budget from which each second attempt takes 1. So second attempts add at
-- most this share to the load of an endpoint that is slow for all requests. Credentials that have had a token recently
-- have one budget and all others another, as an endpoint may be slow to refuse what strangers send.
local HEDGE_EARNINGS, MAX_HEDGE_BUDGET = 0.4, 20
-- A longer Retry-After is cut to this, in seconds.
local MAX_RETRY_AFTER = 2 ^ 31
-- estimate_seconds returns the time within which USUAL_SHARE of the answers came, at least MIN_SECONDS and at most
-- MAX_TIMEOUT_SHARE of `timeout`; DEFAULT_TIMEOUT_SHARE of it while too few answers are known.
local USUAL_SHARE, MIN_SECONDS, MAX_TIMEOUT_SHARE, DEFAULT_TIMEOUT_SHARE = 0.95, 0.05, 0.5, 0.25

--- Returns the endpoint of one gateway in one worker. settings: thread_pool, timeout (seconds), hedge_after (seconds,
-- false for never, nil for a learned time), target and login_target (see target.lua).
function endpoint.new(settings, store, metrics)
  return setmetatable({ settings = settings, store = store, metrics = metrics, latency = latency.new(),
    hedge_budgets = { known = MAX_HEDGE_BUDGET / 2, unknown = MAX_HEDGE_BUDGET / 2 } }, endpoint_meta)
end

-- This worker's thread pools by name: how many calls are under way, how many threads have been seen, and when each of
-- them finished its last call.
local pools = {}

local function get_pool(name)
  local pool = pools[name]
  if not pool then
    pool = { calls = 0, threads = 0, finished_at = {} }
    pools[name] = pool
  end
  return pool
end

local function list_arguments(self, name, target, ...)
  return self.settings.thread_pool, THREAD_MODULE, name, target.key, target.options, ...
end

-- Counts that a token request found no thread or no Lua state (resource: "thread" or "lua_state"), and logs it at most
-- once in SHORTAGE_SECONDS.
local function note_shortage(self, resource)
  self.metrics:add("shortages", resource)
  if not self.store:is_first("w" .. self.settings.target.key, SHORTAGE_SECONDS) then return end
  local line = SHORTAGE:format(self.settings.thread_pool)
  log.write(ngx.WARN, line)
  self.store:add_change(self.settings.target.key, "threads_short", line)
end

-- Notes which thread served a call that was posted at this time, while this many others were under way. Logs a shortage
-- if the call waited long for a thread that was busy, and the other calls could occupy all threads seen so far.
-- (Without the last condition: on a loaded machine a busy thread may take a call before a free one wakes up.)
local function note_thread(self, pool, posted_at, others, times)
  local busy_until = pool.finished_at[times.thread]
  if not busy_until then pool.threads = pool.threads + 1 end
  pool.finished_at[times.thread] = times.finished_at
  local has_waited = times.began_at - posted_at >= MAX_DELAY_SHARE * self.settings.timeout
  if has_waited and busy_until and busy_until > posted_at and others >= pool.threads then
    note_shortage(self, "thread")
  end
end

-- Returns the seconds after which a second attempt is to start beside one that starts now, or nil for never.
local function choose_hedge(self, budget)
  local own = self.settings.hedge_after
  if own ~= nil then return own or nil end
  if self.hedge_budgets[budget] < 1 then return nil end
  local usual = self.latency:quantile(HEDGE_SHARE)
  return usual and math.max(MIN_HEDGE_SECONDS, HEDGE_FACTOR * usual) or DEFAULT_HEDGE_SECONDS
end

-- Settles a token request with its budget of second attempts.
local function charge_attempts(self, budget, attempts)
  if not budget or not attempts then return end
  if attempts > 1 then self.metrics:add("hedges", nil, attempts - 1) end
  local budgets = self.hedge_budgets
  budgets[budget] = math.min(MAX_HEDGE_BUDGET, budgets[budget] + HEDGE_EARNINGS - (attempts - 1))
end

local function note_certificate(self, expires_at)
  if expires_at then self.metrics:note_certificate(expires_at) end
end

-- Calls a function of worker_thread.lua in a thread. Returns the answer; nil and a failure; or nil, nil if no request
-- was made, and whether that was because no Lua state was left.
local function call_thread(self, budget, name, target, request)
  local pool, posted_at = get_pool(self.settings.thread_pool), now()
  local others = pool.calls
  pool.calls = others + 1
  local ok, times, answer, message, code, details = permits.run_thread(list_arguments(self, name, target, request))
  pool.calls = pool.calls - 1
  if not ok then
    if permits.is_exhausted(ok, times) then return nil, nil, true, note_shortage(self, "lua_state") end
    log.write(ngx.ERR, ("internal error while running a token request in a thread of thread_pool '%s': %s")
      :format(self.settings.thread_pool, tostring(times)))
    return nil, { code = "internal" }
  end
  note_thread(self, pool, posted_at, others, times)
  if answer then
    if answer.seconds then self.latency:add(answer.seconds) end
    note_certificate(self, answer.certificate_expires_at)
    charge_attempts(self, budget, answer.attempts)
    return answer
  end
  if code == "not_requested" then return nil end
  details = type(details) == "table" and details or {}
  note_certificate(self, details.certificate_expires_at)
  charge_attempts(self, budget, details.attempts)
  local retry_after = details.retry_after and math.min(details.retry_after, MAX_RETRY_AFTER)
  return nil, { code = code, message = message, status = details.status, retry_after = retry_after,
    retryable = details.retryable, timeout = details.timeout }
end

-- The same, with the request counted and timed, and its token checked.
local function measure(self, ...)
  local metrics = self.metrics
  local started = now()
  metrics:add "inflight"
  local answer, failure, is_starved = call_thread(self, ...)
  metrics:add("inflight", nil, -1)
  if not answer and not failure then return nil, nil, is_starved end
  metrics:observe("fetch_seconds", now() - started)
  if answer and not bearer.is_token(tostring(answer.token)) then
    answer, failure = nil, { code = "invalid_response",
      message = "it returned a token with characters that a bearer token cannot contain" }
  end
  metrics:add("fetches", answer and "ok" or failure.code)
  return answer, failure
end

-- Returns whether a failure means that the endpoint does not work; nil if it says nothing about that: no request was
-- sent, or it had little time, as it had waited for a thread or the token was about to expire.
local function is_outage(self, failure)
  if REFUSALS[failure.code] then return false end
  if LOCAL_FAILURES[failure.code] then return nil end
  if failure.code == "timeout" and (failure.timeout or 0) < self.settings.timeout / 2 then return nil end
  return true
end

-- Logs, once for all workers, when the endpoint begins to fail and when it answers again. A flapping endpoint logs each
-- of these at most once per STATE_SECONDS.
local function note_state(self, target, failure, request_id)
  local state = failure and failure.code or "ok"
  local before = self.store:get_state(target.key)
  if state == before then return end
  if not self.store:is_first((failure and "t" or "u") .. target.key, STATE_SECONDS) then return end
  self.store:put_state(target.key, state)
  local subject = target == self.settings.login_target and "login" or "endpoint"
  local line
  if failure then
    line = ("requests to %s fail: %s (request %s)"):format(target.url, failure.message or failure.code, request_id)
    log.write(ngx.ERR, line)
  else
    line = ("requests to %s succeed again (the last failure was '%s')"):format(target.url, before)
    log.write(ngx.NOTICE, line)
  end
  self.store:add_change(self.settings.target.key, subject .. (failure and "_failing" or "_answering"), line)
end

local function get_target(self, name)
  return name == "login" and self.settings.login_target or self.settings.target
end

--- Makes one attempt of a token request or a login. The caller holds a permit (permits.lua).
-- name: "fetch", with a request as for client:fetch; or "login", with the fields username and password. deadline: on
-- clock.now(). budget: of second attempts that may start beside this one, "known" or "unknown"; nil for none.
-- Returns what the function of that name in worker_thread.lua returns; or nil and a failure: code, message, status,
-- retry_after, retryable, timeout, and is_general (whether token requests of other keys would probably fail in the same
-- way); or nil, nil if no request was made, and true if that was because no Lua state was left, so that it can be made
-- later. Otherwise the deadline passed before a thread began.
function endpoint_methods:request(name, request, deadline, budget)
  request.deadline, request.retries = deadline, 0
  request.hedge_after = budget and choose_hedge(self, budget)
  local answer, failure, is_starved = measure(self, budget, name, get_target(self, name), request)
  if failure then
    local is_of_key = OF_ONE_KEY[failure.code] and (failure.status or 0) < 500
    failure.is_general = is_outage(self, failure) and not is_of_key
  end
  return answer, failure, is_starved
end

--- Makes a token request without a credential, and notes whether the endpoint works. It is not counted as a fetch.
-- Yields.
function endpoint_methods:probe()
  local request = { deadline = now() + self.settings.timeout, retries = 0 }
  permits.acquire()
  local ok, answer, failure = pcall(call_thread, self, nil, "fetch", self.settings.target, request)
  permits.release()
  if not ok then error(answer, 0) end
  if answer or failure then self:note_result("fetch", failure, client.find_request_id()) end
end

--- Returns the seconds within which an answer is to be expected.
function endpoint_methods:estimate_seconds()
  local timeout = self.settings.timeout
  local usual = self.latency:quantile(USUAL_SHARE) or DEFAULT_TIMEOUT_SHARE * timeout
  return math.max(MIN_SECONDS, math.min(MAX_TIMEOUT_SHARE * timeout, usual))
end

--- Counts whether the endpoint works, and logs a change. To be called after the last attempt of a token request or a
-- login. failure: why it failed, or nil if it succeeded. request_id: of the request that caused it.
function endpoint_methods:note_result(name, failure, request_id)
  local is_broken = false
  if failure then is_broken = is_outage(self, failure) end
  if is_broken == nil then return end
  self.metrics:note_endpoint(name == "login" and "login" or "token", not is_broken)
  note_state(self, get_target(self, name), is_broken and failure or nil, request_id)
end

--- Creates a client in the Lua state of a thread, if one is left. Returns true, or nil and why there are no threads.
function endpoint_methods:warm()
  local ok, problem = permits.run_unlimited(list_arguments(self, "warm", self.settings.target))
  if ok or permits.is_exhausted(ok, problem) then return true end
  return nil, tostring(problem)
end

return endpoint
