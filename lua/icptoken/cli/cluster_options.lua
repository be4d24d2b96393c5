-- The options that describe a cluster: their names in the configuration file, in the environment and on the command
-- line, and which of them a login takes, one row for each option. The module checks the values further.

local function is_string(value) return type(value) == "string" and value ~= "" end
local function is_text(value) return type(value) == "string" end
local function is_boolean(value) return type(value) == "boolean" end
local function is_number(value) return type(value) == "number" end
local function is_whole(value) return type(value) == "number" and value % 1 == 0 end
local function is_table(value) return type(value) == "table" end
local function is_scope(value)
  if type(value) ~= "table" then return is_text(value) end
  for _, scope in pairs(value) do
    if type(scope) ~= "string" then return false end
  end
  return true
end

local function to_boolean(text)
  local values = { ["1"] = true, ["true"] = true, yes = true, ["0"] = false, ["false"] = false, no = false }
  return values[text:lower()]
end

-- curl's form, HOST:PORT:ADDRESS, several separated by white space.
local function to_addresses(text)
  local addresses = {}
  for word in text:gmatch "%S+" do
    local name, port, address = word:match "^(.+):(%d+):(%[?[%x:.,%]%[]+)$"
    if not name then name, port, address = word:match "^([^:]+):(%d+):(.+)$" end
    if not name then return nil end
    addresses[name .. ":" .. port] = (address:gsub("[%[%]]", ""))
  end
  return addresses
end

local function to_text(text) return text end

local STRING = { is_string, "a string", to_text }
local TEXT = { is_text, "a string", to_text }
local BOOLEAN = { is_boolean, "true or false", to_boolean }
local WHOLE = { is_whole, "a whole number", tonumber }
local NUMBER = { is_number, "a number", tonumber }
local ADDRESSES = { is_table, 'an object such as { "mycluster.icp:8443": "10.0.0.5" }', to_addresses,
  "HOST:PORT:ADDRESS" }
local SCOPE = { is_scope, "a string or a list of strings", to_text }
local HEADERS = { is_table, "an object of names and strings" }

-- name, kind, whether icptoken.login takes it, whether it is a path
local ROWS = {
  { "host", STRING, true }, { "port", WHOLE, true }, { "path", STRING }, { "url", STRING },
  { "allow_http", BOOLEAN, true }, { "id_token_file", STRING, false, true },
  { "service", TEXT }, { "scope", SCOPE }, { "account", TEXT }, { "client_id", TEXT }, { "offline_token", BOOLEAN },
  { "cacert", STRING, true, true }, { "capath", STRING, true, true }, { "insecure", BOOLEAN, true },
  { "cert", STRING, true, true }, { "key", STRING, true, true }, { "key_password", STRING, true },
  { "pinned_public_key", STRING, true }, { "tls_min", STRING, true }, { "timeout", NUMBER, true },
  { "connect_timeout", NUMBER, true }, { "retries", WHOLE, true }, { "hedge_after", NUMBER },
  { "proxy", TEXT, true }, { "no_proxy", TEXT, true }, { "resolve", ADDRESSES, true },
  { "http_version", STRING, true }, { "headers", HEADERS, true }, { "user_agent", TEXT, true },
  { "max_body_bytes", WHOLE, true },
}

-- Options of the module that a configuration must not contain, and why.
local REFUSED = {
  id_token = "it is a secret. Use icptoken login, or id_token_file",
  password = "it is a secret. Use icptoken login",
  username = "it goes with a password, which is a secret. Use icptoken login",
  login = "it holds a secret. Use icptoken login",
  anonymous = "the command never requests tokens without a credential",
  certificates = "the command does not use them",
  parallel = "the command requests one token at a time",
  cache_size = "the command requests one token at a time",
}

local options = { refused = REFUSED, list = {} }
for i, row in ipairs(ROWS) do
  local kind = row[2]
  options.list[i] = { name = row[1], is_valid = kind[1], wanted = kind[2], parse = kind[3], form = kind[4] or kind[2],
    is_of_login = row[3] or false, is_path = row[4] or false, variable = "ICPTOKEN_" .. row[1]:upper() }
  options.list[row[1]] = options.list[i]
end

return options
