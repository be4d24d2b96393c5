-- The options of a gateway. What is not listed here belongs to the client that asks the endpoint, which checks it.

local options = {}

local function is_string(value) return type(value) == "string" and value ~= "" end
local function is_seconds(value) return type(value) == "number" and value > 0 and value < 1e6 end
local function is_hedge(value) return value == false or is_seconds(value) end
local function is_count(value) return type(value) == "number" and value >= 1 and value <= 1e6 and value % 1 == 0 end
-- The name of a variable of nginx, or a function.
local function is_source(value)
  return type(value) == "function" or type(value) == "string" and value:find "^[%w_]+$" ~= nil
end
local function is_function(value) return type(value) == "function" end
local function is_boolean(value) return type(value) == "boolean" end
local function is_challenge(value) return value == "basic" or value == "bearer" end
-- what a scope may hold after its last colon
local function is_actions(value) return type(value) == "string" and value:find "^[a-z*][a-z*,]*$" ~= nil end

-- name, its check, what it must be in words, its default
local OPTIONS = {
  { "name", is_string, "a string" },
  { "service", is_string, "a string" },
  { "account", is_string, "a string" },
  { "client_id", is_string, "a string" },
  { "offline_token", is_boolean, "a boolean" },
  { "delete_actions", is_actions, "actions divided by commas", "delete,*" },
  { "credential", is_function, "a function" },
  { "scope", is_function, "a function" },
  { "client_address", is_source, "the name of a variable, without its $, or a function", "binary_remote_addr" },
  { "challenge", is_challenge, '"basic" or "bearer"', "basic" },
  { "realm", is_string, "a string" },
  { "token_user", is_string, "a string" },
  { "timeout", is_seconds, "a number of seconds above 0", 10 },
  { "max_inflight", is_count, "a whole number above 0", 8 },
  { "max_queue", is_count, "a whole number above 0", 1000 },
  { "hedge_after", is_hedge, "a number of seconds above 0, or false" },
  { "error_ttl", is_seconds, "a number of seconds above 0", 5 },
  { "dict", is_string, "the name of a lua_shared_dict", "icptoken" },
  { "thread_pool", is_string, "the name of a thread_pool", "icptoken" },
}

-- The gateway's requests bring their credential along, and its questions come one by one.
local REFUSED = {
  id_token = "credential", id_token_file = "credential", username = "credential", password = "credential",
  login = "credential", anonymous = "credential", parallel = "max_inflight",
}

local BASIC_REALM = "IBM Cloud Private"

-- How many characters must be added, left out or replaced to make one text of another.
local function count_changes(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal
    diagonal, row[0] = row[0], i
    for j = 1, #b do
      local change = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], math.min(diagonal + change, row[j] + 1, row[j - 1] + 1)
    end
  end
  return row[#b]
end

--- The gateway's own option whose name looks most like this one; nil where none does.
function options.find_nearest(name)
  local nearest, least = nil, math.max(1, math.floor(#name / 3)) + 1
  for _, option in ipairs(OPTIONS) do
    local changes = count_changes(name, option[1])
    if changes < least then nearest, least = option[1], changes end
  end
  return nearest
end

--- The names of the gateway's own options.
function options.list_names()
  local names = {}
  for i, option in ipairs(OPTIONS) do names[i] = option[1] end
  return names
end

local function check_plain(name, value)
  local kind = type(value)
  if kind == "function" or kind == "userdata" or kind == "thread" or kind == "cdata" then
    error(("icptoken.gateway: option '%s' must be plain data, not a %s"):format(name, kind), 0)
  end
  if kind == "table" then
    for _, member in pairs(value) do check_plain(name, member) end
  end
end

local function read_own(given)
  local settings = {}
  for _, option in ipairs(OPTIONS) do
    local name, is_right, wanted, default = option[1], option[2], option[3], option[4]
    local value = given[name]
    if value == nil then value = default end
    if value ~= nil and not is_right(value) then
      error(("icptoken.gateway: option '%s' must be %s"):format(name, wanted), 0)
    end
    settings[name] = value
  end
  return settings
end

--- Splits the options given to `new` into the gateway's settings and its client's options. Raises on a wrong one.
function options.read(given)
  if type(given) ~= "table" then error("icptoken.gateway: new takes a table of options", 0) end
  local settings = read_own(given)
  local is_own = {}
  for _, name in ipairs(options.list_names()) do is_own[name] = true end
  local client_options = {}
  for name, value in pairs(given) do
    if REFUSED[name] then
      error(("icptoken.gateway: option '%s' has no place here; see '%s'"):format(name, REFUSED[name]), 0)
    end
    if not is_own[name] then
      check_plain(tostring(name), value)
      client_options[name] = value
    end
  end
  if settings.challenge == "bearer" and not (settings.realm or ""):find "^https?://" then
    error("icptoken.gateway: with challenge 'bearer', option 'realm' must be the URL where clients get an ID token", 0)
  end
  settings.realm = settings.realm or BASIC_REALM
  return settings, client_options
end

return options
