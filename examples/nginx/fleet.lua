-- Shows what a fleet saves and survives: three gateways of two workers behind a load balancer, with the nginx.conf of
-- this directory, a real Redis, and the fake ICP that ships with the project. 100 users pull from 50 repositories,
-- first without the fleet, then with it, and then while a gateway and Redis are killed. `make demo-fleet` runs this,
-- in the root of the project. It stops every program that it started and removes its files when it exits, also after
-- Ctrl-C.
local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;./?.lua;" .. package.path

local cqueues = require "cqueues"
local cqueues_socket = require "cqueues.socket"
local files = require "files"
local process = require "process"
local signal = require "cqueues.signal"
local story = require "story"

local in_directory, pause, programs, read_line, say = story.in_directory, story.pause, story.programs, story.read_line,
  story.say

local GATEWAYS, USERS, REPOSITORIES = 3, 100, 50
-- How many of the repositories each user pulls from, and how often from each.
local REPOSITORIES_OF_USER, PULLS = 5, 3
local CLIENTS = 40
-- The time that the fake ICP takes for a token.
local TOKEN_SECONDS = 0.02
local START_SECONDS, ANSWER_SECONDS = 30, 60
local PORT_ATTEMPTS = 5

local directory, icp

local function find_program(...)
  for _, name in ipairs { ... } do
    if story.has_program(name) then return name end
  end
  error("not installed: " .. table.concat({ ... }, " or "), 0)
end

-- ---- Programs ----

-- Starts a server on a free port and waits until has_port() says that it has it: until then, another process may answer
-- there. make_arguments takes the port.
local function start_server(name, end_signal, has_port, make_arguments, port)
  local program = { name = name, output = in_directory(name .. ".output"), end_signal = end_signal }
  local attempts = port and 1 or PORT_ATTEMPTS
  for _ = 1, attempts do
    program.port = port or story.find_free_port()
    files.write(program.output, "")
    local arguments = make_arguments(program.port)
    program.pid = process.start(arguments, { output = program.output, end_signal = end_signal,
      env = { PATH = os.getenv "PATH" .. story.SBIN } })
    programs[program.pid] = program
    local deadline = cqueues.monotime() + START_SECONDS
    while process.wait(program.pid, 0) == "running" do
      if has_port() then return program end
      if cqueues.monotime() > deadline then error(name .. " does not listen", 0) end
      pause(0.02)
    end
    programs[program.pid] = nil
  end
  error(("%s did not start:\n%s"):format(name, files.read(program.output)), 0)
end

local function stop_server(program, number)
  process.kill(program.pid, number)
  process.wait(program.pid, story.STOP_SECONDS)
  programs[program.pid] = nil
end

-- Kills nginx and its workers at once, as when a machine loses power.
local function kill_nginx(program)
  local shell = assert(io.popen("pgrep -P " .. program.pid))
  local workers = shell:read "*a"
  shell:close()
  stop_server(program, signal.SIGKILL)
  for pid in workers:gmatch "%d+" do process.kill(tonumber(pid), signal.SIGKILL) end
end

