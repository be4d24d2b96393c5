-- The state of a gateway as one plain table: what gateway:status() sends as JSON and shows on its page (page.lua).
-- docs/gateway.md describes the fields. Every part has a function of its own; all numbers are of all workers.

local clock = require "icptoken.gateway.clock"
local configuration = require "icptoken.gateway.configuration"
local readings = require "icptoken.gateway.readings"
local text = require "icptoken.gateway.text"

local status = {}

-- A change of a passing kind is listed as a problem for this long.
local RECENT_SECONDS = 300
-- From this share of its limit on, the queue or the number of token requests in progress is a warning.
local BUSY_SHARE = 0.8
-- Kinds of changes (history.lua) for which no later change says that the problem is over.
local PASSING = { worker_replaced = true, threads_short = true, queue_full = true, tokens_rejected = true,
  tokens_evicted = true }
local SUMMARIES = { ok = "Working", warning = "Working, with warnings", error = "Failing" }
local NOT_STARTED = "the gateway was not started: nginx.conf lacks init_worker_by_lua_block { gateway:start() }"
local NO_THREADS = "there are no threads: the main context of nginx.conf lacks thread_pool %s"
local PAUSED = "renewals are paused because the endpoint fails; tokens are used until they expire"
local FEW_WORKERS = "only %d of %d workers are running, or have started the gateway"
local NO_REDIS = "the fleet's Redis cannot be used: this machine requests its tokens without the fleet"
local NEARLY_FULL = "the queue of token requests is nearly full"

local function find_latest(changes, kind)
  for _, change in ipairs(changes) do
    if change.kind == kind then return change end
  end
end

-- Describes the token endpoint or the identity provider. failing: the kind of the change when it began to fail.
local function describe_target(self, target, failing, changes)
  local state = self.store:get_state(target.key)
  if state == "ok" then return { url = target.url, state = "ok", level = "ok", summary = "Answering" } end
  local change = find_latest(changes, failing) or {}
  return { url = target.url, state = state, level = "error", summary = ("Failing (%s)"):format(state),
    since = change.time, text = change.text or ("requests to %s fail: %s"):format(target.url, state) }
end

local function describe_endpoint(self, changes)
  local counters = self.counters
  local endpoint = describe_target(self, self.target, "endpoint_failing", changes)
  local results, fetches = counters:get_all "fetches"
  endpoint.fetches, endpoint.failures = fetches, fetches - results.ok
  -- fetches are logins, too
  local answers = counters:get("endpoint_results", "token,ok") + counters:get("endpoint_results", "token,failed")
  if endpoint.state == "ok" and answers == 0 then
    endpoint.state, endpoint.summary = "unused", "No token request so far"
  end
  endpoint.paused = self.store:is_paused(self.target.key)
  endpoint.renewals = endpoint.paused and "Paused" or "As needed"
  endpoint.median_seconds = counters:estimate_quantile("fetch_seconds", 0.5)
  endpoint.last_answer = counters:get_last_answer "token"
  endpoint.certificate_expiry = readings.find_certificate_expiry(self, "endpoint")
  endpoint.p99_seconds = counters:estimate_quantile("fetch_seconds", 0.99)
  return endpoint
end

-- The identity provider is used by gateway:login() only.
local function describe_identity_provider(self, changes)
  local target = self.settings.login_target
  if self.settings.challenge ~= "bearer" and self.store:get_state(target.key) == "ok" then return nil end
  return describe_target(self, target, "login_failing", changes)
end

local function describe_limited(used, limit)
  local share = used / limit
  return { used = used, limit = limit, share = share, level = share >= BUSY_SHARE and "warning" or "ok" }
end

local function describe_queue(self)
  local settings, counters = self.settings, self.counters
  local workers = counters.workers
  return {
    inflight = describe_limited(counters:get "inflight", settings.max_inflight * workers),
    queued = describe_limited(counters:get "queued", settings.max_queue * workers),
  }
end

local function describe_requests(counts, total)
  local results = text.list {}
  for result, count in pairs(counts) do
    if count > 0 then table.insert(results, { result = result, count = count, share = count / total }) end
  end
  table.sort(results, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.result < b.result
  end)
  return { total = total, results = results }
end

