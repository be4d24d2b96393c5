-- The public methods of a gateway, which sends a registry JWT along with requests that nginx passes to a registry of
-- IBM Cloud Private. Needs ngx_lua 0.10.21 or later (OpenResty 1.21.4), nginx built with threads, a lua_shared_dict and
-- a thread_pool; docs/gateway.md has the configuration.
--
-- authorize() reads the credential and the scopes of a request (gateway/request.lua) and looks for the token under its
-- key (gateway/key.lua) in the dict (gateway/store.lua). If there is none, the request waits for a flight
-- (gateway/flights.lua), which makes a token request (gateway/endpoint.lua) in a thread (gateway/worker_thread.lua).

local answer = require "icptoken.gateway.answer"
local audit = require "icptoken.gateway.audit"
local client = require "icptoken.gateway.client"
local codes = require "icptoken.gateway.codes"
local credential_reader = require "icptoken.gateway.credential"
local errlog = require "ngx.errlog"
local flights = require "icptoken.gateway.flights"
local guard = require "icptoken.gateway.guard"
local health = require "icptoken.gateway.health"
local history = require "icptoken.gateway.history"
local key = require "icptoken.gateway.key"
local log = require "icptoken.gateway.log"
local login = require "icptoken.gateway.login"
local metrics = require "icptoken.gateway.metrics"
local options_reader = require "icptoken.gateway.options"
local page = require "icptoken.gateway.page"
local readings = require "icptoken.gateway.readings"
local refusal = require "icptoken.gateway.refusal"
local request_reader = require "icptoken.gateway.request"
local scope_reader = require "icptoken.gateway.scope"
local scrape = require "icptoken.gateway.scrape"
local store = require "icptoken.gateway.store"
local target = require "icptoken.gateway.target"
local tokens = require "icptoken.gateway.tokens"

local ngx = ngx
local variables, INFO = ngx.var, ngx.INFO
local is_internal = ngx.req.is_internal
local get_log_level = errlog.get_sys_filter_level
local begin_audit, note_wait, note_token = audit.begin, audit.note_wait, audit.note_token
local find_credential, compute_scopes = request_reader.find_credential, request_reader.compute_scopes
local obtain, obtain_with_query = tokens.obtain, tokens.obtain_with_query

local gateway = {}
local gateway_methods = {}
local gateway_meta = { __index = gateway_methods }

-- At this level nginx logs the whole of an Authorization header that it rejects (sent twice, too long, malformed).
local VERBOSE = "error_log has the level 'info' or 'debug', at which nginx itself logs the credentials of requests "
  .. "that it rejects: use 'notice'"
-- At most one such line in the log in this time, from all workers.
local VERBOSE_SECONDS = 60

-- The status page shows at most one such change in this time.
local EVICTED = "tokens were evicted before they had expired: make lua_shared_dict '%s' larger"
local EVICTED_SECONDS = 60

-- Answers a request with a failure and ends it. trace, token_key, flight: for the audit; any of them may be nil.
local function refuse(self, failure, scopes, trace, token_key, flight)
  self.counters:add("requests", failure.code)
  if trace then audit.note_failure(self, trace, failure.code, token_key, flight) end
  return answer.send(answer.for_failure(self.settings, failure, scopes, scope_reader.METHODS))
end

local function refuse_login(self, failure, trace, login_key, flight)
  self.counters:add("requests", failure.code)
  if trace then audit.note_failure(self, trace, failure.code, login_key, flight) end
  return answer.send(answer.for_failure(self.login_settings, failure, nil, "GET"))
end

-- Logs, once for each worker at most, that error_log has a level at which nginx logs credentials. Main, http, server
-- and location may each have an error_log of their own.
local function check_level(self)
  if get_log_level() < INFO or self.has_seen_level then return end
  self.has_seen_level = true
  if self.store:is_first("wordy", VERBOSE_SECONDS) then log.write(ngx.WARN, VERBOSE) end
end

--- For access_by_lua: sets $icptoken_authorization to "Bearer " and a token for just the access that this request
-- needs, and the variables of the audit that are declared; or answers the request as a registry would, and ends it.
-- Waits up to `timeout` seconds for a token that is not cached, without blocking the worker.
function gateway_methods:authorize()
  check_level(self)
  local trace = begin_audit(self)
  local kind, text, first = find_credential(self.settings)
  if not kind then
    -- without a valid credential the scopes are computed only for the challenge
    local scopes = self.settings.challenge == "bearer" and compute_scopes(self.settings) or nil
    return refuse(self, { code = text }, scopes, trace)
  end
  local scopes, query = compute_scopes(self.settings)
  if not scopes then return refuse(self, { code = query }, nil, trace) end
  if trace then note_wait(trace, scopes) end
  local authorization, source, token_key, flight =
    obtain_with_query(self, query, self.token_bases[kind], kind, text, first, scopes, self.defaults)
  if not authorization then return refuse(self, source, scopes, trace, token_key, flight) end
  self.counters:count_request(source)
  if trace then note_token(self, trace, source, token_key, authorization, flight) end
  variables.icptoken_authorization = authorization
