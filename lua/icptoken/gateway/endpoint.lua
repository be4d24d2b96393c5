-- The token endpoint as a worker sees it. It is asked in a thread of nginx (worker_thread.lua), as the module waits for
-- the network; each question is counted and timed, and the log tells when the endpoint begins to fail and when it
-- answers again.

local clock = require "icptoken.gateway.clock"
local latency = require "icptoken.gateway.latency"
local permits = require "icptoken.gateway.permits"
local store = require "icptoken.gateway.store"

local now = clock.now

local endpoint = {}
local endpoint_methods = {}
local endpoint_meta = { __index = endpoint_methods }

local THREAD_MODULE = "icptoken.gateway.worker_thread"
-- What says that the endpoint works, and the credential is wrong.
local REFUSALS = { unauthorized = true, forbidden = true }
-- What is about the request or its credential, and says nothing of others.
local OF_ONE_KEY = { rate_limited = true, not_found = true, http_status = true }
-- What the gateway itself did wrong, or the module, which was not even asked.
local LOCAL_FAILURES = { internal = true, invalid_credential = true }
-- How often there is a line in the log: about too few threads, and about an endpoint whose state changes all the time.
local TELL_SECONDS = 60
local STATE_SECONDS = 10
-- A token request may wait for a thread for this share of `timeout` before the log says that threads are too few.
local MAX_DELAY_SHARE = 0.1
-- An attempt that takes longer than this share of the recent answers, by this factor, gets another one beside it: not
-- sooner than after MIN_HEDGE_SECONDS; and where too few answers are known, after DEFAULT_HEDGE_SECONDS.
local HEDGE_SHARE, HEDGE_FACTOR, MIN_HEDGE_SECONDS, DEFAULT_HEDGE_SECONDS = 0.9, 2, 0.1, 1
-- Each token request earns so much of an attempt beside another, and so many can be saved: attempts beside others add
-- no more than this share to the load of an endpoint that is slow for all.
local HEDGE_EARNINGS, MAX_HEDGE_BUDGET = 0.4, 20
-- As long as a server may ask for patience.
local MAX_RETRY_AFTER = 2 ^ 31
-- This share of the answers comes within what estimate_seconds returns, which is at least MIN_SECONDS and at most one
-- share of `timeout`; and another one while too few answers are known.
local USUAL_SHARE, MIN_SECONDS, MAX_TIMEOUT_SHARE, DEFAULT_TIMEOUT_SHARE = 0.95, 0.05, 0.5, 0.25

--- settings: thread_pool, timeout (seconds), client and login (who asks for tokens and who logs in: name, options, and
-- URL for logs).
function endpoint.new(settings, tokens, metrics, log)
  return setmetatable({ settings = settings, store = tokens, metrics = metrics, log = log, latency = latency.new(),
    hedge_budget = MAX_HEDGE_BUDGET / 2 }, endpoint_meta)
end

-- What is known of this worker's thread pools, by name: how many calls are under way, and of how many threads it is
-- known when they ended their last call.
local pools = {}

local function get_pool(name)
  local pool = pools[name]
  if not pool then
    pool = { calls = 0, threads = 0, ended_at = {} }
    pools[name] = pool
  end
  return pool
end

local function list_arguments(self, name, client, ...)
  return self.settings.thread_pool, THREAD_MODULE, name, client.name, client.options, ...
end

-- Logs now and then that a token request found no thread or no Lua state.
local function tell_shortage(self)
  if not self.store:is_first("w" .. self.settings.client.name, TELL_SECONDS) then return end
  self.log(ngx.WARN, ("token requests are waiting for a worker thread: thread_pool '%s' and "
    .. "lua_worker_thread_vm_pool_size must each be at least the sum of max_inflight over all gateways")
    :format(self.settings.thread_pool))
end

-- Notes which thread served a call that was posted at this time, when so many others were under way. Tells of a
-- shortage if it waited long for a busy thread, and the others were enough for all threads that have ever been seen.
-- (On a machine that is busy itself, a busy thread may take a call before a free one has been woken for it.)
local function note_thread(self, pool, posted_at, others, times)
  local busy_until = pool.ended_at[times.thread]
  if not busy_until then pool.threads = pool.threads + 1 end
  pool.ended_at[times.thread] = times.ended_at
  local has_waited = times.began_at - posted_at >= MAX_DELAY_SHARE * self.settings.timeout
  if has_waited and busy_until and busy_until > posted_at and others >= pool.threads then tell_shortage(self) end
end

-- After how many seconds an attempt that starts now is to get another one beside it, or nil for never.
local function choose_hedge(self)
  local own = self.settings.hedge_after
  if own ~= nil then return own or nil end
  if self.hedge_budget < 1 then return nil end
  local usual = self.latency:quantile(HEDGE_SHARE)
  return usual and math.max(MIN_HEDGE_SECONDS, HEDGE_FACTOR * usual) or DEFAULT_HEDGE_SECONDS
end

-- Those beside the first of a token request are paid for.
local function count_attempts(self, attempts)
  if not attempts then return end
  self.hedge_budget = math.min(MAX_HEDGE_BUDGET, self.hedge_budget + HEDGE_EARNINGS - (attempts - 1))
