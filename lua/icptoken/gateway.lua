-- Puts a registry JWT on requests that nginx passes to a registry of IBM Cloud Private. Needs ngx_lua 0.10.21 or
-- later (OpenResty 1.21.4), nginx built with threads, a lua_shared_dict and a thread_pool. The README's chapter
-- "OpenResty and nginx" has the configuration.
--
-- authorize() looks for a token in the dict (gateway/store.lua) under a key (gateway/key.lua) of the request's
-- credential (gateway/credential.lua) and scopes (gateway/scope.lua). If there is none, the request waits for a flight
-- (gateway/flights.lua) that asks the endpoint (gateway/endpoint.lua) in a thread (gateway/worker_thread.lua).

local icptoken = require "icptoken"
local answer = require "icptoken.gateway.answer"
local challenge_header = require "icptoken.gateway.challenge"
local client_reader = require "icptoken.gateway.client"
local clock = require "icptoken.gateway.clock"
local credential_reader = require "icptoken.gateway.credential"
local flights = require "icptoken.gateway.flights"
local key = require "icptoken.gateway.key"
local metrics = require "icptoken.gateway.metrics"
local options_reader = require "icptoken.gateway.options"
local scope_reader = require "icptoken.gateway.scope"
local seal = require "icptoken.gateway.seal"
local store = require "icptoken.gateway.store"

local ngx = ngx
local get_method = ngx.req.get_method
local is_internal = ngx.req.is_internal
local errlog = require "ngx.errlog"
local raw_log = errlog.raw_log
local now = clock.now
local find, sub = string.find, string.sub
local split_credential = credential_reader.split

local gateway = {}
local gateway_methods = {}
local gateway_meta = { __index = gateway_methods }

-- A registry that refuses a key's token again and again costs one fetch in so many seconds, and a line in the log.
local DROP_SECONDS = 10
local DISAGREE_SECONDS = 60
local DISAGREE = "the registry calls tokens invalid that %s has just given out: is the option 'service' what its "
  .. "auth.token.service says, and are issuer and rootcertbundle this cluster's? Does nginx.conf pass "
  .. "$icptoken_authorization on?"

-- What becomes of a token that the registry refuses with one of these errors (RFC 6750 section 3.1).
local DROPPED = {
  invalid_token = "key %s: the registry rejected its token as invalid; the token was dropped",
  insufficient_scope = "key %s: the registry requires more access than its token grants; the token was dropped",
}
-- When filter() must have run.
local FILTER_SECONDS = 1
local NO_FILTER = "the registry's own message goes out with a denial, and clients say that authentication is required: "
  .. "add \"body_filter_by_lua_block { gateway:filter() }\" beside gateway:observe() in nginx.conf"

