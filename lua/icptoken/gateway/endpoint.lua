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

-- One call of a thread. Waits for a Lua state where all are taken, as long as the answer is wanted. Returns the answer,
-- or nil and a failure.
local function call_thread(self, is_wanted, name, ...)
  local ok, answer, message, code, details = run_thread(self, name, ...)
  while not ok and answer == NO_STATE do
    if not is_wanted() then return nil, { code = "timeout", is_unasked = true } end
    ngx.sleep(BUSY_SECONDS)
    ok, answer, message, code, details = run_thread(self, name, ...)
  end
  if ok and answer then return answer end
  if not ok then
    self.log(ngx.ERR, "the worker thread failed: " .. tostring(answer))
    return nil, { code = "internal" }
  end
  local retry_after = type(details) == "table" and details.retry_after
  return nil, { code = code, message = message, retry_after = retry_after and math.min(retry_after, MAX_RETRY_AFTER) }
end

local function ask(self, is_wanted, ...)
  local metrics = self.metrics
  local started = now()
  metrics:add "inflight"
  local answer, failure = call_thread(self, is_wanted, ...)
  metrics:add("inflight", nil, -1)
  metrics:observe("fetch_seconds", now() - started)
  if answer and not store.is_authorization("Bearer " .. tostring(answer.token)) then
    answer, failure = nil, { code = "invalid_response", message = "its token holds characters that no token has" }
  end
  metrics:add("fetches", answer and "ok" or failure.code)
  return answer, failure
end

--- Is it the credential that was refused, not the endpoint that fails?
function endpoint.is_refusal(failure)
  return failure.code == "unauthorized" or failure.code == "forbidden" or failure.code == "invalid_credential"
end

-- Does a failure say anything about the endpoint? Not when it had little time, as its requests had waited in the queue.
local function is_telling(self, failure, seconds)
  if failure.code == "internal" or failure.is_unasked then return false end
  return failure.code ~= "timeout" or seconds >= self.settings.timeout / 2
end

-- One line in the log when the endpoint begins to fail or answers again, of all workers.
local function note_state(self, client, failure, seconds)
  if failure and endpoint.is_refusal(failure) then failure = nil end
  if failure and not is_telling(self, failure, seconds) then return end
  local before = self.store:put_state(client.name, failure and failure.code or "ok")
  if not before then return end
  if failure then
    self.log(ngx.ERR, ("%s fails: %s"):format(client.url, failure.message or failure.code))
  else
    self.log(ngx.NOTICE, ("%s answers again (it failed with %s)"):format(client.url, before))
  end
end

local function question(self, name, client, request, seconds, is_wanted)
  -- messages tell the limit
  request.timeout = math.ceil(seconds * 100) / 100
  local answer, failure = ask(self, is_wanted, name, client, request)
  note_state(self, client, failure, seconds)
  return answer, failure
end

--- Asks for a token, for so many seconds at most. request: as for client:fetch. is_wanted: tells whether anybody still
-- wants the answer. Returns what worker_thread.fetch does, or nil and a failure.
function endpoint_methods:fetch(request, seconds, is_wanted)
  return question(self, "fetch", self.settings.client, request, seconds, is_wanted)
end

--- Logs in at the identity provider. request: username and password. Returns { token, expires_at }, or nil and a
-- failure.
function endpoint_methods:log_in(request, seconds, is_wanted)
  return question(self, "login", self.settings.login, request, seconds, is_wanted)
end

--- Has a client made in the Lua state of a thread. Returns true, or nil and why there can be none.
function endpoint_methods:warm()
  local ok, made, message = run_thread(self, "warm", self.settings.client)
  if ok and made or made == NO_STATE then return true end
  return nil, tostring(ok and message or made)
end

return endpoint
