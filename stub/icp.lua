-- A fake IBM Cloud Private over HTTPS, for specs, demos, benchmarks, and tests of other software. Runs on LuaJIT with
-- Debian's lua-http, lua-cqueues, lua-luaossl and lua-cjson; luajit stub/icp.lua --help shows its options. It writes
-- certificates, keys and an ID token into a private directory, which it removes when it exits; or into --dir, where
-- they remain.
--
-- It answers as ICP's token endpoint, identity provider and registry (only /v2/) do, on several ports: with a valid
-- certificate, with invalid ones, with old TLS, a proxy, and so on (the table in listeners.lua). With --controlled it
-- reads commands from a control connection, one line of JSON each, and exits when that closes (control.lua). client.lua
-- does all that from Lua.
--
--   {"do":"plan","orders":[order, …]}   appends orders, which change answers
--   {"do":"reset"}                      removes orders and log, and restores the settings
--   {"do":"log"}                        {"requests":[entry, …], "accepted":{listener:connections}, "dropped":n}
--   {"do":"set", setting:value, …}      changes settings (make_default_settings below)
--   {"do":"render","order":{…},"target":"/path?query"}   {"length":n,"head":n} of the answer under that order
--   {"do":"stop"}
--
-- A log entry has type "connect" (listener, connection, tls, requests, error) or "request" (listener, connection,
-- version, tls, client_cert, method, target, path, query, headers, body, time; waiting, the number of requests that
-- waited for an answer when it arrived, including itself; taken, the bytes that were sent of an endless answer).
--
-- An order applies to the next request that fits its "listener" and "path", or to the next "times":n ones, or to all
-- with "times":"forever". Only orders with the listener "proxy" apply to the proxy. Fields:
--   of the token answer   expires_in, issued_at (false: none), token, claims ({"exp_in":n} is now + n; false: none),
--                         omit (list of fields), extra (more fields)
--   of any answer         status, headers ([name, value] replaces, value false removes one), body, date (false: none),
--                         framing (length, chunked, close), redirect (a URL), keep_alive (false: says close)
--   of its bytes          raw or raw64 (sent in place of an answer), cut (only the first n bytes are sent),
--                         end: close (close_notify and FIN), abort (FIN alone), reset (RST), hold (open and silent);
--                         close after raw and cut when none is said; close_idle: the same as "end":"close"
--   of its time           delay: {before, head (after the head), body (in its middle), drip (a byte), after}, seconds
--                         together: n; the answer waits until n requests with the same n are there
--   of an endless one     endless: body, headers, interim, trailers; bytes (50 MB) after which it is completed
--   "at":"connect"        applies the order to the next connection instead: end, and delay.before, once its first bytes
--                         (of the TLS handshake) have arrived
-- Over HTTP/2 an order may have status, headers, body, redirect, delay (not drip), date, end reset or hold, and those
-- of the token answer; others are answered with 500. Commands and answers are handled one after the other: when a
-- command is answered, earlier answers are complete.

local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;" .. package.path

local cqueues = require "cqueues"
local signal = require "cqueues.signal"
local cjson = require "cjson"
local certificates = require "certificates"
local control = require "control"
local gate = require "gate"
local identity_provider = require "identity_provider"
local journal = require "journal"
local jwt = require "jwt"
local listeners = require "listeners"
local plan = require "plan"
local system = require "system"
local token_endpoint = require "token_endpoint"

local USAGE = [[
usage: luajit stub/icp.lua [--dir DIR] [--port N] [--bind ADDRESS] [--lifetime SECONDS] [--plain] [--controlled]

  --dir DIR       write new certificates, keys and an ID token there, and leave them (default: a private directory,
                  removed on exit)
  --port N        port of the main listener (default: any free one)
  --bind ADDRESS  address to listen on (default 127.0.0.1)
  --lifetime SECONDS
                  how long tokens are valid (default 1800)
  --plain         only HTTP without TLS
  --controlled    print a line of JSON, read commands on the control port in it, exit when that connection closes
  --help          this text

environment:
  STUB_TOKEN_KEY  a file with an RSA key in PEM, which signs tokens (default: a new key, which takes most of the time of
                  a start)

It runs until Ctrl-C. The comment at the head of stub/icp.lua lists the commands and the fields of an order.
]]

