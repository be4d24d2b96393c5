-- Opens the stub's ports and serves their connections, each in its own coroutine. A row of the table says which
-- certificate a listener has and how it behaves.

local cqueues = require "cqueues"
local cqueues_socket = require "cqueues.socket"
local errno = require "cqueues.errno"
local openssl_context = require "openssl.ssl.context"
local openssl_store = require "openssl.x509.store"
local http1 = require "http1"
local http2 = require "http2"
local misbehave = require "misbehave"
local proxy = require "proxy"
local system = require "system"

local HANDSHAKE_SECONDS = 120
local ALERT_SECONDS = 60
local COLLECT_EVERY = 200
local BANNER = "SSH-2.0-OpenSSH_9\r\n"

-- offers: the ALPN names, in order of preference.
local BOTH, OLD_ONLY = { "h2", "http/1.1" }, { "http/1.1" }
local ROWS = {
  { name = "https", certificate = "server", offers = BOTH },
  { name = "http" },
  { name = "expired", certificate = "expired", offers = BOTH },
  { name = "not_yet_valid", certificate = "not_yet_valid", offers = BOTH },
  { name = "self_signed", certificate = "self_signed", offers = BOTH },
  { name = "wrong_host", certificate = "wrong_host", offers = BOTH },
  { name = "unknown_ca", certificate = "unknown_ca", offers = BOTH },
  { name = "tls11", certificate = "server", offers = OLD_ONLY, protocol = "TLSv1_1", ciphers = "ALL:@SECLEVEL=0" },
  { name = "tls12", certificate = "server", offers = BOTH, protocol = "TLSv1_2" },
  { name = "client_cert", certificate = "server", offers = BOTH, asks_certificate = true },
  { name = "h1", certificate = "server", offers = OLD_ONLY },
  { name = "hang", behaviour = "hang" },
  { name = "banner", behaviour = "banner" },
  { name = "proxy", behaviour = "proxy" },
}

local TLS_VERSIONS = { [0x301] = "1.0", [0x302] = "1.1", [0x303] = "1.2", [0x304] = "1.3" }

local function contains(list, wanted)
  for _, value in ipairs(list) do
    if value == wanted then
      return true
    end
  end
end

local function select_protocol(_, offered, ours)
  for _, name in ipairs(ours) do
    if contains(offered, name) then
      return name
    end
  end
end

local function make_context(row, certificates)
  local context = openssl_context.new(row.protocol or "TLS", true)
  if row.ciphers then
    context:setCipherList(row.ciphers)
  end
  context:setCertificate(certificates[row.certificate].certificate)
  context:setPrivateKey(certificates[row.certificate].key)
  context:setAlpnSelect(select_protocol, row.offers)
  if row.asks_certificate then
    local store = openssl_store.new()
    store:add(certificates.authority.certificate)
    context:setStore(store)
    context:setVerify(openssl_context.VERIFY_PEER + openssl_context.VERIFY_FAIL_IF_NO_PEER_CERT)
  end
  return context
end

local function read_client_name(ssl)
  local certificate = ssl:getPeerCertificate()
  return certificate and tostring(certificate:getSubject()):match "CN=(.*)$" or false
end

-- An order at "connect" takes effect when the client's first bytes have arrived, so that its connect() has succeeded.
local function interrupt_connection(socket, order)
  if order.delay.before then
    cqueues.sleep(order.delay.before)
  end
  if order["end"] ~= "hold" then
    socket:xread(-65536, HANDSHAKE_SECONDS)
  end
  misbehave.end_connection(socket, order["end"])
end

-- Closing with unread bytes would send RST, which may overtake the TLS alert.
local function let_alert_arrive(socket)
  local fd = socket:pollfd()
  local deadline = cqueues.monotime() + ALERT_SECONDS
  system.end_sending(fd)
  while system.discard_arrived(fd) and cqueues.monotime() < deadline do
    cqueues.poll({ pollfd = fd, events = "r" }, deadline - cqueues.monotime())
  end
  cqueues.cancel(fd)
end

