-- One connection to Redis or to a Sentinel: connecting with TLS and AUTH within a time limit, exchanging commands for
-- replies, and nginx's pool of idle connections.
--
-- A failure is { kind =, text =, code = }: a kind of KINDS, a text for the log, and Redis's error code if it sent one.
-- From an error of Redis the text takes only the code, because Redis quotes arguments, and a hostile server can send
-- any text.

local clock = require "icptoken.gateway.clock"
local key = require "icptoken.gateway.key"
local redis_address = require "icptoken.gateway.redis_address"
local resp = require "icptoken.gateway.resp"
local semaphore = require "ngx.semaphore"

local now = clock.now
local to_hex = require("icptoken.gateway.text").to_hex

local connection = {}
local connection_methods = {}
local connection_meta = { __index = connection_methods }

-- Idle connections of a worker to one server. Redis notices a client that has vanished only by TCP keepalive.
local POOL_SIZE = 32
local POOL_MILLISECONDS = 60000

-- The most that one call sends. Each call has a time limit of its own, so a server that reads slowly cannot exceed the
-- deadline by much.
local SEND_BYTES = 65536

--- Why an exchange fails.
connection.KINDS = { "connect", "tls", "timeout", "closed", "protocol", "refused", "sentinel" }

-- What an error code of Redis means to an operator.
local MEANINGS = {
  NOAUTH = "it requires a password: set 'password_file'",
  WRONGPASS = "the user name or the password is wrong",
  NOPERM = "the user lacks a right: docs/fleet.md lists those that are needed, and ACL LOG in Redis says which one",
  DENIED = "its protected mode refuses other machines: give it a password, or bind it to an address",
  ERR = "it refuses a command, maybe because the user lacks a right: docs/fleet.md lists those that are needed, and "
    .. "ACL LOG in Redis says which one",
  READONLY = "it is a replica that cannot be written to",
  LOADING = "it is still loading its data",
  OOM = "its memory is full: raise maxmemory, or set maxmemory-policy to volatile-ttl",
  MISCONF = "it refuses writes because it cannot save to its disk",
  MASTERDOWN = "it is a replica whose master cannot be reached",
  NOREPLICAS = "it refuses writes because it has too few replicas",
  BUSY = "it is busy running a script of another client",
  MOVED = "it is a node of a cluster: put a proxy before it, or use one without a cluster",
  CLUSTERDOWN = "its cluster is down",
}

local function fail(kind, text, code)
  return nil, { kind = kind, text = text, code = code }
end

-- What Redis answers to a command of more than ten words or 16 kB from a connection that has not authenticated. It does
-- not read such a command, and so does not answer NOAUTH.
local UNAUTHENTICATED = "^ERR Protocol error: unauthenticated "

--- Returns the failure for an error reply. text: Redis's.
function connection.make_refusal(text)
  local code = text:find(UNAUTHENTICATED) and "NOAUTH" or text:match "^(%u+)%f[%W]" or "ERR"
  if #code > 20 then code = "ERR" end
  return { kind = "refused", code = code,
    text = MEANINGS[code] and ("%s (%s)"):format(MEANINGS[code], code) or ("it refuses a command (%s)"):format(code) }
end

local PROBLEMS = {
  timeout = "no answer in time",
  closed = "it closed the connection",
  protocol = "it sent something that is not an answer of Redis, or one that is too large",
}

local function fail_socket(problem, otherwise)
  if PROBLEMS[problem] then return fail(problem, PROBLEMS[problem]) end
  return fail(otherwise, problem)
end

-- Sets the time limits of a socket's next operation. Returns false if no time is left.
local function limit(socket, deadline)
  local milliseconds = math.ceil((deadline - now()) * 1000)
  if milliseconds < 1 then return false end
  socket:settimeouts(milliseconds, milliseconds, milliseconds)
  return true
end

-- Connects to a host name. nginx looks it up within resolver_timeout, so the deadline is kept by another thread.
local function connect_by_name(socket, target, options, deadline)
  local done = semaphore.new()
  local connected, problem
  local thread = ngx.thread.spawn(function()
    connected, problem = socket:connect(target.address.host, target.address.port, options)
    done:post()
  end)
  local is_done = done:wait(math.max(0.001, deadline - now()))
  if not is_done then
    ngx.thread.kill(thread)
    return nil, "timeout"
  end
  ngx.thread.wait(thread)
  return connected, problem
end

local function connect(socket, target, deadline)
  local address, options = target.address, { pool = target.pool }
  if address.path then return socket:connect("unix:" .. address.path, options) end
  if not redis_address.is_numeric(address.host) then return connect_by_name(socket, target, options, deadline) end
  local host = address.host:find(":", 1, true) and "[" .. address.host .. "]" or address.host
  return socket:connect(host, address.port, options)
end