local function describe_cache(self, counts)
  local counters, bytes = self.counters, self.dict:capacity()
  local used, with_token = bytes - self.dict:free_space(), counts.cached + counts.fresh + counts.stale
  return { bytes = bytes, used_bytes = used, used_share = used / bytes,
    hit_ratio = with_token > 0 and counts.cached / with_token or nil,
    evictions = counters:get "evictions", dropped = counters:get "dropped" }
end

-- Workers that exited are not among them; those of an older configuration are, while they serve their last requests.
local function describe_workers(self)
  local workers = text.list {}
  for i, one in ipairs(self.counters:list_workers()) do
    workers[i] = { worker = one.worker, pid = one.pid, started_at = one.began_at, exiting = not one.is_current,
      level = "ok", summary = one.is_current and "Running" or "Exiting", requests = one.requests,
      inflight = one.inflight, queued = one.queued }
  end
  return workers
end

-- What the gateway shares with others over Redis, if it does.
local function describe_fleet(self, changes)
  if not self.redis then return nil end
  local counts = self.counters:get_all "shared"
  local fleet = { redis = self.redis:get_place(), available = self.redis:is_available(), tokens = counts.token,
    leases = counts.lease, alone = counts.alone }
  fleet.level = fleet.available and "ok" or "warning"
  fleet.summary = fleet.available and "Sharing tokens" or "Without Redis"
  local change = not fleet.available and find_latest(changes, "redis_failing")
  if change then fleet.since, fleet.text = change.time, change.text end
  return fleet
end

-- Adds the recent changes of passing kinds, the latest of each kind.
local function add_changes(add, state)
  local seen = {}
  for _, change in ipairs(state.changes) do
    if PASSING[change.kind] and not seen[change.kind] and change.time > state.time - RECENT_SECONDS then
      seen[change.kind] = true
      add(change.level, change.text)
    end
  end
end

-- Returns how many of the workers have the newest configuration.
local function count_current(workers)
  local count = 0
  for _, worker in ipairs(workers) do count = count + (worker.exiting and 0 or 1) end
  return count
end

-- Returns the problems that an operator should know, each { level, text }, errors first.
local function list_problems(self, state)
  local problems, errors = text.list {}, 0
  local function add(level, problem)
    if level == "error" then errors = errors + 1 end
    table.insert(problems, level == "error" and errors or #problems + 1, { level = level, text = problem })
  end
  if not self.flights.is_started then add("error", NOT_STARTED) end
  if self.flights.is_broken then add("error", NO_THREADS:format(self.settings.thread_pool)) end
  if state.endpoint.level == "error" then add("error", state.endpoint.text) end
  local provider = state.identity_provider
  if provider and provider.level == "error" then add("error", provider.text) end
  if state.endpoint.paused then add("warning", PAUSED) end
  if state.fleet and not state.fleet.available then add("warning", state.fleet.text or NO_REDIS) end
  local running = count_current(state.workers)
  if running < self.counters.workers then add("warning", FEW_WORKERS:format(running, self.counters.workers)) end
  if state.queue.queued.level ~= "ok" then add("warning", NEARLY_FULL) end
  add_changes(add, state)
  return problems
end

-- Makes all texts of a plain value printable, as any of them may have come from a server or a user. Rounds all numbers
-- as in JSON, so that the page and its script format the same values.
local function clean(value)
  if type(value) == "string" then return text.make_printable(value) end
  if type(value) == "number" then return tonumber(("%.14g"):format(value)) end
  if type(value) == "table" then
    for name, member in pairs(value) do value[name] = clean(member) end
  end
  return value
end

--- Returns the state of a gateway: a plain table without secrets, whose texts are printable (text.lua).
function status.describe(self)
  local changes = text.list(self.store:list_changes(self.target.key))
  local counts, total = self.counters:get_all "requests"
  local state = { name = self.counters.gateway_name, time = clock.wall(), software = readings.get_versions(),
    counting_since = self.store:get_start(), endpoint = describe_endpoint(self, changes),
    identity_provider = describe_identity_provider(self, changes), queue = describe_queue(self),
    requests = describe_requests(counts, total), cache = describe_cache(self, counts),
    workers = describe_workers(self), fleet = describe_fleet(self, changes), changes = changes,
    configuration = text.list(configuration.list(self.settings, self.target.options)) }
  state.problems = list_problems(self, state)
  state.level = state.problems[1] and state.problems[1].level or "ok"
  state.summary = SUMMARIES[state.level]
  return clean(state)
end

return status