local function start_tls(socket, context, about, entry)
  local ok, why = socket:starttls(context, HANDSHAKE_SECONDS)
  if not ok then
    entry.error = tostring(why)
    let_alert_arrive(socket)
    return nil
  end
  local ssl = socket:checktls()
  about.tls = TLS_VERSIONS[ssl:getVersion()] or "?"
  about.client_cert = read_client_name(ssl)
  entry.tls = about.tls
  return ssl:getAlpnSelected() == "h2" and http2 or http1
end

local function serve_http(icp, socket, row, entry)
  local about = { listener = row.name, connection = entry.connection, tls = false, client_cert = false }
  local order = icp.plan:take_for_connection(row.name)
  if order then
    return interrupt_connection(socket, order)
  end
  local protocol = http1
  if row.context then
    protocol = start_tls(socket, row.context, about, entry)
  end
  if protocol then
    protocol.serve(icp, socket, about, entry)
  end
end

local behaviours = { proxy = proxy.serve }

function behaviours.hang(_, socket)
  misbehave.end_connection(socket, "hold")
end

function behaviours.banner(_, socket)
  socket:xwrite(BANNER, "n")
  misbehave.end_connection(socket, "hold")
end

local function explain_error(_, _, code)
  return errno.strerror(code), code
end

-- Lua's collector does not see libcrypto's memory and would keep thousands of closed TLS connections.
local function collect_sometimes(icp)
  icp.until_collect = (icp.until_collect or COLLECT_EVERY) - 1
  if icp.until_collect <= 0 then
    icp.until_collect = COLLECT_EVERY
    collectgarbage()
  end
end

local function serve_connection(icp, socket, row)
  local entry = icp.journal:add_connection(row.name)
  socket:onerror(explain_error)
  socket:setmode("b", "bf")
  socket:setvbuf("full", math.huge)
  local serve = behaviours[row.behaviour] or serve_http
  local ok, why = pcall(serve, icp, socket, row, entry)
  if not ok then
    icp:report("connection to " .. row.name, why)
  end
  socket:close()
  collect_sometimes(icp)
end

local function accept_forever(icp, listening, row)
  while true do
    local socket, code = listening:accept({ nodelay = true }, 0)
    if socket then
      icp.loop:wrap(serve_connection, icp, socket, row)
    elseif code == errno.ETIMEDOUT then
      cqueues.poll(listening)
    else
      collectgarbage()
      cqueues.sleep(0.01)
    end
  end
end

local function listen_on(host, port)
  local listening = cqueues_socket.listen { host = host, port = port, reuseaddr = true }
  listening:onerror(function(_, _, code) return code end)
  local ok, code = listening:listen()
  if not ok then
    listening:close()
    return nil, errno.strerror(code)
  end
  local _, _, bound = listening:localname()
  return listening, bound
end

local function serve_port(icp, row, host, port)
  local listening, bound = listen_on(host, port)
  if not listening then
    error(("cannot listen on %s port %d: %s"):format(host, port, bound), 0)
  end
  icp.loop:wrap(accept_forever, icp, listening, row)
  return bound
end

-- Opens the same port on ::1, for a client that tries IPv6 first. If there is no IPv6, or the port is in use there, the
-- client falls back to 127.0.0.1.
local function serve_ipv6_too(icp, row, port)
  local listening = listen_on("::1", port)
  if listening then
    icp.loop:wrap(accept_forever, icp, listening, row)
  end
end

--- Opens all ports (with --plain only the one without TLS). Returns { name = port } and the name of the main one.
local function open_all(icp, options, certificates)
  local ports = { refuse = system.reserve_refusing_port() }
  local main = options.plain and "http" or "https"
  for _, row in ipairs(ROWS) do
    if row.name == main or not options.plain then
      if row.certificate then
        row.context = make_context(row, certificates)
      end
      local is_main = row.name == main
      ports[row.name] = serve_port(icp, row, options.bind, is_main and options.port or 0)
      if is_main and options.bind == "127.0.0.1" then
        serve_ipv6_too(icp, row, ports[row.name])
      end
    end
  end
  return ports, main
end

return { open_all = open_all }