-- The settings, which {"do":"set"} changes. expires_in and id_token_expires_in are seconds, users maps names to
-- passwords, id_tokens lists more ID tokens to accept, clock_offset shifts the server's clock (seconds), proxy_auth is
-- the "user:password" that the proxy requires, or false. denied lists repositories to which nobody has access, and
-- denial is how the token endpoint answers for them: "403", or "less" for a token without that access.
-- registry_realm and registry_service are what the registry's challenge says (registry.lua); an empty realm is the
-- endpoint of the stub.
local function make_default_settings(lifetime)
  return {
    expires_in = lifetime or 1800, id_token_expires_in = 43199, users = { admin = "admin" }, id_tokens = {},
    clock_offset = 0, proxy_auth = false, denied = {}, denial = "403",
    registry_realm = "", registry_service = "token-service",
  }
end

local icp_methods = {}

--- Returns the time of the server's clock, in seconds since 1970.
function icp_methods:now()
  return os.time() + self.settings.clock_offset
end

--- Reports an internal error on stderr.
function icp_methods.report(_, where, why)
  io.stderr:write("stub: ", where, ": ", tostring(why), "\n")
end

--- Changes settings. Raises, and changes nothing, if one is unknown or has the wrong type.
function icp_methods:set(changes)
  local defaults = make_default_settings()
  for name, value in pairs(changes) do
    local wanted = type(defaults[name])
    if wanted == "nil" then
      error("unknown setting " .. tostring(name), 0)
    elseif type(value) ~= wanted and name ~= "proxy_auth" then
      error(("setting %s must be a %s"):format(name, wanted), 0)
    end
  end
  for name, value in pairs(changes) do
    self.settings[name] = value
  end
  for _, id_token in ipairs(changes.id_tokens or {}) do
    self.id_tokens[id_token] = { user = "admin" }
  end
end

--- Restores the state after the start: no orders, no log, default settings, and only the first ID token.
function icp_methods:restore()
  self.settings = make_default_settings(self.lifetime)
  self.id_tokens = { [self.id_token] = { user = "admin" } }
  self.access_tokens = {}
  self.gate:open()
  self.gate = gate.new()
  self.plan:clear()
  self.journal:clear()
end

function icp_methods:stop()
  self.stopping = true
end

local function read_arguments()
  local options = { bind = "127.0.0.1", port = 0 }
  local takes_value = { dir = true, port = true, bind = true, lifetime = true }
  local is_switch = { plain = true, controlled = true, help = true }
  local i = 1
  while arg[i] do
    local name = arg[i]:match "^%-%-(%l+)$"
    if takes_value[name] and arg[i + 1] then
      options[name] = arg[i + 1]
      i = i + 1
    elseif is_switch[name] then
      options[name] = true
    else
      io.stderr:write("stub: unknown option or missing value: ", arg[i], "\n", USAGE)
      os.exit(2)
    end
    i = i + 1
  end
  for _, name in ipairs { "port", "lifetime" } do
    local text = options[name]
    options[name] = tonumber(text)
    if text and not options[name] then
      io.stderr:write("stub: --", name, " needs a number\n")
      os.exit(2)
    end
  end
  return options
end

local function make_icp(options, made)
  local icp = setmetatable({
    loop = cqueues.new(), plan = plan.new(), gate = gate.new(),
    journal = journal.new(not options.controlled),
    signer = jwt.new_signer(made.token_signing.key), settings = make_default_settings(options.lifetime), id_tokens = {},
    lifetime = options.lifetime,
  }, { __index = icp_methods })
  icp.id_token = identity_provider.issue_id_token(icp, "admin")
  icp:restore()
  return icp
end

local function write_id_token(directory, id_token)
  local path = directory .. "/id_token"
  local file = assert(io.open(path, "w"))
  assert(file:write(id_token, "\n"))
  file:close()
  return path
end