local function start_redis(port)
  local name = find_program("redis-server", "valkey-server")
  local function has_port() return files.read(in_directory "redis.output"):find "Ready to accept connections" end
  -- SIGTERM is blocked in this process, and Redis would inherit that
  return start_server("redis", signal.SIGKILL, has_port, function(free_port)
    return { name, "--port", tostring(free_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir",
      directory }
  end, port)
end

-- ---- nginx ----

-- Inside http {}: the modules of this tree instead of installed ones.
local MODULES = [[
  lua_package_path "@ROOT@/lua/?.lua;;";
  lua_package_cpath "@ROOT@/build/luajit/?.so;;";
]]
-- And directories that this user can write to.
local PATHS = [[
  client_body_temp_path @DIR@/@NAME@.body;
  proxy_temp_path @DIR@/@NAME@.proxy;
  fastcgi_temp_path @DIR@/@NAME@.fastcgi;
  uwsgi_temp_path @DIR@/@NAME@.uwsgi;
  scgi_temp_path @DIR@/@NAME@.scgi;
]]

-- In place of a registry: it answers only if the token is for the repository of the path, and has not expired.
local REGISTRY = [[
worker_processes 1;
error_log @DIR@/@NAME@.log notice;
pid @DIR@/@NAME@.pid;
load_module modules/ndk_http_module.so;
load_module modules/ngx_http_lua_module.so;
events { worker_connections 4096; }
http {
  access_log off;
@MODULES@
@PATHS@
  server {
    listen 127.0.0.1:@PORT@ ssl;
    ssl_certificate @CERT@;
    ssl_certificate_key @KEY@;
    location / {
      content_by_lua_block {
        local jwt = require "icptoken".decode((ngx.var.http_authorization or ""):match "^Bearer (.+)$" or "")
        local claims = jwt and jwt.claims or {}
        local access = claims.access and claims.access[1] or {}
        local is_allowed = access.name == ngx.var.uri:match "^/v2/(.*)/manifests/" and claims.exp > ngx.time()
        ngx.status = is_allowed and 200 or 401
        ngx.say(is_allowed and "pulled" or "refused")
      }
    }
  }
}
]]

-- As a load balancer in front of the gateways does: a request whose gateway dies goes to another one.
local BALANCER = [[
worker_processes 1;
error_log @DIR@/@NAME@.log crit;
pid @DIR@/@NAME@.pid;
events { worker_connections 4096; }
http {
  access_log off;
@PATHS@
  upstream gateways { @SERVERS@ keepalive 32; }
  server {
    listen 127.0.0.1:@PORT@;
    location / {
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_pass http://gateways;
    }
  }
}
]]

local function fill_in(text, values)
  values.ROOT, values.DIR = read_line "pwd", directory
  local whole = text:gsub("@PATHS@", PATHS):gsub("@MODULES@", (MODULES:gsub("%%", "%%%%")))
  return (whole:gsub("@(%u+)@", values))
end

-- Starts an nginx. make_configuration takes the port.
local function start_nginx(name, make_configuration)
  local pid_file = in_directory(name .. ".pid")
  os.remove(pid_file) -- one that was killed leaves it
  return start_server(name, signal.SIGTERM, function() return files.exists(pid_file) end, function(port)
    files.write(in_directory(name .. ".conf"), make_configuration(port))
    return { "nginx", "-g", "daemon off;", "-e", in_directory(name .. ".log"), "-c", in_directory(name .. ".conf") }
  end)
end

local function start_registry()
  return start_nginx("registry", function(port)
    return fill_in(REGISTRY, { NAME = "registry", PORT = port, CERT = icp.server_cert, KEY = icp.server_key })
  end)
end

local function start_balancer(gateways)
  local servers = {}
  for i, gateway in ipairs(gateways) do servers[i] = ("server 127.0.0.1:%d;"):format(gateway.port) end
  return start_nginx("balancer", function(port)
    return fill_in(BALANCER, { NAME = "balancer", PORT = port, SERVERS = table.concat(servers, " ") })
  end)
end

-- With more time for Redis than it has by default, as three "machines", the cluster and all users share this one.
local FLEET = [[fleet = { redis = "redis://127.0.0.1:%d", secret_file = "%s", timeout = 2, connect_timeout = 2 },]]
local FLEET_LINE = '-- fleet = { redis = "redis://10.0.0.9:6379", secret_file = "/etc/icp/fleet.secret" },'

-- nginx.conf as users copy it, with the names, paths and ports of this run. redis: or nil for no fleet.
local function configure_gateway(name, port, registry, redis)
  local is_root = read_line "id -u" == "0"
  return story.replace_all(files.read(here .. "/nginx.conf"), {
    { "user www-data;", is_root and "user root;" or "" }, -- only this user may read the CA of the fake ICP
    { "worker_processes auto;", "worker_processes 2;" },
    { "/run/nginx.pid", in_directory(name .. ".pid") },
    { "/var/log/nginx/error.log", in_directory(name .. ".log") },
    { "/var/log/nginx/access.log", in_directory(name .. ".access") },
    { "http {\n", "http {\n" .. fill_in("@MODULES@@PATHS@", { NAME = name })
      .. ("  upstream %s { server 127.0.0.1:%d; keepalive 32; }\n"):format(story.CLUSTER, registry.port) },
    { 'host = "mycluster.icp", port = 8443,', ('host = "%s", port = %d, resolve = { ["%s:%d"] = "127.0.0.1" },')
      :format(story.CLUSTER, icp.port, story.CLUSTER, icp.port) },
    { FLEET_LINE, redis and FLEET:format(redis.port, in_directory "fleet.secret") or "" },
    { "rate=20r/s", "rate=10000r/s" }, -- all clients of the demo have one address
    { "/etc/icp/ca.crt", icp.ca },
    { "listen 443 ssl", ("listen 127.0.0.1:%d"):format(port) },
    { "/etc/icp/gateway.crt", icp.server_cert },
    { "/etc/icp/gateway.key", icp.server_key },
    { 'proxy_set_header Cookie "";', 'proxy_set_header Cookie "";\n      proxy_set_header Connection "";' },
    { "proxy_pass https://mycluster.icp:8500;", "proxy_pass https://" .. story.CLUSTER .. ";" },
  })
end

local function start_gateway(i, registry, redis)
  local name = "gateway" .. i
  return start_nginx(name, function(port) return configure_gateway(name, port, registry, redis) end)
end

-- ---- Pulls ----

local function get(port, target, headers)
  local connection = cqueues_socket.connect { host = "127.0.0.1", port = port }
  connection:setmode("b", "b")
  connection:settimeout(ANSWER_SECONDS)
  connection:onerror(function(_, _, code) return code end)
  connection:write(("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n"):format(target, headers))
  connection:flush()
  local answer = connection:read "*a"
  connection:close()
  return answer or ""
end

-- The pulls of all users in a random order that is the same each time.
local function list_pulls(round)
  math.randomseed(round)
  local pulls = {}
  for user = 1, USERS do
    for i = 1, REPOSITORIES_OF_USER do
      local repository = 1 + (user * 7 + i * 11) % REPOSITORIES
      for _ = 1, PULLS do pulls[#pulls + 1] = { user = user, repository = repository } end
    end
  end
  for i = #pulls, 2, -1 do
    local j = math.random(i)
    pulls[i], pulls[j] = pulls[j], pulls[i]
  end
  return pulls
end

-- Makes all pulls through the load balancer. events: functions by the number of a pull before which they are called.
-- Returns how many worked, and one answer that did not.
local function pull_all(balancer, project, round, events)
  local pulls, worked, problem, next_pull = list_pulls(round), 0, nil, 1
  local queue = cqueues.new()
  for _ = 1, CLIENTS do
    queue:wrap(function()
      while next_pull <= #pulls do
        local i = next_pull
        next_pull = i + 1
        if events[i] then events[i]() end
        local pull = pulls[i]
        local answer = get(balancer.port, ("/v2/%s/image%d/manifests/latest"):format(project, pull.repository),
          ("Authorization: Bearer user-%d\r\n"):format(pull.user))
        local has_worked = answer:find "^HTTP/1%.1 200 " and answer:find("pulled", 1, true)
        worked, problem = worked + (has_worked and 1 or 0), not has_worked and answer or problem
      end
    end)
  end
  repeat
    pause(0)
    local ok, failure = queue:step(0.1)
    if not ok then error(failure, 0) end
  until queue:empty()
  return worked, #pulls, problem
end

local function count_token_requests()
  local count = 0
  for _, entry in ipairs(icp:requests()) do count = count + (entry.path:find "/auth/token$" and 1 or 0) end
  return count
end

local function accept_users()
  local id_tokens = {}
  for user = 1, USERS do id_tokens[user] = "user-" .. user end
  icp:reset()
  icp:set { id_tokens = id_tokens }
  icp:plan { delay = { before = TOKEN_SECONDS }, times = "forever" }
end

-- One act: all pulls. Raises if one did not work. Returns how many token requests there were.
local function show_pulls(balancer, project, round, events)
  accept_users()
  local began_at = cqueues.monotime()
  local worked, all, problem = pull_all(balancer, project, round, events or {})
  say("   %d of %d pulls worked, in %.1f s; the cluster saw %d token requests.", worked, all,
    cqueues.monotime() - began_at, count_token_requests())
  if worked < all then error("a pull failed: " .. problem:sub(1, 500), 0) end
  return count_token_requests(), all
end

-- Calls body(balancer, gateways) with three new gateways. redis: or nil for no fleet.
local function with_gateways(registry, redis, body)
  local gateways = {}
  for i = 1, GATEWAYS do gateways[i] = start_gateway(i, registry, redis) end
  local balancer = start_balancer(gateways)
  local count = body(balancer, gateways)
  stop_server(balancer, signal.SIGTERM)
  for _, gateway in ipairs(gateways) do
    if programs[gateway.pid] then stop_server(gateway, signal.SIGTERM) end
  end
  return count
end

local function show_all()
  for _, name in ipairs { "nginx", "pgrep" } do find_program(name) end
  directory, icp = story.begin()
  local redis, registry = start_redis(), start_registry()
  local secret = read_line "openssl rand -base64 32"
  files.write(in_directory "fleet.secret", "")
  read_line("chmod 600 " .. files.quote(in_directory "fleet.secret"))
  files.write(in_directory "fleet.secret", secret .. "\n")
  local keys = USERS * REPOSITORIES_OF_USER
  say("%d users pull from %d repositories through a load balancer and %d gateways of 2 workers. Each user pulls from",
    USERS, REPOSITORIES, GATEWAYS)
  say("%d repositories, and from each %d times, so %d tokens are needed.", REPOSITORIES_OF_USER, PULLS, keys)

  say "\n1. Without the option 'fleet': each gateway requests what it needs"
  local without = with_gateways(registry, nil, function(balancer) return (show_pulls(balancer, "first", 1)) end)
  say "\n2. With it: Redis is between them"
  local with = with_gateways(registry, redis, function(balancer) return (show_pulls(balancer, "second", 1)) end)
  say("   That is %.1f times fewer.", without / with)
  if with >= without then error("the fleet should have saved token requests", 0) end

  say "\n3. While pulls go on, a gateway is killed, then Redis, and Redis comes back empty"
  with_gateways(registry, redis, function(balancer, gateways)
    local _, all = nil, keys * PULLS
    return (show_pulls(balancer, "third", 2, {
      [math.floor(all * 0.2)] = function()
        kill_nginx(gateways[1])
        say "   … gateway 1 is killed (SIGKILL to nginx and its workers)"
      end,
      [math.floor(all * 0.4)] = function()
        stop_server(redis, signal.SIGKILL)
        say "   … Redis is killed"
      end,
      [math.floor(all * 0.7)] = function()
        redis = start_redis(redis.port)
        say "   … Redis is back, without anything that it had"
      end,
    }))
  end)
  say "\nEvery pull worked."
end

story.tell(show_all)