end

local function compute_limit_key(self)
  local kind, text, first = find_credential(self.settings)
  if not kind or self.store:is_known(self.keys:compute_credential_key(kind, text, first)) then return "" end
  return client.find_address(self.settings, self.store)
end

--- For set_by_lua: the key of limit_req_zone and limit_conn_zone. Returns the address of the request's client (see the
-- option client_address) if the credential has had no token recently; or "", which nginx does not limit, if it has had
-- one, or if there is no credential, as such a request costs nothing. Never raises.
function gateway_methods:limit_key()
  local ok, limit_key = guard.call(compute_limit_key, self)
  if ok then return limit_key end
  log.write(ngx.ERR, ("internal error in gateway:limit_key at %s: the request is not limited"):format(limit_key))
  return ""
end

--- For header_filter_by_lua: replaces the challenge of every 401 of the registry by the gateway's own, drops a token
-- that the registry rejects as invalid or insufficient, and turns the latter into a denial. Never raises.
function gateway_methods:observe()
  -- an error_page leads to another location and maybe another status, but the registry's challenge is still there
  if ngx.status ~= 401 and not is_internal() then return end
  local ok, position = guard.call(refusal.rewrite_headers, self)
  if ok then return end
  log.write(ngx.ERR, ("internal error in gateway:observe at %s: the registry's own challenge may reach the client")
    :format(position))
end

--- For body_filter_by_lua: sends the body of an answer that observe() has turned into a denial.
function gateway_methods:filter()
  self.has_filter = true
  local status = ngx.status
  if status == 401 or status == 403 then refusal.rewrite_body() end
end

local function check_request(request)
  if type(request) ~= "table" then error("gateway:token takes a table", 3) end
  local scopes = scope_reader.normalise(request.scope or "")
  if not scopes then error("gateway:token: scope must be a string or a list of strings", 3) end
  local kind, text, first = credential_reader.from_table(request)
  if not kind then error("gateway:token: id_token, or username and password, are missing", 3) end
  return scopes, kind, text, first
end

