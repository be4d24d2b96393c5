-- Requests to a registry: over TLS by openssl; or without TLS, which docker uses on this machine only.

local http = require "icptoken.command.check.http"
local line = require "icptoken.command.check.line"
local openssl = require "icptoken.command.check.openssl"
local probe = require "icptoken.command.check.probe"
local proxies = require "icptoken.command.check.proxies"
local reach = require "icptoken.command.check.reach"
local tls = require "icptoken.command.check.tls"
local trust = require "icptoken.command.check.trust"

local transport = {}
local methods = {}

local DEFAULT_PORT = 443

--- Host and port of a registry's name.
function transport.split(name)
  local host, port = name:match "^(.*):(%d+)$"
  if not host or host:find ":" and not host:find "%]$" then host, port = name, DEFAULT_PORT end
  return host, tonumber(port)
end

local function is_local(host)
  return host == "localhost" or host:find "^127%.%d+%.%d+%.%d+$" ~= nil or host == "[::1]"
end

--- The answer to a GET request, as http.parse returns it, or nil. authorization: the value of that header, or nil.
function methods:get(target, authorization)
  local text = http.request(self.name, target, authorization)
  if self.is_plain then return http.parse(probe.exchange(self.peer.address, self.peer.port, text, self.seconds)) end
  return http.parse(openssl.exchange(self.peer, text, self.seconds))
end

-- Whether the connection is without TLS, and a line if docker would not use it.
local function judge_plain(self)
  local bytes = probe.exchange(self.peer.address, self.peer.port, http.request(self.name, "/v2/"), self.seconds / 2)
  if not bytes:find "^HTTP/" then
    return line.fail("not_tls", "it speaks no TLS that can be used", "Is the port right?")
  end
  self.is_plain = true
  if is_local(self.peer.host) then return nil end
  return line.fail("plain_http", "it speaks HTTP without TLS",
    "Is the port right? Clients use such a registry only where they are told so (insecure-registries).")
end

-- The line for a certificate that not all clients accept, or nil.
local function judge_trust(self, context)
  local options, docker = context.chosen.options, trust.list_directories()
  for _, path in ipairs(trust.list_registry_files(docker, self.name)) do
    if trust.verifies(self.peer, { cacert = path }, self.seconds) then return nil end
  end
  local place = ("/etc/docker/certs.d/%s/ca.crt"):format(self.name)
  local report = openssl.look(self.peer, { cacert = options.cacert, capath = options.capath }, self.seconds)
  if report.is_complete and #report.errors == 0 then
    return line.warn("unknown_ca", "its certificate is of a CA that docker does not know",
      ("docker's requests fail with x509 until %s is at %s"):format(options.cacert or "the CA", place))
  end
  local judged = tls.judge { host = self.peer.host, port = self.peer.port, options = { cacert = options.cacert,
    capath = options.capath }, now = os.time(), cluster_now = nil, code = "tls", message = self.name
    .. " and openssl cannot agree on TLS", report = report, certificate = report.certificates[1]
    and openssl.describe(report.certificates[1]) }
  if judged.cause == "unknown_ca" or judged.cause == "self_signed" then
    judged.advice = ("Clients fail with x509. Put the CA that signed it at %s."):format(place)
  end
  return judged
end

-- Connects to a registry. Returns nil and a line if that fails.
local function connect(context, name)
  local host, port = transport.split(name)
  local options = context.chosen.options
  local found = reach.find_addresses(host, port, options.resolve, context.seconds)
  if #found.addresses == 0 then return nil, reach.judge_lookup(found) end
  local address, failed = reach.find_working(found.addresses, port, context.seconds / 2)
  if not address then
    return nil, reach.judge_connection(nil, failed, port, "Is the port right (ICP's registry has 8500), and is it up?")
  end
  return { host = host, address = address, port = port }
end

--- Opens a registry for requests. Returns an object with the method get, or nil, and a line with what is wrong, or nil.
function transport.open(context, name)
  local host, port = transport.split(name)
  if proxies.find({ scheme = "https", host = host, port = port }, context.chosen.options) then
    return nil, line.warn("proxy", "it is behind a proxy, so it was not checked", "Try it with its clients.")
  end
  local peer, problem = connect(context, name)
  if not peer then return nil, problem end
  local self = setmetatable({ name = name, peer = peer, seconds = context.seconds }, { __index = methods })
  if not openssl.is_installed() then
    if is_local(host) and not judge_plain(self) then return self end
    return nil, line.warn("no_openssl", "the program openssl is not installed, so it was not checked",
      "Install openssl.")
  end
  local report = openssl.look(peer, {}, context.seconds)
  if not report.is_complete then
    problem = report.is_late and line.fail("timeout", "it takes connections but does not answer in TLS",
      "Is the port right, and the service up?") or judge_plain(self)
  elseif not context.chosen.options.insecure then
    problem = #report.errors > 0 and judge_trust(self, context) or nil
  end
  if problem and problem.state == "fail" then return nil, problem end
  return self, problem
end

return transport
