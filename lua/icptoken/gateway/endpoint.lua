-- The token endpoint as a worker sees it. It is asked in a thread of nginx (worker_thread.lua), as the module waits for
-- the network; each question is counted and timed, and the log tells when the endpoint begins to fail and when it
-- answers again.

local clock = require "icptoken.gateway.clock"
local store = require "icptoken.gateway.store"

local now = clock.now

local endpoint = {}
local endpoint_methods = {}
local endpoint_meta = { __index = endpoint_methods }

local THREAD_MODULE = "icptoken.gateway.worker_thread"
-- What ngx.run_worker_thread says when all Lua states for threads are in use, and when to try again.
local NO_STATE = "no available Lua vm"
local BUSY_SECONDS = 0.01
-- What says that the endpoint works, and the credential is wrong.
local REFUSALS = { unauthorized = true, forbidden = true }
-- What the gateway itself did wrong, or the module, which was not even asked.
local LOCAL_FAILURES = { internal = true, invalid_credential = true }
-- How often there is a line in the log: about too few threads, and about an endpoint whose state changes all the time.
local TELL_SECONDS = 60
local STATE_SECONDS = 10
-- As long as a server may ask for patience.
local MAX_RETRY_AFTER = 2 ^ 31

--- settings: thread_pool, timeout (seconds), client and login (who asks for tokens and who logs in: name, options, and
-- URL for logs).
function endpoint.new(settings, tokens, metrics, log)
  return setmetatable({ settings = settings, store = tokens, metrics = metrics, log = log }, endpoint_meta)
end

local function run_thread(self, name, client, ...)
  return ngx.run_worker_thread(self.settings.thread_pool, THREAD_MODULE, name, client.name, client.options, ...)
end

-- Says now and then that there is too little of what questions need.
local function tell_shortage(self)
  if not self.store:is_first("w" .. self.settings.client.name, TELL_SECONDS) then return end
  self.log(ngx.WARN, ("questions wait too long until they can be asked: the threads of thread_pool %s, and "
    .. "lua_worker_thread_vm_pool_size, must be at least what the max_inflight of all gateways add up to")
    :format(self.settings.thread_pool))
end

-- One call of a thread. Waits for a Lua state where all are taken, as long as the answer is wanted and until the
-- request's deadline. Returns the answer; nil and a failure; or nil where it was not asked any more.
local function call_thread(self, is_wanted, name, client, request)
  local ok, answer, message, code, details = run_thread(self, name, client, request)
  while not ok and answer == NO_STATE do
    if not is_wanted() or now() >= request.deadline then return nil, tell_shortage(self) end
    ngx.sleep(BUSY_SECONDS)
    ok, answer, message, code, details = run_thread(self, name, client, request)
  end
  if ok and answer then return answer end
  if not ok then
    self.log(ngx.ERR, "the worker thread failed: " .. tostring(answer))
    return nil, { code = "internal" }
  end
  if code == "not_asked" then return nil, tell_shortage(self) end
  details = type(details) == "table" and details or {}
  local retry_after = details.retry_after and math.min(details.retry_after, MAX_RETRY_AFTER)
  return nil, { code = code, message = message, status = details.status, retry_after = retry_after,
    timeout = details.timeout }
end

-- The same, counted and timed, and its token checked.
local function measure(self, ...)
  local metrics = self.metrics
  local started = now()
  metrics:add "inflight"
  local answer, failure = call_thread(self, ...)
  metrics:add("inflight", nil, -1)
  if not answer and not failure then return nil end
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

--- Asks a question until a deadline on clock.now(). name: "fetch" for a token, with a request as for client:fetch, or
-- "login", with a user name and a password. is_wanted: tells whether anybody still wants the answer. Returns what the
-- function of that name in worker_thread.lua does; nil and a failure, where is_general says whether other questions
-- would fail in the same way; or nil where the time was over before it could be asked.
function endpoint_methods:ask(name, request, deadline, is_wanted)
  local client = name == "login" and self.settings.login or self.settings.client
  local seconds = deadline - now()
  request.deadline = deadline
  local answer, failure = measure(self, is_wanted, name, client, request)
  if answer then
    note_state(self, client, nil)
  elseif failure then
    if failure.code == "timeout" and (failure.timeout or 0) < seconds / 2 then tell_shortage(self) end
    local broken = says_broken(self, failure)
    if broken ~= nil then note_state(self, client, broken and failure or nil) end
    -- other 4xx than 401 and 403 may be about the request, but nobody else would tell of them
    failure.is_general = broken and not (failure.code == "http_status" and (failure.status or 0) < 500)
  end
  return answer, failure
end

--- Has a client made in the Lua state of a thread. Returns true, or nil and why there are no threads.
function endpoint_methods:warm()
  local ok, problem = run_thread(self, "warm", self.settings.client)
  if ok or problem == NO_STATE then return true end
  return nil, tostring(problem)
end

return endpoint
