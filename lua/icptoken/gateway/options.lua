-- Checks the options of a gateway: its own, and those of the module's client that requests tokens. Each check raises an
-- error that names the option.

local icptoken = require "icptoken"
local find_nearest = require "icptoken.nearest"

local options = {}

local PREFIX = "icptoken.gateway: "

local function is_string(value) return type(value) == "string" and value ~= "" end
local function is_seconds(value) return type(value) == "number" and value > 0 and value < 1e6 end
local function is_hedge(value) return value == false or is_seconds(value) end
local function is_count(value) return type(value) == "number" and value >= 1 and value <= 1e6 and value % 1 == 0 end
local function is_limit(value) return value == false or is_count(value) end
-- the name of an nginx variable, or a function
local function is_source(value)
  return type(value) == "function" or type(value) == "string" and value:find "^[%w_]+$" ~= nil
end
-- RFC 7617 section 2: a colon ends the user name
local function is_user(value) return is_string(value) and not value:find "[%c:]" end
local function is_function(value) return type(value) == "function" end
local function is_boolean(value) return type(value) == "boolean" end
local function is_table(value) return type(value) == "table" end
local function is_challenge(value) return value == "basic" or value == "bearer" end
-- what a scope may contain after its last colon
local function is_actions(value) return type(value) == "string" and value:find "^[a-z*][a-z*,]*$" ~= nil end

-- The gateway's own options: `is_valid` checks a value, `wanted` says in words what it must be.
local OWN = {
  { name = "name", is_valid = is_string, wanted = "a string" },
  { name = "service", is_valid = is_string, wanted = "a string" },
  { name = "account", is_valid = is_string, wanted = "a string" },
  { name = "client_id", is_valid = is_string, wanted = "a string" },
  { name = "offline_token", is_valid = is_boolean, wanted = "a boolean" },
  { name = "delete_actions", is_valid = is_actions, wanted = "actions separated by commas", default = "delete,*" },
  { name = "credential", is_valid = is_function, wanted = "a function" },
  { name = "scope", is_valid = is_function, wanted = "a function" },
  { name = "client_address", is_valid = is_source, wanted = "the name of a variable, without its $, or a function",
    default = "binary_remote_addr" },
  { name = "challenge", is_valid = is_challenge, wanted = '"basic" or "bearer"', default = "basic" },
  { name = "realm", is_valid = is_string, wanted = "a string" },
  { name = "token_user", is_valid = is_user, wanted = "a user name without a colon" },
  { name = "timeout", is_valid = is_seconds, wanted = "a number of seconds above 0", default = 10 },
  { name = "max_inflight", is_valid = is_count, wanted = "a whole number above 0", default = 8 },
  { name = "max_queue", is_valid = is_count, wanted = "a whole number above 0", default = 1000 },
  { name = "max_passwords", is_valid = is_limit, wanted = "a whole number above 0, or false", default = 4 },
  { name = "hedge_after", is_valid = is_hedge, wanted = "a number of seconds above 0, or false" },
  { name = "error_ttl", is_valid = is_seconds, wanted = "a number of seconds above 0", default = 5 },
  { name = "request_id_header", is_valid = is_string, wanted = "the name of a header" },
  { name = "dict", is_valid = is_string, wanted = "the name of a lua_shared_dict", default = "icptoken" },
  { name = "thread_pool", is_valid = is_string, wanted = "the name of a thread_pool", default = "icptoken" },
  { name = "fleet", is_valid = is_table, wanted = "a table" },
}

-- Options of the module's client, which checks their values.
local OF_CLIENT = { "host", "port", "path", "url", "allow_http", "cacert", "capath", "insecure", "cert", "key",
  "key_password", "pinned_public_key", "tls_min", "connect_timeout", "retries", "proxy", "no_proxy", "resolve",
  "http_version", "headers", "user_agent", "max_body_bytes" }

-- Options of the module that a gateway cannot have, and what to use instead: the credential comes with each request,
-- and there is one token request for each key.
local INSTEAD = {
  id_token = "credential", id_token_file = "credential", username = "credential", password = "credential",
  login = "credential", anonymous = "credential", parallel = "max_inflight", cache_size = "dict",
  certificates = "gateway:metrics",
}

-- The fields of a token request that are options, too.
local REQUEST_DEFAULTS = { "service", "account", "client_id", "offline_token" }

-- The module's own default.
local DEFAULT_RETRIES = 2

local BASIC_REALM = "IBM Cloud Private"

local is_own, is_of_client = {}, {}
for _, option in ipairs(OWN) do is_own[option.name] = true end
for _, name in ipairs(OF_CLIENT) do is_of_client[name] = true end

local function fail(message, ...)
  error(PREFIX .. message:format(...), 0)
end

--- Returns the names of the gateway's own options.
function options.list_names()
  local names = {}
  for i, option in ipairs(OWN) do names[i] = option.name end
  return names
end

--- Returns the names of the options that are passed to the module's client.
function options.list_client_names()
  return { unpack(OF_CLIENT) }
end