--- Returns a token, without an effect on the current request. For all phases in which nginx allows waiting (rewrite,
-- access, content, timers). request: id_token, or username and password; scope (a string or a list); and service,
-- account, client_id, offline_token in place of the gateway's options. Raises if the request is malformed.
-- Returns the JWT and its source, "cached", "stale" or "fresh"; or nil, message, code, and { retry_after = seconds or
-- nil }.
function gateway_methods:token(request)
  local scopes, kind, text, first = check_request(request)
  local defaults = options_reader.choose_defaults(self.settings, request)
  local base = self.keys:begin_tokens(kind, defaults)
  local authorization, source = obtain(self, base, kind, text, first, scopes, defaults)
  if authorization then return authorization:sub(#"Bearer " + 1), source end
  return nil, codes.get(source.code).message, source.code, { retry_after = source.retry_after }
end

--- For content_by_lua of the location that the option `realm` names, with challenge = "bearer": the token service for
-- docker and skopeo. Takes a user name and a password (Basic), logs in at the cluster, and answers with the ID token
-- that authorize() accepts: the same one for all scopes, until it is about to expire.
function gateway_methods:login()
  local trace = audit.begin(self)
  if ngx.req.get_method() ~= "GET" then return refuse_login(self, { code = "method_not_allowed" }, trace) end
  local kind, text, first = credential_reader.split(ngx.var.http_authorization)
  if kind ~= "basic" then return refuse_login(self, { code = "no_credential" }, trace) end
  if trace then audit.note_wait(trace, nil) end
  local identity, failure, login_key, flight, username = login.find_identity(self, text, first)
  if not identity then return refuse_login(self, failure, trace, login_key, flight) end
  self.counters:add("requests", "login")
  if trace then audit.note_login(self, trace, login_key, username, flight) end
  return answer.send(login.make_answer(identity))
end

-- Raises, for the caller of a method, if two of the gateways have the same name.
local function check_names(method, all)
  local names = {}
  for _, one in ipairs(all) do
    local name = one.counters.gateway_name
    if names[name] then
      error(("gateway:%s: two gateways are called '%s'; set the option 'name'"):format(method, name), 3)
    end
    names[name] = true
  end
end

-- Returns a list of texts.
local function render(all, format)
  local parts = {}
  for i, one in ipairs(all) do parts[i] = { counters = one.counters, readings = readings.read(one) } end
  return metrics.render(parts, format)
end

--- Returns the metrics of this gateway, and of others that are passed, as text for Prometheus (format 0.0.4). Raises if
-- two gateways have the same name.
function gateway_methods:metrics(...)
  local all = { self, ... }
  check_names("metrics", all)
  return table.concat(render(all, "text"))
end

--- For content_by_lua: answers a scrape with the metrics of this gateway, and of others that are passed, in the format
-- that the request accepts: OpenMetrics 1.0, or Prometheus's text format 0.0.4. Raises if two gateways have the same
-- name.
function gateway_methods:scrape(...)
  local all = { self, ... }
  check_names("scrape", all)
  local format = scrape.choose_format(ngx.var.http_accept)
  ngx.header["Content-Type"], ngx.header["Vary"] = metrics.CONTENT_TYPES[format], "Accept"
  ngx.print(render(all, format))
end

--- For content_by_lua, of a location for load balancers: answers with 200 if the gateway can serve requests, with 503
-- and a reason if not. It is ready if it was started and the token endpoint has answered, and stays so while the
-- endpoint fails, as long as there are tokens.
function gateway_methods:ready()
  local reason = health.find_obstacle(self)
  return answer.send(answer.for_object({ status = reason and "not_ready" or "ready", reason = reason },
    reason and ngx.HTTP_SERVICE_UNAVAILABLE))
end

--- For content_by_lua: answers with 200 if this worker runs, whatever the state of the cluster. For supervisors that
-- restart nginx.
function gateway_methods.live()
  return answer.send(answer.for_object { status = "live" })
end

--- For content_by_lua: answers with a page that shows the state of this gateway; or with the same as JSON if the client
-- prefers that (Accept). Neither contains a secret, but they are not for the public.
function gateway_methods:status()
  return page.send(self)
end

--- For init_worker_by_lua: starts work in this worker. Logs one line at level emerg if the thread pool is missing or a
-- file cannot be read, and a warning if error_log has a level at which nginx logs credentials.
function gateway_methods:start()
  if not ngx.worker.id() then return end -- a helper process of nginx, without requests and maybe without threads
  if ngx.worker.id() == 0 then
    for _, one in ipairs(options_reader.list_unreadable(self.target.options)) do
      log.write(ngx.EMERG, ("option '%s': nginx's workers cannot read the file, so token requests will fail: %s")
        :format(one.name, one.problem))
    end
  end
  check_level(self)
  history.record_start(self, self.counters:open_row(ngx.worker.id()))
  self.flights:start()
  if self.redis and ngx.worker.id() == 0 then self.redis:start() end
end

-- redis, fleet: gateway/redis.lua and gateway/fleet.lua if they are in use, else nil.
local function new_counters(name, redis, fleet)
  local request_codes, fetch_codes = codes.list()
  return metrics.new(name, ngx.worker.count(), {
    requests = { "cached", "fresh", "stale", "login", unpack(request_codes) }, fetches = { "ok", unpack(fetch_codes) },
    redis = redis and redis.RESULTS, shared = fleet and fleet.RESULTS, shared_invalid = fleet and fleet.REASONS,
  })
end

--- Returns a gateway. For init_by_lua. options: see docs/gateway.md. Raises if one is wrong, and if nginx lacks threads
-- or the lua_shared_dict.
function gateway.new(options)
  if not ngx.run_worker_thread then
    error("icptoken.gateway: this nginx has no ngx.run_worker_thread: it needs ngx_lua 0.10.21 or later and an nginx "
      .. "built --with-threads", 0)
  end
  local settings, client_options = options_reader.read(options)
  settings.target, settings.login_target = target.for_tokens(client_options), target.for_logins(client_options)
  local keys = key.new(settings)
  local self = { settings = settings, login_settings = { challenge = "basic", realm = settings.realm },
    defaults = settings.defaults, target = settings.target, keys = keys, token_bases = keys.token_bases,
    dict = options_reader.find_dict(settings), has_filter = false, is_checking_filter = false, has_seen_level = false,
    audited = nil }
  self.login_target, self.started_at, self.pages, self.samples = settings.login_target, ngx.time(), {}, {}
  -- loaded only where they are used
  local redis = settings.fleet and require "icptoken.gateway.redis"
  local fleet = settings.fleet and require "icptoken.gateway.fleet"
  self.counters = new_counters(settings.name or self.target.url:match "^%a+://([^/]*)", redis, fleet)
  self.store = store.new(self.dict, function()
    self.counters:add "evictions"
    self.store:add_first_change(self.target.key, "tokens_evicted", EVICTED:format(settings.dict), EVICTED_SECONDS)
  end)
  self.started_before = self.store:get_start() -- at a reload
  self.redis = redis and redis.new(settings.fleet, self.store, self.counters, function(kind, line)
    self.store:add_change(self.target.key, kind, line)
  end)
  self.fleet = fleet and fleet.new(settings, self.store, self.counters, self.redis)
  self.flights = flights.new(settings, keys, self.store, self.counters, self.fleet)
  return setmetatable(self, gateway_meta)
end

return gateway