-- What a key is for that is made of a credential.
local SEALED_IDENTITY = "icptoken sealed ID token "
-- A token service hands out no token with less left (https://distribution.github.io/distribution/spec/auth/token/); one
-- that is handed out with less after all is refused when it expires.
local MIN_IDENTITY_SECONDS = 60

-- At this level nginx writes the whole of an Authorization header that it refuses (twice there, too long, malformed).
local WORDY = "error_log has the level 'info' or 'debug', at which nginx itself writes credentials of refused requests "
  .. "into the log: use 'notice'"

-- As the module's option `retries`.
local DEFAULT_RETRIES = 2

-- Of an ICP cluster's identity provider.
local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"

-- Without the name of this file and function, which ngx.log adds.
local function log(level, message)
  raw_log(level, "icptoken: " .. message)
end

-- The innermost place in Lua code of what is under way.
local function find_place()
  local level = 2
  local info = debug.getinfo(level, "Sl")
  while info and info.currentline <= 0 do
    level = level + 1
    info = debug.getinfo(level, "Sl")
  end
  return info and ("%s:%d"):format(info.short_src, info.currentline) or "an unknown place"
end

-- Calls a function. Returns true and its first result; or false and where it raised an error. What that says is not
-- looked at, as it may hold a credential.
local function call(callback, ...)
  return xpcall(callback, find_place, ...)
end

-- Calls an option that is a function. Returns whether it returned, and its first result.
local function call_user(name, callback)
  local ok, result = call(callback)
  if ok then return true, result end
  log(ngx.ERR, ("the function '%s' raised an error at %s: its message is not shown"):format(name, result))
  return false
end

-- The scopes that the request needs for its path, and the query that may mount a blob, if any; or nil and a code.
local function compute_scope(self)
  local callback = self.settings.scope
  if not callback then
    return scope_reader.compute(get_method(), ngx.var.request_uri, self.settings.delete_actions)
  end
  local ok, value = call_user("scope", callback)
  if not ok then return nil, "internal" end
  if value == nil then return nil, "name_invalid" end
  local scopes = scope_reader.normalise(value)
  if scopes then return scopes, nil end
  log(ngx.ERR, "the function 'scope' gave neither a list of scopes nor nil")
  return nil, "internal"
end

-- The credential of the request, as it goes through this file: its kind, a text, and the byte in the text from which on
-- it stands. Or nil and a code.
local function find_credential(self)
  local callback = self.settings.credential
  if not callback then
    local value = ngx.var.http_authorization
    local kind, text, first = split_credential(value)
    if kind then return kind, text, first end
    return nil, value and value ~= "" and "invalid_credential" or "no_credential"
  end
  local ok, value = call_user("credential", callback)
  if not ok then return nil, "internal" end
  if value == nil then return nil, "no_credential" end
  local kind, text, first = credential_reader.from_table(value)
  if kind then return kind, text, first end
  log(ngx.ERR, "the function 'credential' gave neither an ID token, nor a user name and password, nor nil")
  return nil, "internal"
end

-- The name of a credential.
local function name_credential(self, kind, text, first)
  return key.compute(self.credential_bases[kind], text, first, "")
end

-- What to ask the endpoint, the name of the credential, and when it expires on clock.now(); or nil and a failure.
local function make_request(self, kind, text, first, scopes, defaults)
  local request, ends = credential_reader.read(kind, text, first, self.settings.token_user)
  if not request then return nil, ends end
  request.service, request.account = defaults.service, defaults.account
  request.client_id, request.offline_token = defaults.client_id, defaults.offline_token
  request.scope = scopes ~= "" and scopes or nil
  return request, name_credential(self, kind, text, first), ends and now() + ends - clock.wall()
end

-- The same for later. (LuaJIT does not compile a function that makes a closure, so obtain must make none.)
local function prepare_request(self, kind, text, first, scopes, defaults)
  return function() return make_request(self, kind, text, first, scopes, defaults) end
end

-- Finds or gets the token. base: what its key begins with. Returns its Authorization value, where it is from, and its
-- key; or nil and a failure.
local function obtain(self, base, kind, text, first, scopes, defaults)
  local name = key.compute(base, text, first, scopes)
  local authorization, is_due, end_at = self.store:get_token(name)
  if authorization and not is_due then return authorization, "cached", name end
  local prepared = prepare_request(self, kind, text, first, scopes, defaults)
  if authorization then
    return authorization, self.flights:renew(name, end_at, prepared) and "cached" or "stale", name
  end
  local failure
  authorization, failure = self.flights:obtain(name, prepared)
  if not authorization then return nil, failure end
  return authorization, "fresh", name
end

local function refuse(self, failure, scopes)
  self.counters:add("requests", failure.code)
  return answer.refuse(self.settings, failure, scopes, scope_reader.METHODS)
end

-- The request has no credential that is one. What it asks for is only looked at for the challenge, if at all.
local function refuse_stranger(self, code)
  local scopes = self.settings.challenge == "bearer" and compute_scope(self) or nil
  return refuse(self, { code = code }, scopes)
end

-- Does a token allow to read a repository? A token service may refuse a part of what it was asked for by leaving it out
-- (https://distribution.github.io/distribution/spec/auth/token/). A token that cannot be looked into is the registry's
-- to judge.
local function allows_pull(authorization, name)
  local jwt = icptoken.decode(sub(authorization, #"Bearer " + 1))
  if not jwt then return true end
  for _, access in ipairs(type(jwt.claims.access) == "table" and jwt.claims.access or {}) do
    if type(access) == "table" and access.type == "repository" and access.name == name then
      for _, action in ipairs(type(access.actions) == "table" and access.actions or {}) do
        if action == "pull" or action == "*" then return true end
      end
    end
  end
  return false
end

-- The request without the mount: its client uploads the blob, as after any mount that a registry does not do.
local function drop_mount(query)
  ngx.req.set_uri_args(scope_reader.drop_mount(query))
end

-- The token for a request whose query, if it has one, may mount a blob from another repository. A mount is a client's
-- attempt to spare an upload: where it is not granted, the request goes on as an upload. Returns what obtain does.
local function obtain_with_query(self, query, base, kind, text, first, scopes, defaults)
  if not query then return obtain(self, base, kind, text, first, scopes, defaults) end
  local source = scope_reader.find_source(query)
  if source and source ~= "" and not find(scopes, scope_reader.for_pull(source), 1, true) then
    local both = scopes .. " " .. scope_reader.for_pull(source)
    local authorization, from, name = obtain(self, base, kind, text, first, both, defaults)
    if authorization and allows_pull(authorization, source) then return authorization, from, name end
    if not authorization and from.code ~= "forbidden" then return nil, from end
    source = nil
  end
  if not source then drop_mount(query) end
  return obtain(self, base, kind, text, first, scopes, defaults)
end

--- For access_by_lua: sets $icptoken_authorization to the JWT for just the access that this request needs, or answers
-- the request as a registry would. Waits for a token that is not at hand, `timeout` seconds at most, without stopping
-- the worker. $icptoken_key is for observe.
function gateway_methods:authorize()
  local kind, text, first = find_credential(self)
  if not kind then return refuse_stranger(self, text) end
  local scopes, query = compute_scope(self)
  if not scopes then return refuse(self, { code = query }) end
  local base = self.key_bases[kind]
  local authorization, source, name =
    obtain_with_query(self, query, base, kind, text, first, scopes, self.defaults)
  if not authorization then return refuse(self, source, scopes) end
  self.counters:add("requests", source)
  ngx.var.icptoken_key = name
  ngx.var.icptoken_authorization = authorization
end

--- For set_by_lua: the key of limit_req_zone and limit_conn_zone. Returns what tells the request's client from others
-- (its address, or what the option client_address says) if the credential has had no token recently, and "", for which
-- nginx sets no limit, if it has, or if there is none, as such a request costs nothing. Never raises.
function gateway_methods:limit_key()
  local ok, limit_key = call(function()
    local kind, text, first = find_credential(self)
    if not kind or self.store:is_subject_known(name_credential(self, kind, text, first)) then return "" end
    return client_reader.find_address(self.settings.client_address, call_user)
  end)
  if ok then return limit_key end
  log(ngx.ERR, "limit_key failed at " .. limit_key)
  return ""
end

-- The first Bearer challenge among the upstream's headers, or nil.
local function read_challenge()
  local value = ngx.header["WWW-Authenticate"]
  if type(value) == "table" then value = table.concat(value, ", ") end
  return value and icptoken.challenge(value)
end

-- The registry refused the token that authorize() set: it is invalid, or grants less than the user may do by now. If it
-- came in place of another a moment ago, it is not the token's age that is wrong.
local function drop_refused(self, reason)
  local name, authorization = ngx.var.icptoken_key, ngx.var.icptoken_authorization
  if not name or name == "" then return end
  if self.store:get_token(name) ~= authorization then return end
  if not self.store:is_first("d" .. name, DROP_SECONDS) then
    local is_news = reason == "invalid_token" and self.store:is_first("g" .. self.client.name, DISAGREE_SECONDS)
    if is_news then log(ngx.ERR, DISAGREE:format(self.client.url)) end
    return
  end
  if not self.store:drop_token(name, authorization) then return end
  self.counters:add "dropped"
  log(ngx.WARN, DROPPED[reason]:format(key.shorten(name)))
end

-- Says so where the line for filter() is missing in nginx.conf, some time after it should have run.
local function check_filter(_, self)
  if self.has_filter or not self.store:is_first("b" .. self.client.name, DISAGREE_SECONDS) then return end
  log(ngx.WARN, NO_FILTER)
end

-- Leaves the body of an answer that denies access to filter(). Its length is not said, so that the registry's own body
-- can pass where filter() is missing.
local function replace_body(self)
  local body = answer.write_body { code = "forbidden" }
  if not self.has_filter then
    ngx.timer.at(FILTER_SECONDS, check_filter, self)
    if ngx.header["Content-Encoding"] then return end
  end
  ngx.header["Content-Type"], ngx.header["Content-Encoding"] = "application/json", nil
  ngx.header["Content-Length"] = get_method() == "HEAD" and #body or nil
  ngx.ctx.icptoken_body = body
end

local function observe_refusal(self)
  -- a 401 of nginx's or the gateway's own is right as it is
  if not (ngx.var.upstream_status or ""):find "401$" then return end
  local challenge = read_challenge()
  local reason = challenge and DROPPED[challenge.error] and challenge.error or nil
  if reason then drop_refused(self, reason) end
  local scopes = compute_scope(self)
  if reason ~= "insufficient_scope" then
    return challenge_header.replace(answer.make_challenge(self.settings, scopes, reason))
  end
  local own_challenge
  ngx.status, own_challenge = answer.choose_denial(self.settings, scopes)
  replace_body(self)
  challenge_header.replace(own_challenge)
end

--- For header_filter_by_lua: replaces the challenge of every 401 from the registry by the gateway's own, forgets a
-- token that the registry calls invalid or insufficient, and says of the latter that access is denied. Never raises.
function gateway_methods:observe()
  -- an error_page leads to another location and maybe another status, but the registry's challenge is still there
  if ngx.status ~= 401 and not is_internal() then return end
  local ok, place = call(observe_refusal, self)
  if not ok then log(ngx.ERR, "observe failed at " .. place) end
end

--- For body_filter_by_lua: puts the body there for an answer that observe() has made a denial of.
function gateway_methods:filter()
  self.has_filter = true
  local status = ngx.status
  if status ~= 401 and status ~= 403 then return end
  local body = ngx.ctx.icptoken_body
  if body == nil then return end
  ngx.arg[1], ngx.arg[2] = body or nil, true
  ngx.ctx.icptoken_body = false
end

-- What all keys begin with that belong to one kind of credential, with what a verdict on it depends on besides the
-- credential and the scopes.
local function begin_keys(target, settings, defaults, kind)
  local token_user = kind == "basic" and settings.token_user or nil
  return key.begin(target.name, key.fingerprint { defaults, token_user }, kind)
end

-- The same for what is known of a credential itself, for whatever it is used (purpose).
local function begin_credentials(target, settings, purpose, kind)
  local token_user = kind == "basic" and settings.token_user or nil
  return key.begin(target.name, key.fingerprint { purpose, token_user }, kind)
end

-- What goes with every question: the request's own, or else the gateway's.
local function choose_defaults(settings, request)
  local defaults = {}
  for _, name in ipairs { "service", "account", "client_id", "offline_token" } do
    local value = request[name]
    if value == nil then value = settings[name] end
    defaults[name] = value
  end
  return defaults
end

local function check_request(request)
  if type(request) ~= "table" then error("gateway:token takes a table", 3) end
  local scopes = scope_reader.normalise(request.scope or "")
  if not scopes then error("gateway:token: scope must be a string or a list of strings", 3) end
  local kind, text, first = credential_reader.from_table(request)
  if not kind then error("gateway:token: id_token, or username and password, are missing", 3) end
  return scopes, kind, text, first
end

--- A token, without an effect on the request. request: id_token, or username and password; scope (a string or a
-- list), service, account, client_id, offline_token, which stand in for the gateway's options. Wherever nginx allows
-- to wait (rewrite, access, content, timers). Returns the JWT and "cached", "stale" or "fresh"; or nil, message, code,
-- and { retry_after = seconds or nil }.
function gateway_methods:token(request)
  local scopes, kind, text, first = check_request(request)
  local defaults = choose_defaults(self.settings, request)
  local base = begin_keys(self.client, self.settings, defaults, kind)
  local authorization, source = obtain(self, base, kind, text, first, scopes, defaults)
  if authorization then return authorization:sub(8), source end
  return nil, answer.describe(source), source.code, { retry_after = source.retry_after }
end

-- The answer of a token service whose token is this ID token.
local function give_id_token(id_token, seconds)
  return answer.give { token = id_token, access_token = id_token,
    expires_in = math.max(MIN_IDENTITY_SECONDS, math.floor(seconds or 0)), issued_at = os.date("!%Y-%m-%dT%H:%M:%SZ") }
end

-- The ID token of a client's user name and password, { token, expires_at }; or nil and a failure.
local function find_identity(self, text, first)
  local request, ends = credential_reader.read("basic", text, first, self.settings.token_user)
  if not request then return nil, ends end
  if not request.id_token then
    -- neither the name nor the key can be told from the other
    local name = key.compute(self.login_base, text, first, "")
    local sealing_key = seal.derive_key(sub(text, first), SEALED_IDENTITY .. name)
    return self.flights:log_in(name, name_credential(self, "basic", text, first), sealing_key, self.name_id_token,
      request)
  end
  local seconds = ends and ends - clock.wall()
  if seconds and seconds < MIN_IDENTITY_SECONDS then return nil, { code = "unauthorized" } end
  return { token = request.id_token, expires_at = seconds and now() + seconds }
end

local function refuse_login(self, failure)
  self.counters:add("requests", failure.code)
  return answer.refuse(self.login_settings, failure, nil, "GET")
end

--- For content_by_lua of the location that the option `realm` names, with challenge = "bearer": the token service that
-- docker and skopeo go to. Takes a user name and a password (Basic), logs in at the cluster, and gives the ID token
-- that the gateway wants: the same for all its scopes, until that is about to expire.
function gateway_methods:login()
  if get_method() ~= "GET" then return refuse_login(self, { code = "method_not_allowed" }) end
  local kind, text, first = split_credential(ngx.var.http_authorization)
  if kind ~= "basic" then return refuse_login(self, { code = "no_credential" }) end
  local identity, failure = find_identity(self, text, first)
  if not identity then return refuse_login(self, failure) end
  self.counters:add("requests", "login")
  return give_id_token(identity.token, identity.expires_at and identity.expires_at - now())
end

--- The numbers of this gateway and of any others that are passed, as Prometheus wants them (text, format 0.0.4). Raises
-- where two have the same name.
function gateway_methods:metrics(...)
  local all = { self, ... }
  local counters, paused, free, capacity, names = {}, {}, {}, {}, {}
  for i, one in ipairs(all) do
    local name = one.counters.gateway_name
    if names[name] then error(("gateway:metrics: two are called '%s'; give them the option 'name'"):format(name), 2) end
    names[name], counters[i] = true, one.counters
    paused[i] = one.store:is_paused(one.client.name) and 1 or 0
    free[i], capacity[i] = one.dict:free_space(), one.dict:capacity()
  end
  return metrics.render(counters, {
    { metric = "icptoken_endpoint_paused", help = "Whether renewals wait as the endpoint failed.", values = paused },
    { metric = "icptoken_dict_free_bytes", help = "Free pages of the dict.", values = free },
    { metric = "icptoken_dict_bytes", help = "Size of the dict.", values = capacity },
  })
end

-- Files are read when the endpoint is first asked, by workers that may not be allowed to; better said now.
local function check_files(client_options)
  for _, name in ipairs { "cacert", "capath", "cert", "key" } do
    local path = client_options[name]
    local file, problem
    if path then file, problem = io.open(path, "rb") end
    if file then file:close() end
    if problem then
      log(ngx.EMERG, ("the option '%s' names a file that nginx's workers cannot read: %s"):format(name, problem))
    end
  end
end

--- For init_worker_by_lua: begins work in this worker. Says in one line at level emerg if the thread pool is missing,
-- or a file cannot be read; and warns of a level of error_log at which nginx writes credentials.
function gateway_methods:start()
  if not ngx.worker.id() then return end -- a helper process of nginx, without requests and maybe without threads
  if ngx.worker.id() == 0 then
    check_files(self.client.options)
    -- once, however many gateways there are
    if errlog.get_sys_filter_level() >= ngx.INFO and self.store:is_first("wordy", 1) then log(ngx.WARN, WORDY) end
  end
  self.counters:open_row(ngx.worker.id())
  self.flights:start()
end

-- Raises what icptoken.new says of options that are wrong, those of each request among them, and warms up libcurl
-- before nginx starts its workers.
local function check_client_options(client_options, defaults)
  local all = {}
  for _, some in ipairs { client_options, defaults } do
    for name, value in pairs(some) do all[name] = value end
  end
  local ok, client, message = pcall(icptoken.new, all)
  if not ok then
    local problem = tostring(client):gsub("^bad argument #1 to '[^']*' %((.*)%)$", "%1")
    local unknown = problem:match "^unknown option '([^']*)'$"
    local nearest = unknown and options_reader.find_nearest(unknown)
    error(("icptoken.gateway: %s%s"):format(problem, nearest and ("; did you mean '%s'?"):format(nearest) or ""), 0)
  end
  if not client then error("icptoken.gateway: " .. message, 0) end
  client:close()
end

local function find_dict(name)
  local dict = ngx.shared[name]
  if dict then return dict end
  error(("icptoken.gateway: there is no dict: add \"lua_shared_dict %s 16m;\" to the http part of nginx.conf")
    :format(name), 0)
end

-- Who asks for this gateway in the threads of all workers: options of the module, a URL for the log, and a name. The
-- client's name begins all keys, so with another version or other options nothing is found that the last left in the
-- dict.
local function describe_client(client_options, path)
  local port = client_options.port
  local url = client_options.url or "https://" .. client_options.host .. (port and ":" .. port or "")
  local name = key.fingerprint { icptoken._VERSION, client_options }
  return { name = name, options = client_options, url = url:match "^%a+://[^/?]*" .. (path or "") }
end

-- The same cluster's identity provider: it is reached as the image manager is, at a path of its own.
local function describe_login(client_options)
  local derived = {}
  for name, value in pairs(client_options) do derived[name] = value end
  derived.path, derived.anonymous, derived.timeout = nil, nil, nil
  if derived.url then derived.url = derived.url:match "^%a+://[^/?]+" .. LOGIN_PATH end
  return describe_client(derived, LOGIN_PATH)
end

local function new_counters(name)
  local request_codes, fetch_codes = answer.list_codes()
  return metrics.new(name, ngx.worker.count(), {
    requests = { "cached", "fresh", "stale", "login", unpack(request_codes) }, fetches = { "ok", unpack(fetch_codes) },
  })
end

--- A gateway, for init_by_lua. options: those of icptoken.new for endpoint, TLS and network, and those of the README's
-- table. Raises on a wrong one, and where nginx lacks threads or the dict.
function gateway.new(options)
  if not ngx.run_worker_thread then
    error("icptoken.gateway: this nginx has no ngx.run_worker_thread: it takes ngx_lua 0.10.21 or later and an nginx "
      .. "built --with-threads", 0)
  end
  local settings, client_options = options_reader.read(options)
  client_options.anonymous, client_options.timeout = true, settings.timeout
  check_client_options(client_options, choose_defaults(settings, {}))
  settings.retries = client_options.retries or DEFAULT_RETRIES
  settings.client, settings.login = describe_client(client_options), describe_login(client_options)
  local self = { settings = settings, dict = find_dict(settings.dict), client = settings.client,
    login_settings = { challenge = "basic", realm = settings.realm }, defaults = choose_defaults(settings, {}) }
  self.key_bases, self.credential_bases = {}, {}
  self.login_base = begin_credentials(settings.login, settings, "login", "basic")
  for _, kind in ipairs(credential_reader.KINDS) do
    self.credential_bases[kind] = begin_credentials(self.client, settings, "credential", kind)
    self.key_bases[kind] = begin_keys(self.client, settings, self.defaults, kind)
  end
  self.name_id_token = function(id_token) return key.compute(self.credential_bases.bearer, id_token, 1, "") end
  self.counters = new_counters(settings.name or self.client.url:match "^%a+://([^/]*)")
  self.store = store.new(self.dict, function() self.counters:add "evictions" end)
  local function find_address() return client_reader.find_address(settings.client_address, call_user) end
  self.flights = flights.new(settings, self.store, self.counters, log, find_address)
  return setmetatable(self, gateway_meta)
end

return gateway
