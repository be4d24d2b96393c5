-- Starts the fake ICP of stub/ for a spec and speaks to its control port. Runs on every runtime, from the root of the
-- repository. The stub's process belongs to the object: stop() ends it; if the spec's process dies, however it
-- dies, the control connection closes and the stub ends by itself.

local cjson = require "cjson"
local socket = require "socket"

local COMMAND = "unset LD_PRELOAD LUA_INIT LUA_PATH LUA_CPATH; exec luajit stub/icp.lua --controlled </dev/null"
-- for a stub that hangs, not for one that is slow
local REPLY_SECONDS = 300

local stub = {}
local stub_methods = {}
local stub_meta = { __index = stub_methods }

-- cjson gives floats on 5.3 and later; a port written "8443.0" is none.
local function make_integers(value)
	if type(value) == "table" then
		for key, member in pairs(value) do
			value[key] = make_integers(member)
		end
	elseif type(value) == "number" and math.tointeger then
		return math.tointeger(value) or value
	end
	return value
end

local function decode(line)
	return make_integers(cjson.decode(line))
end

local function send_command(self, command)
	assert(self.connection, "the stub is stopped")
	assert(self.connection:send(cjson.encode(command) .. "\n"))
	local reply = decode(assert(self.connection:receive "*l"))
	if reply.error then
		error("the stub says: " .. reply.error, 3)
	end
	return reply
end

--- Appends orders, each for the next request that it fits.
function stub_methods:plan(...)
	send_command(self, { ["do"] = "plan", orders = { ... } })
end

--- No orders, no log, no changed setting.
function stub_methods:reset()
	send_command(self, { ["do"] = "reset" })
end

--- All log entries, connections (type "connect") and requests (type "request"), in order.
function stub_methods:log()
	return send_command(self, { ["do"] = "log" }).requests
end

--- The log's entries of type "request".
function stub_methods:requests()
	local requests = {}
	for _, entry in ipairs(self:log()) do
		if entry.type == "request" then
			requests[#requests + 1] = entry
		end
	end
	return requests
end

--- The last request, or nil.
function stub_methods:last()
	local requests = self:requests()
	return requests[#requests]
end

--- How many connections each listener took: { https = n, … }.
function stub_methods:accepted()
	return send_command(self, { ["do"] = "log" }).accepted
end

--- Changes standing behaviour, for instance { expires_in = 60 }.
function stub_methods:set(settings)
	local command = { ["do"] = "set" }
	for name, value in pairs(settings) do
		command[name] = value
	end
	send_command(self, command)
end

--- { length =, head = } of the answer to a token request under this order. target: path and query, if not the bare one.
function stub_methods:render(order, target)
	return send_command(self, { ["do"] = "render", order = order, target = target })
end

-- The stub that the last user of share() has returned.
local idle

--- Ends the stub and waits until its process is gone, or returns a shared one. Idempotent.
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

--- Starts a stub. Its fields: host, port, ports ({ https =, http =, expired =, … }), pid, dir; id_token, username,
--- password; pin (of the server's key), key_name (kid of its tokens); and the paths ca, other_ca, server_cert,
--- server_key, client_cert, client_key, client_encrypted_key (with client_key_password), token_signing_cert,
--- id_token_file.
function stub.start()
	local process = assert(io.popen(COMMAND, "r"))
	local line = process:read "*l"
	if not line then
		process:close()
		error "the stub did not start"
	end
	local self = decode(line)
	self.process = process
	self.connection = assert(socket.connect("127.0.0.1", self.control))
	self.connection:settimeout(REPLY_SECONDS)
	return setmetatable(self, stub_meta)
end

--- Starts a stub as start() does, or takes the one that was shared before: making keys takes most of a start. It has
--- no orders, no log and no changed setting. stop() returns it; stop_shared() ends it.
function stub.share()
	local self = idle or stub.start()
	self.is_shared = true
	idle = nil
	return self
end

--- Ends the stub that was shared, if there was one.
function stub.stop_shared()
	local self = idle
	idle = nil
	if self then
		self.is_shared = false
		self:stop()
	end
end

--- The value of a logged request's first header of that name, in any case, or nil.
function stub.header(request, name)
	name = name:lower()
	for _, header in ipairs(request.headers) do
		if header[1]:lower() == name then
			return header[2]
		end
	end
end

return stub