local INTRODUCTION = [[
A fake ICP listens at $ADDRESS

  CA certificate   $CA
  ID token         in the file $ID_TOKEN_FILE
  user, password   admin, admin
  for tests        $OTHERS
                   (ports with bad certificates, old TLS, a proxy and so on: see stub/listeners.lua)

With curl:

  printf 'Authorization: Bearer %s' "$(cat $ID_TOKEN_FILE)" |
    curl --header @- $CURL_CA'$ADDRESS$PATH?service=token-service&scope=repository:default/app:pull'

With Lua:

  local icptoken = require "icptoken"
  local tok = assert(icptoken.fetch {
    $ENDPOINT
    id_token_file = "$ID_TOKEN_FILE",
    service = "token-service", scope = "repository:default/app:pull",
  })
  print(tok.token, tok.expires_in)

In front of a registry, in nginx.conf:

  gateway = require("icptoken.gateway").new { $ENDPOINT service = "token-service" }

and for a docker-registry that takes its tokens:

  auth:
    token: { realm: "$ADDRESS$PATH", service: token-service,
      issuer: registry-token-issuer, rootcertbundle: "$TOKEN_CA" }

Requests are shown below. Ctrl-C stops it.

]]

local function list_other_ports(ports, main)
  local others = {}
  for name, port in pairs(ports) do
    if name ~= main then
      table.insert(others, name .. " " .. port)
    end
  end
  table.sort(others)
  return table.concat(others, ", ")
end

local function introduce(ready, main)
  local is_plain = main == "http"
  local address = (is_plain and "http" or "https") .. "://localhost:" .. ready.port
  local words = {
    ADDRESS = address, PATH = token_endpoint.PATH, CA = ready.ca, TOKEN_CA = ready.token_signing_cert,
    ID_TOKEN_FILE = ready.id_token_file, OTHERS = list_other_ports(ready.ports, main),
    CURL_CA = is_plain and "" or "--cacert " .. ready.ca .. " ",
    ENDPOINT = is_plain and ('url = "%s%s",'):format(address, token_endpoint.PATH)
      or ('host = "localhost", port = %d, cacert = "%s",'):format(ready.port, ready.ca),
  }
  io.stdout:write((INTRODUCTION:gsub("%$([%u_]+)", words)))
  io.stdout:flush()
end

local function describe_ready(icp, made, paths, ports, main, directory)
  local ready = {
    ready = true, host = "localhost", port = ports[main], ports = ports, dir = directory,
    pid = system.read_process_id(),
    pin = jwt.compute_pin(made.server.key), key_name = icp.signer.key_name,
    id_token = icp.id_token, username = "admin", password = "admin",
  }
  for name, path in pairs(paths) do
    ready[name] = path
  end
  return ready
end

-- A controlled stub ignores Ctrl-C, as a spec on the same terminal may test just that.
local function stop_on_signals(icp, ...)
  signal.ignore(signal.SIGPIPE, signal.SIGINT, signal.SIGHUP)
  signal.block(...)
  local listener = signal.listen(...)
  icp.loop:wrap(function()
    listener:wait()
    icp:stop()
  end)
end

local function run(icp)
  while not icp.stopping do
    local ok, why = icp.loop:step()
    if not ok then
      icp:report("event loop", why)
    end
  end
end

local function remove_files(paths, directory)
  for _, path in pairs(paths) do
    os.remove(path)
  end
  system.remove_directory(directory)
end

local function serve(options, directory, paths)
  local made = certificates.make_all(os.getenv "STUB_TOKEN_KEY")
  local client_key_password = jwt.make_identifier(8)
  certificates.write_all(made, directory, client_key_password, paths)
  local icp = make_icp(options, made)
  paths.id_token_file = write_id_token(directory, icp.id_token)
  if options.controlled then
    stop_on_signals(icp, signal.SIGTERM)
  else
    stop_on_signals(icp, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  end
  local ports, main = listeners.open_all(icp, options, made)
  local ready = describe_ready(icp, made, paths, ports, main, directory)
  ready.client_key_password = client_key_password
  if options.controlled then
    ready.control = control.open(icp)
    io.stdout:write(cjson.encode(ready), "\n")
    io.stdout:flush()
  else
    introduce(ready, main)
  end
  run(icp)
end

local function main()
  local options = read_arguments()
  if options.help then
    io.stdout:write(USAGE)
    return 0
  end
  system.close_inherited_descriptors()
  system.raise_descriptor_limit()
  system.make_files_private()
  local directory = options.dir and system.make_directory(options.dir) or system.make_temporary_directory()
  local paths = {}
  local ok, why = pcall(serve, options, directory, paths)
  if not options.dir then
    remove_files(paths, directory)
  end
  if not ok then
    io.stderr:write("stub: ", tostring(why), "\n")
  end
  return ok and 0 or 1
end

os.exit(main())
