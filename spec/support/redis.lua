-- Real Redis servers (or Valkey), replicas and Sentinels of a spec's own. Each is a child of this process and dies with
-- it. Specs talk to it over its Unix socket as the user "spec", whatever its other users may do.

local files = require "support.files"
local nginx = require "support.nginx"
local pause = require "support.pause"
local testkit = require "testkit"
local new_unix_socket = require "socket.unix"

local redis = {}
local server_methods = {}
local server_meta = { __index = server_methods }

local START_SECONDS = 60
local STOP_SECONDS = 20
local ATTEMPTS = 5

-- The users are in an ACL file, so that a spec can replace all others.
local CONFIGURATION = [[
bind 127.0.0.1
%s
unixsocket %s/redis.sock
dir %s
save ""
appendonly no
daemonize no
logfile ""
aclfile %s/users.acl
%s
]]

local SENTINEL = [[
bind 127.0.0.1
port %d
unixsocket %s/redis.sock
dir %s
daemonize no
logfile ""
user spec on >spec ~* &* +@all
%s
]]

local SPEC_USER = "user spec on >spec ~* &* +@all\n"
local DEFAULT_USER = "user default on nopass ~* &* +@all\n"

local function make_directory()
  local process = assert(io.popen "mktemp -d")
  local dir = process:read "*l"
  process:close()
  return dir
end

local function has_program(name)
  local process = assert(io.popen("command -v " .. name))
  local path = process:read "*l"
  process:close()
  return path ~= nil
end

--- The installed Redis programs: "redis-server", "valkey-server", or both.
function redis.list_programs()
  local programs = {}
  for _, name in ipairs { "redis-server", "valkey-server" } do
    if has_program(name) then programs[#programs + 1] = name end
  end
  return programs
end

local function encode(...)
  local parts = { ("*%d\r\n"):format(select("#", ...)) }
  for _, argument in ipairs { ... } do
    local text = tostring(argument)
    parts[#parts + 1] = ("$%d\r\n%s\r\n"):format(#text, text)
  end
  return table.concat(parts)
end

-- A reply of a server that a spec trusts: a string, a number, false for a null, a list; or nil and the error.
local function read_reply(connection)
  local line, problem = connection:receive "*l"
  if not line then return nil, problem end
  local kind, rest = line:sub(1, 1), line:sub(2)
  if kind == "-" then return nil, rest end
  if kind == "+" then return rest end
  local number = tonumber(rest)
  if kind == ":" then return number end
  if number < 0 then return false end
  if kind == "$" then return (connection:receive(number + 2):sub(1, number)) end
  local list = {}
  for i = 1, number do list[i] = read_reply(connection) end
  return list
end

--- A connection of the spec's own: { send = function(...), read = function(), close = function() }.
function server_methods:connect()
  local connection = new_unix_socket()
  local ok, problem = connection:connect(self.socket)
  if not ok then return nil, problem end
  connection:settimeout(START_SECONDS)
  local one = {}
  function one.send(...) assert(connection:send(encode(...))) end
  function one.read() return read_reply(connection) end
  function one.close() connection:close() end
  one.send("AUTH", "spec", "spec")
  ok, problem = one.read()
  if ok then return one end
  one.close()
  return nil, problem
end

--- Runs a command. Returns its reply: a string, a number, false for a null, or a list; or nil and an error.
function server_methods:command(...)
  local connection, problem = self:connect()
  if not connection then return nil, problem end
  connection.send(...)
  local reply
  reply, problem = connection.read()
  connection.close()
  return reply, problem
end

--- What it has written to its log.
function server_methods:log()
  return files.read(self.dir .. "/output")
end

-- Waits until it answers; returns nil and the log if it exited instead.
local function await_start(self)
  local deadline = testkit.monotonic() + START_SECONDS
  repeat
    if testkit.waitpid(self.pid, 0.02) ~= "running" then return nil, self:log() end
    local reply, problem = self:command "PING"
    if reply == "PONG" or (problem or ""):find "^LOADING" then return true end
  until testkit.monotonic() > deadline
  return nil, "no answer\n" .. self:log()
end

-- Starts the program with its configuration, and waits until it answers.
local function launch(self)
  local command = { self.program, self.dir .. "/redis.conf", stdin = "/dev/null", stdout = self.dir .. "/output",
    stderr = self.dir .. "/output" }
  if self.is_sentinel then command[3] = "--sentinel" end
  self.pid = assert(testkit.spawn(command))
  return await_start(self)
end

-- Starts one whose configuration write(self) writes; the port is a free one.
local function start(program, is_sentinel, write)
  local self = setmetatable({ program = program or redis.list_programs()[1], is_sentinel = is_sentinel,
    dir = make_directory() }, server_meta)
  self.socket = self.dir .. "/redis.sock"
  local problem
  for _ = 1, ATTEMPTS do
    self.port = nginx.find_free_port()
    files.write(self.dir .. "/output", "")
    write(self)
    local started
    started, problem = launch(self)
    if started then return self end
    if not problem:find "in use" then break end
  end
  self:stop()
  error(self.program .. " did not start: " .. problem, 3)
end

--- Starts a server. options: `program` (the first of list_programs), `users` (lines of an ACL file; by default the
-- user without a name may do everything), `config` (more lines), `tls` ({ certificate, key }: the port speaks TLS).
-- Fields: port, socket (the path of the Unix socket), pid, dir.
function redis.start(options)
  options = options or {}
  return start(options.program, false, function(self)
    local ports = "port " .. self.port
    if options.tls then
      ports = ("port 0\ntls-port %d\ntls-cert-file %s\ntls-key-file %s\ntls-ca-cert-file %s\ntls-auth-clients no")
        :format(self.port, options.tls.certificate, options.tls.key, options.tls.certificate)
    end
    files.write(self.dir .. "/users.acl", SPEC_USER .. (options.users or DEFAULT_USER))
    files.write(self.dir .. "/redis.conf",
      CONFIGURATION:format(ports, self.dir, self.dir, self.dir, options.config or ""))
  end)
end

--- Starts a Sentinel that watches a master under a name. options: `program`, `config` (more lines). A master that does
-- not answer for `down_seconds` counts as down, without asking other Sentinels.
function redis.start_sentinel(master, name, down_seconds, options)
  options = options or {}
  return start(options.program or master.program, true, function(self)
    local watch = ("sentinel monitor %s 127.0.0.1 %d 1\nsentinel down-after-milliseconds %s %d\n"
      .. "sentinel failover-timeout %s 5000\n"):format(name, master.port, name, down_seconds * 1000, name)
    files.write(self.dir .. "/redis.conf",
      SENTINEL:format(self.port, self.dir, self.dir, watch .. (options.config or "")))
  end)
end

--- Suspends its process until resume(): connections are accepted by the kernel, but not answered.
function server_methods:pause()
  pause(self.pid)
end

--- Continues after pause().
function server_methods:resume()
  testkit.kill(self.pid, "CONT")
end

--- Kills its process, and keeps its port and files for launch().
function server_methods:kill()
  if not self.pid then return end
  testkit.kill(self.pid, "KILL")
  testkit.waitpid(self.pid, STOP_SECONDS)
  self.pid = nil
end

--- Starts it again after kill(), at the same port and socket.
function server_methods:launch()
  assert(launch(self))
end

--- Stops it, and removes its files.
function server_methods:stop()
  self:kill()
  os.execute("rm -rf " .. self.dir)
end

return redis
