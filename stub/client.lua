-- Starts the fake ICP (icp.lua beside this file) as a child process and controls it. Works on Lua 5.1 to 5.5 and LuaJIT
-- with LuaSocket and cjson. With the root of the project on package.path:
--
--   local icp = require "stub.client".start()
--   local client = icptoken.new { host = icp.host, port = icp.port, cacert = icp.ca, id_token = icp.id_token }
--   icp:plan { status = 401 }    -- for the next request; the head of icp.lua has all fields of an order
--   icp:stop()
--
-- The child lives as long as its control connection, so it also exits if this process dies. All functions raise if the
-- fake ICP cannot be reached or rejects a command.

local cjson = require "cjson"
local socket = require "socket"

local directory = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$" or "."

local COMMAND = "unset LD_PRELOAD LUA_INIT LUA_PATH LUA_CPATH %s; exec luajit '%s/icp.lua' --controlled </dev/null"
-- Longer than any reply takes on a slow machine.
local REPLY_SECONDS = 300

local stub = {}
local stub_methods = {}
local stub_meta = { __index = stub_methods }

-- On Lua 5.3 and later, cjson returns floats, and "8443.0" is not a port.
local function make_integers(value)
  if type(value) == "table" then
    for key, member in pairs(value) do value[key] = make_integers(member) end
  elseif type(value) == "number" and math.tointeger then
    return math.tointeger(value) or value
  end
  return value
end

local function decode(line)
  return make_integers(cjson.decode(line))
end

local function send_command(self, command)
  assert(self.connection, "the fake ICP is stopped")
  assert(self.connection:send(cjson.encode(command) .. "\n"))
  local reply = decode(assert(self.connection:receive "*l"))
  if reply.error then error("the fake ICP rejected a command: " .. reply.error, 3) end
  return reply
end

--- Appends orders (tables), each for the next request that it fits.
function stub_methods:plan(...)
  send_command(self, { ["do"] = "plan", orders = { ... } })
end

--- Removes all orders and log entries, and restores all settings.
function stub_methods:reset()
  send_command(self, { ["do"] = "reset" })
end

--- Returns all log entries, connections (type "connect") and requests (type "request"), in order of arrival.
function stub_methods:log()
  return send_command(self, { ["do"] = "log" }).requests
end

--- Returns the log entries of type "request".
function stub_methods:requests()
  local requests = {}
  for _, entry in ipairs(self:log()) do
    if entry.type == "request" then requests[#requests + 1] = entry end
  end
  return requests
end

--- Returns how many requests there were for a path.
function stub_methods:count(path)
  local count = 0
  for _, request in ipairs(self:requests()) do
    if request.path == path then count = count + 1 end
  end
  return count
end

--- Returns the last request, or nil.
function stub_methods:last()
  local requests = self:requests()
  return requests[#requests]
end

--- Returns how many connections each listener has accepted: { https = n, … }.
function stub_methods:accepted()
  return send_command(self, { ["do"] = "log" }).accepted
end

--- Changes settings (the table make_default_settings in icp.lua), for instance { expires_in = 60 }.
function stub_methods:set(settings)
  local command = { ["do"] = "set" }
  for name, value in pairs(settings) do command[name] = value end
  send_command(self, command)
end

--- Returns the size of the answer to a token request under this order, in bytes: { length =, head = }.
-- target: the path and query; default: the token endpoint without a query.
function stub_methods:render(order, target)
  return send_command(self, { ["do"] = "render", order = order, target = target })
end

-- A shared stub that is not in use.
local idle

--- Stops the stub and waits until its process has exited; one from share() keeps running for its next user. Idempotent.
function stub_methods:stop()
  if self.is_shared and not idle then
    self:reset()
    idle = self
  elseif self.connection and self ~= idle then
    self.connection:send '{"do":"stop"}\n'
    self.connection:close()
    self.connection = nil
    self.process:close()
  end
end

--- Starts a stub and returns it. options: new_key = true, so that its tokens are signed by another key than those of
-- other stubs, even if STUB_TOKEN_KEY names one. Its fields: host, port, ports ({ https =, http =, expired =, … }),
-- pid, dir (a private directory, removed when it stops); id_token, username, password; pin (of the server's key),
-- key_name (the kid of its tokens); and the paths ca, other_ca, server_cert, server_key, client_cert, client_key,
-- client_encrypted_key (with client_key_password), token_signing_cert, id_token_file.
function stub.start(options)
  local without = options and options.new_key and "STUB_TOKEN_KEY" or ""
  local process = assert(io.popen(COMMAND:format(without, directory), "r"))
  local line = process:read "*l"
  if not line then
    process:close()
    error "the fake ICP did not start; see its message above"
  end
  local self = decode(line)
  self.process = process
  self.connection = assert(socket.connect("127.0.0.1", self.control))
  self.connection:settimeout(REPLY_SECONDS)
  return setmetatable(self, stub_meta)
end

--- Returns a stub as start() does, and reuses one that its last user has stopped, as a start creates keys,
-- which takes long. A reused stub is reset. stop_shared() stops the process.
function stub.share()
  local self = idle or stub.start()
  self.is_shared = true
  idle = nil
  return self
end

--- Stops the shared stub that is not in use, if there is one.
function stub.stop_shared()
  local self = idle
  idle = nil
  if self then
    self.is_shared = false
    self:stop()
  end
end

--- Returns the value of a logged request's first header with this name (compared without case), or nil.
function stub.header(request, name)
  name = name:lower()
  for _, header in ipairs(request.headers) do
    if header[1]:lower() == name then return header[2] end
  end
end

return stub