-- The option whose name is most similar to this one, or nil.
local function find_nearest_option(name)
  local names = options.list_names()
  for _, of_client in ipairs(OF_CLIENT) do names[#names + 1] = of_client end
  return find_nearest(name, names)
end

local function check_plain(name, value)
  local kind = type(value)
  if kind == "function" or kind == "userdata" or kind == "thread" or kind == "cdata" then
    fail("option '%s' must be plain data, not a %s", name, kind)
  end
  if kind == "table" then
    for _, member in pairs(value) do check_plain(name, member) end
  end
end

local function check_name(name)
  if is_of_client[name] then return end
  local nearest = find_nearest_option(tostring(name))
  fail("unknown option '%s'%s", tostring(name), nearest and ("; did you mean '%s'?"):format(nearest) or "")
end

local function read_own(given)
  local settings = {}
  for _, option in ipairs(OWN) do
    local value = given[option.name]
    if value == nil then value = option.default end
    if value ~= nil and not option.is_valid(value) then fail("option '%s' must be %s", option.name, option.wanted) end
    settings[option.name] = value
  end
  if settings.challenge == "bearer" and not (settings.realm or ""):find "^https?://" then
    fail "with challenge 'bearer', option 'realm' must be the URL where clients get an ID token"
  end
  settings.realm = settings.realm or BASIC_REALM
  if settings.fleet then settings.fleet = require "icptoken.gateway.fleet_options".read(settings.fleet) end
  return settings
end

local function read_client(given)
  local client_options = {}
  for name, value in pairs(given) do
    if INSTEAD[name] then fail("option '%s' is not supported by the gateway; use '%s'", name, INSTEAD[name]) end
    if not is_own[name] then
      check_plain(tostring(name), value)
      check_name(name)
      client_options[name] = value
    end
  end
  return client_options
end

-- Creates a client with all options, those of each token request among them, which checks their values. This also
-- initialises libcurl before nginx starts its workers.
local function check_client(client_options, defaults)
  local all = {}
  for _, some in ipairs { client_options, defaults } do
    for name, value in pairs(some) do all[name] = value end
  end
  local ok, client, message = pcall(icptoken.new, all)
  -- without the frame of luaL_argerror, which would name this call instead of the user's
  if not ok then fail("%s", tostring(client):match "^bad argument #1 to '[^']*' %((.*)%)$" or tostring(client)) end
  if not client then fail("%s", message) end
  client:close()
end

-- Checks the name of the header with a request's id, as the module checks the names in its option `headers`.
local function check_id_header(name, client_options)
  if not name then return end
  for other in pairs(client_options.headers or {}) do
    if other:lower() == name:lower() then fail "option 'request_id_header' must not be one of 'headers'" end
  end
  local ok, client = pcall(icptoken.new, { host = "localhost", anonymous = true, headers = { [name] = "0" } })
  if not ok then fail("option 'request_id_header' is not the name of a header that can be set: '%s'", name) end
  if client then client:close() end
end

--- Returns what goes with a token request: service, account, client_id and offline_token of the request, or else of the
-- settings.
function options.choose_defaults(settings, request)
  local defaults = {}
  for _, name in ipairs(REQUEST_DEFAULTS) do
    local value = request[name]
    if value == nil then value = settings[name] end
    defaults[name] = value
  end
  return defaults
end

--- Checks the options given to `new`. Returns the gateway's settings (its own options, and `retries` and `defaults`),
-- and the options of the module's client.
function options.read(given)
  if type(given) ~= "table" then fail "new takes a table of options" end
  local settings, client_options = read_own(given), read_client(given)
  client_options.anonymous, client_options.timeout, client_options.certificates = true, settings.timeout, true
  settings.defaults = options.choose_defaults(settings, {})
  check_client(client_options, settings.defaults)
  check_id_header(settings.request_id_header, client_options)
  settings.headers = client_options.headers
  settings.retries = client_options.retries or DEFAULT_RETRIES
  return settings, client_options
end

--- Returns the lua_shared_dict that the settings name. Raises if nginx.conf does not have it.
function options.find_dict(settings)
  local dict = ngx.shared[settings.dict]
  if not dict then
    fail("there is no dict: add \"lua_shared_dict %s 16m;\" to the http context of nginx.conf", settings.dict)
  end
  return dict
end

-- What to do about files that cannot be read, by errno.
local ENOENT, EACCES = 2, 13
local ADVICE = {
  [ENOENT] = " (check the path in the option)",
  [EACCES] = " (the workers run as the user that the directive \"user\" in nginx.conf names)",
}

--- Returns a list of the options whose files this process cannot read, each { name =, problem = (and what to do) }. The
-- module reads them at the first token request, and nginx's workers may have fewer rights than its master.
function options.list_unreadable(client_options)
  local unreadable = {}
  for _, name in ipairs { "cacert", "capath", "cert", "key", "pinned_public_key" } do
    local path, file, problem, number = client_options[name], nil, nil, nil
    -- a pin is a file or a list of hashes
    if path and not path:find "^sha256//" then file, problem, number = io.open(path, "rb") end
    if file then file:close() end
    if problem then unreadable[#unreadable + 1] = { name = name, problem = problem .. (ADVICE[number] or "") } end
  end
  return unreadable
end

return options
