-- Shows the gateway in front of a real registry: the fake ICP that ships with the project, a docker-registry that
-- accepts only the fake ICP's tokens, and nginx with the nginx.conf of this directory. Pushes and pulls an image.
-- `make demo-gateway` runs this, in the root of the project. It stops every program that it started and removes its
-- files when it exits, also after Ctrl-C.
local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;./?.lua;" .. package.path

local cqueues = require "cqueues"
local files = require "files"
local image = require "image"
local mime = require "mime"
local process = require "process"
local signal = require "cqueues.signal"
local story = require "story"

local in_directory, read_line, say = story.in_directory, story.read_line, story.say

local PROGRAMS = { "curl", "docker-registry", "gzip", "nginx", "skopeo", "tar" }
local REPOSITORY = "demo/hello"
local IMAGE_BYTES = 300000
local START_SECONDS = 30
local STEP_SECONDS = 60
local PORT_ATTEMPTS = 5

local directory, icp

local function show(text)
  for line in text:gsub("\r", ""):gmatch "[^\n]+" do say("   %s", line) end
end

-- No proxies, as everything runs on this machine. docker-registry reads any variable REGISTRY_… as configuration. The
-- last two keep skopeo, run by root, from writing its cache of blob locations to /var/lib.
local function make_environment()
  local environment = { PATH = os.getenv "PATH" .. story.SBIN, REGISTRY_AUTH_FILE = false,
    OTEL_TRACES_EXPORTER = "none", XDG_DATA_HOME = directory, _CONTAINERS_ROOTLESS_UID = "1" }
  for _, name in ipairs { "http_proxy", "https_proxy", "all_proxy" } do
    environment[name], environment[name:upper()] = false, false
  end
  return environment
end