end

-- One call of a thread. Returns the answer; nil and a failure; or nil, nil where no request was made, and whether that
-- was because no Lua state was left.
local function call_thread(self, name, client, request)
  local pool, posted_at = get_pool(self.settings.thread_pool), now()
  local others = pool.calls
  pool.calls = others + 1
  local ok, times, answer, message, code, details = permits.run_thread(list_arguments(self, name, client, request))
  pool.calls = pool.calls - 1
  if not ok then
    if permits.is_exhausted(ok, times) then return nil, nil, true, tell_shortage(self) end
    self.log(ngx.ERR, "the worker thread failed: " .. tostring(times))
    return nil, { code = "internal" }
  end
  note_thread(self, pool, posted_at, others, times)
  if answer then
    if answer.seconds then self.latency:add(answer.seconds) end
    count_attempts(self, answer.attempts)
    return answer
  end
  if code == "not_asked" then return nil end
  details = type(details) == "table" and details or {}
  count_attempts(self, details.attempts)
  local retry_after = details.retry_after and math.min(details.retry_after, MAX_RETRY_AFTER)
  return nil, { code = code, message = message, status = details.status, retry_after = retry_after,
    retryable = details.retryable, timeout = details.timeout }
end

-- The same, counted and timed, and its token checked.
local function measure(self, ...)
  local metrics = self.metrics
  local started = now()
  metrics:add "inflight"
  local answer, failure, is_starved = call_thread(self, ...)
  metrics:add("inflight", nil, -1)
  if not answer and not failure then return nil, nil, is_starved end
  metrics:observe("fetch_seconds", now() - started)
  if answer and not store.is_authorization("Bearer " .. tostring(answer.token)) then
    answer, failure = nil, { code = "invalid_response", message = "its token holds characters that no token has" }
  end
  metrics:add("fetches", answer and "ok" or failure.code)
  return answer, failure
end

-- Does a failure say that the endpoint does not work? nil where it says nothing about that: when the endpoint was not
-- asked, or had little time, as the question had waited or a token was about to end.
local function says_broken(self, failure)
  if REFUSALS[failure.code] then return false end
  if LOCAL_FAILURES[failure.code] then return nil end
  if failure.code == "timeout" and (failure.timeout or 0) < self.settings.timeout / 2 then return nil end
  return true
end

-- A line in the log when the endpoint begins to fail and when it answers again, of all workers. One that does now this,
-- now that has one of each in so many seconds.
local function note_state(self, client, failure)
  local state = failure and failure.code or "ok"
  local before = self.store:get_state(client.name)
  if state == before then return end
  if not self.store:is_first((failure and "t" or "u") .. client.name, STATE_SECONDS) then return end
  self.store:put_state(client.name, state)
  if failure then
    self.log(ngx.ERR, ("%s fails: %s"):format(client.url, failure.message or failure.code))
  else
    self.log(ngx.NOTICE, ("%s answers again (it failed with %s)"):format(client.url, before))
  end
end

local function get_client(self, name)
  return name == "login" and self.settings.login or self.settings.client
end

--- Makes a token request or a login, a single attempt, with a permit in hand (permits.lua), until a deadline on
-- clock.now(). name: "fetch" for a token, with a request as for client:fetch, or "login", with a user name and a
-- password. may_hedge: whether a token request may get another one beside it. Returns what the function of that name
-- in worker_thread.lua does; nil and a failure, where is_general says whether other keys' token requests would
-- probably fail in the same way; or nil, nil where none was made, and whether that was because no Lua state was left,
-- so that it can be made later. Otherwise the time was over before a thread began.
function endpoint_methods:ask(name, request, deadline, may_hedge)
  request.deadline, request.retries = deadline, 0
  request.hedge_after = name == "fetch" and may_hedge and choose_hedge(self) or nil
  local answer, failure, is_starved = measure(self, name, get_client(self, name), request)
  if failure then
    local is_of_key = OF_ONE_KEY[failure.code] and (failure.status or 0) < 500
    failure.is_general = says_broken(self, failure) and not is_of_key
  end
  return answer, failure, is_starved
end

--- The seconds within which an answer is to be expected.
function endpoint_methods:estimate_seconds()
  local timeout = self.settings.timeout
  local usual = self.latency:quantile(USUAL_SHARE) or DEFAULT_TIMEOUT_SHARE * timeout
  return math.max(MIN_SECONDS, math.min(MAX_TIMEOUT_SHARE * timeout, usual))
end

--- Logs a change of the endpoint's state, after the last attempt of a token request or login: that ended with this
-- failure, or, without one, with an answer.
function endpoint_methods:note_result(name, failure)
  local client = get_client(self, name)
  if not failure then return note_state(self, client, nil) end
  local broken = says_broken(self, failure)
  if broken ~= nil then note_state(self, client, broken and failure or nil) end
end

--- Makes a client in the Lua state of a thread, if one is left. Returns true, or nil and why there are no threads.
function endpoint_methods:warm()
  local ok, problem = permits.run_unlimited(list_arguments(self, "warm", self.settings.client))
  if ok or permits.is_exhausted(ok, problem) then return true end
  return nil, tostring(problem)
end

return endpoint
