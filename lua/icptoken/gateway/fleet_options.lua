-- Checks the option `fleet` of a gateway, and reads its files. Each check raises an error that names the field.

local find_nearest = require "icptoken.nearest"
local key = require "icptoken.gateway.key"
local private_file = require "icptoken.gateway.private_file"
local redis_address = require "icptoken.gateway.redis_address"

local fleet_options = {}

local SECRET_BYTES = 32
local MAX_SECONDS = 10

local function is_string(value) return type(value) == "string" and value ~= "" and not value:find "%z" end
local function is_name(value) return is_string(value) and #value <= 255 and value:find "^[%w._-]+$" ~= nil end
local function is_host_name(value)
  return is_string(value) and redis_address.is_host(value) and not redis_address.is_numeric(value)
end
local function is_seconds(value) return type(value) == "number" and value >= 0.001 and value <= MAX_SECONDS end
local function is_list(value)
  if type(value) ~= "table" or #value == 0 then return false end
  local count = 0
  for _, member in pairs(value) do
    if not is_string(member) then return false end
    count = count + 1
  end
  return count == #value
end

local SECONDS = ("a number of seconds from 0.001 to %d"):format(MAX_SECONDS)

local FIELDS = {
  { name = "redis", is_valid = is_string, wanted = "a URL", is_required = true },
  { name = "secret_file", is_valid = is_string, wanted = "the path of a file", is_required = true },
  { name = "password_file", is_valid = is_string, wanted = "the path of a file" },
  { name = "server_name", is_valid = is_host_name, wanted = "a host name" },
  { name = "timeout", is_valid = is_seconds, wanted = SECONDS, default = 0.1 },
  { name = "connect_timeout", is_valid = is_seconds, wanted = SECONDS, default = 0.05 },
  { name = "sentinels", is_valid = is_list, wanted = "a list of addresses" },
  { name = "master", is_valid = is_name, wanted = "the name of a master" },
  { name = "sentinel_password_file", is_valid = is_string, wanted = "the path of a file" },
}

local function fail(name, message, ...)
  error(("icptoken.gateway: option 'fleet.%s' "):format(name) .. message:format(...), 0)
end

--- Returns the names of the fields.
function fleet_options.list_names()
  local names = {}
  for i, field in ipairs(FIELDS) do names[i] = field.name end
  return names
end

local function check_names(given)
  local names = fleet_options.list_names()
  local is_known = {}
  for _, name in ipairs(names) do is_known[name] = true end
  for name in pairs(given) do
    local text = tostring(name)
    local nearest = not is_known[name] and find_nearest(text, names)
    if not is_known[name] then
      fail(text, "is unknown%s", nearest and ("; did you mean '%s'?"):format(nearest) or "")
    end
  end
end

local function read_fields(given)
  local fields = {}
  for _, field in ipairs(FIELDS) do
    local value = given[field.name]
    if value == nil then value = field.default end
    if value == nil and field.is_required then fail(field.name, "is missing: it must be %s", field.wanted) end
    if value ~= nil and not field.is_valid(value) then fail(field.name, "must be %s", field.wanted) end
    fields[field.name] = value
  end
  return fields
end

local function read_file(name, path)
  local text, problem = private_file.read(path)
  if not text then fail(name, "names a file that cannot be used, %s: %s", path, problem) end
  return text
end

local function read_secret(fields)
  local text = read_file("secret_file", fields.secret_file):match "^%s*([%w+/]+=?)%s*$"
  local secret = text and ngx.decode_base64(text)
  if not secret or #secret ~= SECRET_BYTES then
    fail("secret_file", "must name a file with %d random bytes in base64, as \"openssl rand -base64 %d\" writes them",
      SECRET_BYTES, SECRET_BYTES)
  end
  return secret
end

local function read_password(fields, name)
  if not fields[name] then return nil end
  local password = read_file(name, fields[name]):gsub("\r?\n$", "")
  if password == "" or password:find "%c" then fail(name, "must name a file with a password in one line") end
  return password
end

local function read_address(fields)
  local address, problem = redis_address.parse(fields.redis)
  if not address then fail("redis", "%s", problem) end
  if address.user and not fields.password_file then
    fail("password_file", "is missing: it must name the file with the password of the user in 'fleet.redis'")
  end
  if fields.sentinels and (address.host or address.has_port or address.path) then
    fail("redis", "must not name a host or a port beside 'fleet.sentinels', as in redis://user@/0: Sentinel says where "
      .. "the master is")
  end
  if not fields.sentinels and not address.host and not address.path then fail("redis", "must name a host") end
  return address
end

-- A Sentinel's address is a URL, or a host and a port.
local function read_sentinels(fields)
  if not fields.sentinels then return nil end
  local addresses = {}
  for i, text in ipairs(fields.sentinels) do
    local address, problem = redis_address.parse(text:find "://" and text or "redis://" .. text)
    if not address then fail("sentinels", "has an address, number %d, that %s", i, problem) end
    if not address.host or not address.has_port or address.database ~= 0 then
      fail("sentinels", "must have a host and a port in each address, and no database")
    end
    if address.user and not fields.sentinel_password_file then
      fail("sentinel_password_file", "is missing: an address in 'fleet.sentinels' names a user")
    end
    addresses[i] = address
  end
  return addresses
end

local function check_server_name(fields, address)
  if not address.is_tls or fields.server_name or not address.host then return end
  if redis_address.is_numeric(address.host) then
    fail("server_name", "is missing: nginx verifies certificates only by names, so it must be a name in the "
      .. "certificate of the server at %s", address.host)
  end
end

local function check_pairs(fields)
  if fields.sentinels and not fields.master then fail("master", "is missing beside 'fleet.sentinels'") end
  for _, name in ipairs { "master", "sentinel_password_file" } do
    if fields[name] and not fields.sentinels then fail(name, "is of no use without 'fleet.sentinels'") end
  end
end

--- Checks the option and reads its files. Returns { address, sentinels (addresses or nil), master, server_name,
-- password, sentinel_password, secret (32 bytes), timeout, connect_timeout, key }. The key, 32 bytes, stands for
-- everything on which it depends whether Redis works; without the secret, no password can be found by it.
function fleet_options.read(given)
  check_names(given)
  local fields = read_fields(given)
  check_pairs(fields)
  local settings = { address = read_address(fields), sentinels = read_sentinels(fields), master = fields.master,
    server_name = fields.server_name }
  check_server_name(fields, settings.address)
  for _, one in ipairs(settings.sentinels or {}) do check_server_name(fields, one) end
  settings.password = read_password(fields, "password_file")
  settings.sentinel_password = read_password(fields, "sentinel_password_file")
  settings.secret = read_secret(fields)
  settings.key = key.fingerprint { "redis", settings }
  settings.timeout, settings.connect_timeout = fields.timeout, fields.connect_timeout
  return settings
end

return fleet_options