local function check_programs()
  local missing = {}
  for _, name in ipairs(PROGRAMS) do
    if not story.has_program(name) then missing[#missing + 1] = name end
  end
  if #missing > 0 then error("not installed: " .. table.concat(missing, ", "), 0) end
end

-- Starts a program that this signal stops. Its output goes into a file.
local function start(arguments, end_signal)
  local program = { name = arguments[1], output = in_directory(arguments[1] .. ".output"), end_signal = end_signal }
  files.write(program.output, "")
  program.pid = process.start(arguments, { output = program.output, env = make_environment(), end_signal = end_signal })
  story.programs[program.pid] = program
  return program
end

-- Waits until check returns a result, and returns that; or nil and the program's output if the program exits first.
local function await(program, check, seconds)
  local deadline = cqueues.monotime() + seconds
  repeat
    local how, status = process.wait(program.pid, 0)
    if how ~= "running" then
      story.programs[program.pid] = nil
      program.how, program.status = how, status
      return nil, files.read(program.output)
    end
    local result = check()
    if result then return result end
    story.pause(0.02)
  until cqueues.monotime() > deadline
  error(("%s did not finish within %d seconds"):format(program.name, seconds), 0)
end

-- Shows a command, runs it and waits for it. Returns what it printed.
local function run(arguments)
  say("   $ %s", (table.concat(arguments, " "):gsub(directory:gsub("%p", "%%%0") .. "/", "")))
  local program = start(arguments, signal.SIGKILL)
  local _, output = await(program, function() return false end, STEP_SECONDS)
  os.remove(program.output)
  if program.how == "exited" and program.status == 0 then return output end
  error(("%s failed (it %s with %d):\n%s"):format(program.name, program.how, program.status, output), 0)
end

local function expect(text, wanted, what)
  if not text:find(wanted, 1, true) then error(("%s, but the answer was:\n%s"):format(what, text), 0) end
end

-- Credentials go into files that only this user can read, never into a command line.
local function write_files(port)
  read_line(("cd %s && mkdir certificates image back"):format(files.quote(directory)))
  files.write(in_directory "certificates/ca.crt", files.read(icp.ca))
  files.write(in_directory "id-token-header", "Authorization: Bearer " .. icp.id_token .. "\n")
  files.write(in_directory "auth.json", ('{"auths":{"localhost:%d":{"auth":"%s"}}}'):format(port,
    (mime.b64(icp.username .. ":" .. icp.password))))
  files.write(in_directory "policy.json", '{"default":[{"type":"insecureAcceptAnything"}]}')
end

-- With port 0 the kernel chooses a port; the registry logs which one.
local REGISTRY = [[
version: 0.1
log: { level: info, accesslog: { disabled: true } }
storage: { inmemory: {} }
http: { addr: "127.0.0.1:0", tls: { certificate: "%s", key: "%s" } }
auth:
  token: { realm: "https://%s:%d/image-manager/api/v1/auth/token", service: token-service,
    issuer: registry-token-issuer, rootcertbundle: "%s" }
]]

-- Returns its port.
local function start_registry()
  files.write(in_directory "registry.yml", REGISTRY:format(icp.server_cert, icp.server_key, story.CLUSTER, icp.port,
    icp.token_signing_cert))
  local registry = start({ "docker-registry", "serve", in_directory "registry.yml" }, signal.SIGKILL)
  local port, output = await(registry, function()
    return files.read(registry.output):match "listening on 127%.0%.0%.1:(%d+)"
  end, START_SECONDS)
  if not port then error("docker-registry did not start:\n" .. output, 0) end
  return tonumber(port)
end

-- Added inside http {}: the modules of this tree instead of installed ones, temporary directories that this user can
-- write to, and the address of the registry.
local HTTP = [[
http {
  lua_package_path "%s/lua/?.lua;;";
  lua_package_cpath "%s/build/luajit/?.so;;";
  client_body_temp_path %s/body;
  proxy_temp_path %s/proxy;
  fastcgi_temp_path %s/fastcgi;
  uwsgi_temp_path %s/uwsgi;
  scgi_temp_path %s/scgi;
  upstream %s { server 127.0.0.1:%d; }
]]

-- nginx.conf as users copy it, with the names, paths and ports of this run.
local function make_configuration(port, registry_port)
  local root = read_line "pwd"
  local endpoint = ("%s:%d"):format(story.CLUSTER, icp.port)
  local is_root = read_line "id -u" == "0"
  return story.replace_all(files.read(here .. "/nginx.conf"), {
    { "user www-data;", is_root and "user root;" or "" }, -- only this user may read the CA of the fake ICP
    { "worker_processes auto;", "worker_processes 2;" },
    { "/run/nginx.pid", in_directory "nginx.pid" },
    { "/var/log/nginx/error.log", in_directory "error.log" },
    { "/var/log/nginx/access.log", in_directory "access.log" },
    { "http {\n", HTTP:format(root, root, directory, directory, directory, directory, directory, story.CLUSTER,
      registry_port) },
    { 'host = "mycluster.icp", port = 8443,', ('host = "%s", port = %d, resolve = { ["%s"] = "127.0.0.1" },')
      :format(story.CLUSTER, icp.port, endpoint) },
    { "/etc/icp/ca.crt", icp.ca },
    { "listen 443 ssl", ("listen 127.0.0.1:%d ssl"):format(port) },
    { "server_name registry.example.com;", "server_name localhost;" },
    { "/etc/icp/gateway.crt", icp.server_cert },
    { "/etc/icp/gateway.key", icp.server_key },
    { "proxy_pass https://mycluster.icp:8500;", "proxy_pass https://" .. story.CLUSTER .. ";" },
  })
end

local function read_log()
  local file = io.open(in_directory "error.log", "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

-- Returns its port. nginx writes its pid file once it has that port. Before, another process may answer there.
local function start_nginx(registry_port)
  local problem
  for _ = 1, PORT_ATTEMPTS do
    local port = story.find_free_port()
    files.write(in_directory "nginx.conf", make_configuration(port, registry_port))
    local nginx = start({ "nginx", "-g", "daemon off;", "-e", in_directory "error.log", "-c",
      in_directory "nginx.conf" }, signal.SIGTERM)
    local started, output = await(nginx, function() return files.exists(in_directory "nginx.pid") end, START_SECONDS)
    if started then return port end
    problem = output .. read_log()
    if not problem:find("Address already in use", 1, true) then break end
  end
  error("nginx did not start:\n" .. problem, 0)
end

local function start_all()
  say("The fake ICP:  https://%s:%d", story.CLUSTER, icp.port)
  local registry_port = start_registry()
  say("A registry:    https://%s:%d, which takes the fake ICP's tokens and nothing else", story.CLUSTER, registry_port)
  local port = start_nginx(registry_port)
  say("The gateway:   https://localhost:%d, nginx with %s/nginx.conf for these names and ports", port, here)
  say "File names below are those in a private directory, which is removed at the end.\n"
  return port
end

local function ask_gateway(port, target, ...)
  return run { "curl", "-q", "-sS", "--cacert", in_directory "certificates/ca.crt",
    ("https://localhost:%d%s"):format(port, target), ... }
end

local function show_refusal(port)
  say "1. Without a credential: what any registry answers, with the gateway's own challenge"
  local answer = ask_gateway(port, "/v2/", "--include")
  show(answer)
  expect(answer, " 401", "the gateway should have answered with 401")
  expect(answer:lower(), "\nwww-authenticate: basic realm=", "the gateway should have asked for Basic")
end

local function copy_image(option, from, to)
  show(run { "skopeo", "--policy", in_directory "policy.json", "copy", "--authfile", in_directory "auth.json",
    option, in_directory "certificates", from, to })
end

local function push_image(place)
  say "\n2. A push with a user name and a password, which skopeo has in a file, as docker login leaves them"
  copy_image("--dest-cert-dir", "dir:" .. in_directory "image", place)
end

local function list_catalog(port)
  say "\n3. The list of repositories, with an ID token, which curl has in a file"
  local answer = ask_gateway(port, "/v2/_catalog", "--header", "@" .. in_directory "id-token-header")
  show(answer)
  expect(answer, REPOSITORY, "the list should have held " .. REPOSITORY)
end

local function pull_image(place, contents)
  say "\n4. The image comes back"
  copy_image("--src-cert-dir", place, "dir:" .. in_directory "back")
  if not image.is_same(contents, in_directory "back") then error("what came back is not what was pushed", 0) end
  say "   It is the same, byte for byte."
end

local function show_metrics(port)
  say "\n5. What the gateway counted (without what is zero, and without the buckets of the histograms)"
  local answer = ask_gateway(port, "/metrics")
  expect(answer, 'icptoken_fetches_total{', "the gateway should have given its metrics")
  for line in answer:gmatch "[^\n]+" do
    if not line:find "^#" and not line:find(" 0$") and not line:find "_bucket{" then show(line) end
  end
end

local function check_log()
  for line in read_log():gmatch "[^\n]+" do
    if line:find "%[error%]" or line:find "%[crit%]" or line:find "%[alert%]" or line:find "%[emerg%]" then
      error("nginx wrote into its log:\n" .. line, 0)
    end
  end
end

local function show_all()
  check_programs()
  directory, icp = story.begin()
  local port = start_all()
  write_files(port)
  local contents = image.write(in_directory "image", IMAGE_BYTES).contents
  local place = ("docker://localhost:%d/%s:1"):format(port, REPOSITORY)
  show_refusal(port)
  push_image(place)
  list_catalog(port)
  pull_image(place, contents)
  show_metrics(port)
  check_log()
end

story.tell(show_all)
