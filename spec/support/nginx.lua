-- A real nginx of a spec's own: its configuration, its directory, its processes. It runs in the foreground as a child
-- of this process, so nothing is left behind if a spec dies; the master stops its workers.
--
-- The program is the first `nginx` on PATH, and its modules are those of Debian. To try another build, put its
-- directory first on PATH, name the directory of its modules in NGINX_MODULES, and add its resty.core to LUA_PATH.

local files = require "support.files"
local socket = require "socket"
local testkit = require "testkit"

local nginx = {}
local nginx_methods = {}
local nginx_meta = { __index = nginx_methods }

local MODULES = os.getenv "NGINX_MODULES" or "/usr/lib/nginx/modules"
local START_SECONDS = 120
local STOP_SECONDS = 20
local ATTEMPTS = 5
-- Below the ports that the system assigns to outgoing connections, as one of those could take a port before its server.
local MIN_PORT, MAX_PORT = 10000, 32767

-- The beginning of every configuration here. By default workers keep the user, as only this user may read the stub's
-- files. @DIR@ is the directory, @ROOT@ this repository, @MODULES@ that of nginx's modules, @PORT…@ a free port.
local MAIN = [[
daemon off;
user %s;
master_process on;
worker_processes %d;
pid @DIR@/nginx.pid;
error_log @DIR@/error.log %s;
load_module @MODULES@/ndk_http_module.so;
load_module @MODULES@/ngx_http_lua_module.so;
%s
events { worker_connections %d; }
http {
  access_log off;
  client_body_temp_path @DIR@/body;
  proxy_temp_path @DIR@/proxy;
  fastcgi_temp_path @DIR@/fastcgi;
  uwsgi_temp_path @DIR@/uwsgi;
  scgi_temp_path @DIR@/scgi;
  large_client_header_buffers 4 32k;
  lua_package_path "@ROOT@/lua/?.lua;%s;";
  lua_package_cpath "@ROOT@/build/luajit/?.so;;";
%s
}
]]

local function make_directory()
  local process = assert(io.popen("mktemp -d && pwd"))
  local dir, root = process:read "*l", process:read "*l"
  process:close()
  return dir, root
end

--- The directory of nginx's modules.
nginx.MODULES = MODULES

-- Not math.random, which specs seed: specs that run side by side would try the same ports.
local function choose_port()
  local random = assert(io.open("/dev/urandom", "rb"))
  local high, low = random:read(2):byte(1, 2)
  random:close()
  return MIN_PORT + (high * 256 + low) % (MAX_PORT - MIN_PORT + 1)
end

-- The ports that find_free_port has returned.
local known_ports = {}

--- A port that is free now, and that this function has not returned before: what a gateway remembers of one server must
-- not be taken for another, for instance the failures of a Redis that was at the same port.
function nginx.find_free_port()
  local server, port
  repeat
    port = choose_port()
    server = not known_ports[port] and socket.bind("127.0.0.1", port)
  until server
  server:close()
  known_ports[port] = true
  return port
end

-- Each @PORT…@ becomes a free port, the same wherever the name occurs.
local function fill_in(self, text)
  text = text:gsub("@DIR@", self.dir):gsub("@ROOT@", self.root):gsub("@MODULES@", MODULES)
  return (text:gsub("@(PORT%w*)@", function(name)
    self.ports[name] = self.ports[name] or nginx.find_free_port()
    return tostring(self.ports[name])
  end))
end

local function can_connect(port)
  local connection = socket.connect("127.0.0.1", port)
  if connection then connection:close() end
  return connection ~= nil
end

-- nginx writes its pid file once it has all its ports. Before that, another server may answer there.
local function has_pid_file(self)
  local file = io.open(self.dir .. "/nginx.pid")
  if file then file:close() end
  return file ~= nil
end

-- Waits until it answers; returns nil and the log if it exited instead.
local function await_start(self)
  local deadline = testkit.monotonic() + START_SECONDS
  local _, port = next(self.ports)
  repeat
    if testkit.waitpid(self.pid, 0.02) ~= "running" then return nil, self:log() end
    if has_pid_file(self) and can_connect(port) then return true end
  until testkit.monotonic() > deadline
  return nil, "no answer\n" .. self:log()
end

local function launch(self)
  self.ports = {}
  files.write(self.dir .. "/nginx.conf", fill_in(self, self.configuration))
  self.pid = assert(testkit.spawn { "nginx", "-p", self.dir, "-c", self.dir .. "/nginx.conf", "-e",
    self.dir .. "/error.log", stdin = "/dev/null", stdout = self.dir .. "/output", stderr = self.dir .. "/output",
    death_signal = "TERM" })
  return await_start(self)
end

--- Starts one and waits until it answers. options: `http` (text inside http {}), `main` (text outside), `workers` (2),
-- `log_level` ("notice"), `connections` of a worker (8192), `lua_path` (more of it), `user` of the workers ("root";
-- without effect unless this process is root's). Fields: pid (of the master), dir, ports (by the names in the text),
-- port.
function nginx.start(options)
  local self = setmetatable({}, nginx_meta)
  self.dir, self.root = make_directory()
  self.configuration = MAIN:format(options.user or "root", options.workers or 2, options.log_level or "notice",
    options.main or "", options.connections or 8192, options.lua_path or "", options.http)
  local problem
  for _ = 1, ATTEMPTS do
    local started
    started, problem = launch(self)
    if started then
      self.port = self.ports.PORT
      return self
    end
    if not problem:find "Address already in use" then break end
  end
  os.execute("rm -rf " .. self.dir)
  error("nginx did not start: " .. problem, 2)
end

--- error.log so far.
function nginx_methods:log()
  local file = io.open(self.dir .. "/error.log", "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text .. files.read(self.dir .. "/output")
end

--- The process ids of the master's children that still run, in the order of their start.
function nginx_methods:workers()
  local process = assert(io.popen("pgrep -P " .. self.pid))
  local pids = {}
  for line in process:lines() do pids[#pids + 1] = tonumber(line) end
  process:close()
  return pids
end

--- Reloads the configuration, with another `http` part if one is given. Does not wait.
function nginx_methods:reload(configuration)
  if configuration then files.write(self.dir .. "/nginx.conf", fill_in(self, configuration)) end
  testkit.kill(self.pid, "HUP")
end

--- Stops it, and waits until it has exited. Returns whether it exited without being killed.
function nginx_methods:stop()
  if not self.pid then return true end
  testkit.kill(self.pid, "TERM")
  local ended = testkit.waitpid(self.pid, STOP_SECONDS) ~= "running"
  if not ended then
    for _, pid in ipairs(self:workers()) do testkit.kill(pid, "KILL") end
    testkit.kill(self.pid, "KILL")
    testkit.waitpid(self.pid)
  end
  self.pid = nil
  os.execute("rm -rf " .. self.dir)
  return ended
end

return nginx
