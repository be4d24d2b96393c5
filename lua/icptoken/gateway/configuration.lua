-- The options of a gateway as people may see them: no password, no header's value, no user name of a proxy.

local options = require "icptoken.gateway.options"

local configuration = {}

local HIDDEN = "(set, not shown)"

-- Cuts user name and password, and what may follow a path: both may be secret.
local function show_url(value)
  local scheme, rest = value:match "^(%a[%w+.-]*://)(.*)$"
  rest = (rest or value):gsub("^.*@", ""):gsub("[?#].*$", "")
  return (scheme or "") .. rest
end

local function list_names(values)
  local names = {}
  for name in pairs(values) do names[#names + 1] = tostring(name) end
  table.sort(names)
  return names
end

local function show_names(value)
  return table.concat(list_names(value), ", ") .. " " .. HIDDEN
end

-- resolve: "host:port" to an address or a list of addresses.
local function show_addresses(value)
  local parts = list_names(value)
  for i, name in ipairs(parts) do
    local addresses = value[name]
    if type(addresses) == "table" then addresses = table.concat(addresses, " ") end
    parts[i] = ("%s = %s"):format(name, tostring(addresses))
  end
  return table.concat(parts, ", ")
end

-- fleet: only where its Redis is, as the rest names files with secrets.
local function show_fleet(value)
  return show_url(value.redis or table.concat(value.sentinels or {}, ", "))
end

-- How an option is shown, if not unchanged. The values of options that are in neither list are not shown.
local SHOW = { url = show_url, realm = show_url, proxy = show_url, headers = show_names, resolve = show_addresses,
  fleet = show_fleet, key_password = function() return HIDDEN end }
local PLAIN = {}
for _, name in ipairs { "name", "service", "account", "client_id", "offline_token", "delete_actions", "credential",
  "scope", "client_address", "challenge", "token_user", "timeout", "max_inflight", "max_queue", "max_passwords",
  "hedge_after", "error_ttl", "request_id_header", "dict", "thread_pool", "host", "port", "path", "allow_http",
  "cacert", "capath", "insecure", "cert", "key", "pinned_public_key", "tls_min", "connect_timeout", "retries",
  "no_proxy", "http_version", "user_agent", "max_body_bytes" } do PLAIN[name] = true end

local function show(name, value)
  if value == "" then return "(empty)" end
  if type(value) == "function" then return "(a function)" end
  if SHOW[name] then return SHOW[name](value) end
  if not PLAIN[name] or type(value) == "table" then return HIDDEN end
  return value
end

--- Returns a list of the options that are set or have a default, each { name, value }. settings: the gateway's own.
-- client_options: those of the module.
function configuration.list(settings, client_options)
  local rows = {}
  for _, group in ipairs {
    { names = options.list_client_names(), values = client_options },
    { names = options.list_names(), values = settings },
  } do
    for _, name in ipairs(group.names) do
      local value = group.values[name]
      if value ~= nil then rows[#rows + 1] = { name = name, value = show(name, value) } end
    end
  end
  return rows
end

return configuration
