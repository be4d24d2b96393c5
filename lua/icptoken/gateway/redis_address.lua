-- Addresses of Redis and of Sentinel as URLs: redis://[user@]host[:port][/database], rediss:// for TLS, and
-- unix://[user@]/path[?db=database] for a Unix socket.

local redis_address = {}

local DEFAULT_PORT = 6379
local MAX_DATABASE = 9999

-- Returns the text with its %XX decoded, or nil if one is malformed or means a control character.
local function decode(text)
  if text:gsub("%%%x%x", ""):find "%%" then return nil end
  local decoded = text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
  return not decoded:find "%c" and decoded or nil
end

local function read_database(digits)
  local database = digits:find "^%d%d?%d?%d?$" and tonumber(digits)
  return database and database <= MAX_DATABASE and database or nil
end

--- Returns whether a host is a number: an IPv4 or IPv6 address.
function redis_address.is_numeric(host)
  return host:find "^%d+%.%d+%.%d+%.%d+$" ~= nil or host:find ":" ~= nil
end

--- Returns whether a text can be the name or the number of a host.
function redis_address.is_host(text)
  return #text <= 255 and (text:find "^[%w][%w._-]*$" or text:find "^[%x:][%x:.]*:[%x:.]*$") ~= nil
end

--- Returns a port as a number, or nil.
function redis_address.read_port(text)
  local port = text:find "^%d+$" and #text <= 5 and tonumber(text)
  return port and port >= 1 and port <= 65535 and port or nil
end

-- Sets the user. Returns the rest of the URL; or nil and a problem.
local function read_user(address, rest)
  local user, after = rest:match "^([^/?#]*)@(.*)$"
  if not user then return rest end
  if user:find ":" then
    return nil, "must not contain a password, which would be in nginx.conf; put it into a file: 'password_file'"
  end
  address.user = decode(user)
  if not address.user or address.user == "" or address.user:find "%s" then return nil, "has a malformed user name" end
  return after
end

local function read_unix(address, rest)
  local path, query = rest:match "^(/[^?#]*)(.*)$"
  path = path and decode(path)
  if not path then return nil, "must have the absolute path of a socket: unix:///run/redis/redis.sock" end
  address.path, address.database = path, 0
  if query ~= "" then address.database = read_database(query:match "^%?db=(.*)$" or "") end
  if not address.database then return nil, "may only have ?db= and a number after the path" end
  return address
end

local function read_network(address, rest)
  local authority, path = rest:match "^([^/?#]*)(.*)$"
  local host, port = authority:match "^%[([%x:.]+)%](.*)$"
  if not host then host, port = authority:match "^([^:]*)(.*)$" end
  if host ~= "" and not redis_address.is_host(host) then return nil, "has a malformed host" end
  address.port = port == "" and DEFAULT_PORT or redis_address.read_port(port:match "^:(.*)$" or "")
  if not address.port then return nil, "has a malformed port" end
  address.database = (path == "" or path == "/") and 0 or read_database(path:match "^/(.*)$" or "")
  if not address.database then return nil, "must have nothing after the host and port but the number of a database" end
  address.host, address.has_port = host ~= "" and host or nil, port ~= ""
  return address
end

--- Reads a URL. Returns { is_tls, host, port, has_port (whether the URL names it), path, user, database }, with a path
-- for a Unix socket and a host and port otherwise (no host where the URL has none); or nil and what is wrong with the
-- URL, without quoting it.
function redis_address.parse(url)
  local scheme, rest = url:match "^(%l+)://(.*)$"
  if scheme ~= "redis" and scheme ~= "rediss" and scheme ~= "unix" then
    return nil, "must be a URL that begins with redis://, rediss:// or unix://"
  end
  local address = { is_tls = scheme == "rediss" }
  local after_user, problem = read_user(address, rest)
  if not after_user then return nil, problem end
  return (scheme == "unix" and read_unix or read_network)(address, after_user)
end

--- Returns an address for messages: without the user, as an operator would look for it.
function redis_address.describe(address)
  if address.path then return "unix:" .. address.path end
  local host = address.host:find(":", 1, true) and "[" .. address.host .. "]" or address.host
  return host .. ":" .. address.port
end

return redis_address