-- The commands that a fresh connection begins with.
local function list_greetings(target)
  local greetings = {}
  if target.password then
    greetings[1] = target.user and { "AUTH", target.user, target.password } or { "AUTH", target.password }
  end
  if (target.address.database or 0) ~= 0 then greetings[#greetings + 1] = { "SELECT", target.address.database } end
  return greetings
end

local function start_tls(self)
  local name = self.target.server_name or self.target.address.host
  if redis_address.is_numeric(name) then
    return fail("tls", "nginx can verify a certificate only by a name: set 'server_name', or have Sentinel announce "
      .. "host names")
  end
  local ok, problem = self.socket:sslhandshake(false, name, true)
  if problem == "timeout" then return fail("timeout", "no answer to the TLS handshake in time") end
  -- ngx_lua returns true, and closes the socket, if a handshake is over at once and the certificate is not accepted
  if ok and self.socket:getreusedtimes() then return true end
  return fail("tls", ("TLS failed (%s): check that the port speaks TLS, that lua_ssl_trusted_certificate in nginx.conf "
    .. "names the file with the CA, and that '%s' is in the server's certificate"):format(
    problem or "the reason is in nginx's previous line", name))
end

--- Describes where a connection leads to: { address, is_tls, user, password, server_name, pool }. address: see
-- redis_address.lua. The pool's name depends on all of it, or an idle connection could have another user or be
-- unverified.
function connection.make_target(address, is_tls, user, password, server_name)
  local target = { address = address, is_tls = is_tls, user = user, password = password, server_name = server_name }
  local digest = key.fingerprint { is_tls, address.host or "", address.port or 0, address.path or "",
    address.database or 0, user or "", password or "", server_name or "" }
  target.pool = "icptoken:" .. to_hex(digest)
  return target
end

local NO_RESOLVER = "nginx looks up no host names without a name server: add \"resolver ADDRESS;\" to the http context "
  .. "of nginx.conf, or write an address in place of the name"

-- Returns why there is no connection. problem: of ngx_lua.
local function explain(problem)
  if not problem:find("no resolver defined", 1, true) then return problem end
  return problem .. "; " .. NO_RESOLVER
end

--- Connects, or takes an idle connection. Yields. target: see make_target. deadline: on clock.now(). Returns a
-- connection, or nil and a failure.
function connection.open(target, deadline)
  local socket = ngx.socket.tcp()
  if not limit(socket, deadline) then return fail_socket "timeout" end
  local ok, problem = connect(socket, target, deadline)
  if not ok then return fail("connect", ("cannot connect (%s)"):format(explain(problem))) end
  local self = setmetatable({ socket = socket, target = target, greetings = {} }, connection_meta)
  if socket:getreusedtimes() ~= 0 then return self end
  self.greetings = list_greetings(target)
  if target.is_tls then
    local failure = { kind = "timeout", text = PROBLEMS.timeout }
    if limit(socket, deadline) then ok, failure = start_tls(self) else ok = false end
    if not ok then
      self:close()
      return nil, failure
    end
  end
  return self
end

-- Returns true, or nil and a failure.
local function send(self, bytes, deadline)
  for first = 1, #bytes, SEND_BYTES do
    if not limit(self.socket, deadline) then return fail_socket "timeout" end
    local ok, problem = self.socket:send(bytes:sub(first, first + SEND_BYTES - 1))
    if not ok then return fail_socket(problem, "closed") end
  end
  return true
end

-- Reads the replies to this many commands, of which the first `greetings` must succeed. Returns those of the others, or
-- nil and a failure.
local function read_replies(self, greetings, count, deadline)
  local reader = resp.new_reader(function(bytes)
    if not limit(self.socket, deadline) then return nil, "timeout" end
    return self.socket:receiveany(bytes)
  end)
  local replies = {}
  for i = 1, greetings + count do
    local is_success, value = reader:read()
    if is_success == nil then return fail_socket(value, "closed") end
    if i <= greetings and not is_success then return nil, connection.make_refusal(value) end
    if i > greetings then replies[i - greetings] = { is_success = is_success, value = value } end
  end
  if reader:has_rest() then return fail_socket "protocol" end
  return replies
end

--- Sends commands and reads their replies. Yields. commands: lists of strings and numbers. deadline: on clock.now().
-- Returns a list of { is_success, value } (see resp.lua); or nil and a failure, after which the connection is closed.
function connection_methods:exchange(commands, deadline)
  local parts, greetings = {}, self.greetings
  for _, command in ipairs(greetings) do parts[#parts + 1] = resp.encode(command) end
  for _, command in ipairs(commands) do parts[#parts + 1] = resp.encode(command) end
  self.greetings = {}
  local replies, failure = send(self, table.concat(parts), deadline)
  if replies then replies, failure = read_replies(self, #greetings, #commands, deadline) end
  if not replies then self:close() end
  return replies, failure
end

--- Keeps the connection for later, idle. It must not be used after that.
function connection_methods:keep()
  self.socket:setkeepalive(POOL_MILLISECONDS, POOL_SIZE)
end

--- Closes the connection.
function connection_methods:close()
  self.socket:close()
end

return connection
