-- An HTTP proxy that supports only CONNECT: adds each request to the journal, checks Basic credentials if some are set,
-- and relays bytes in both directions. Only orders with the listener "proxy" apply to it.

local cqueues = require "cqueues"
local cqueues_socket = require "cqueues.socket"
local condition = require "cqueues.condition"
local h1_connection = require "http.h1_connection"
local answers = require "answers"
local http1 = require "http1"
local misbehave = require "misbehave"
local text = require "text"

local CONNECT_SECONDS = 10
local PIECE_BYTES = 65536

local LOCAL_NAMES = { ["mycluster.icp"] = "127.0.0.1", localhost = "127.0.0.1" }

local function credential_is_good(icp, request)
  local wanted = icp.settings.proxy_auth
  return not wanted
    or text.find_header(request.headers, "Proxy-Authorization") == "Basic " .. text.encode_base64(wanted)
end

local function connect_to(target)
  local host, port = target:match "^%[?(.-)%]?:(%d+)$"
  if not host or port == "0" or host == "denied.test" then
    return nil, { status = 403, body = "this proxy does not connect to that host\n" }
  end
  local socket = cqueues_socket.connect { host = LOCAL_NAMES[host] or host, port = tonumber(port), nodelay = true }
  socket:onerror(function(_, _, code) return code end)
  if not socket:connect(CONNECT_SECONDS) then
    socket:close()
    return nil, { status = 502, body = "cannot connect\n" }
  end
  return socket
end

-- Returns the target's socket; or nil and the order for the proxy's own answer.
local function open_tunnel(icp, request)
  if request.method ~= "CONNECT" then
    return nil, { status = 403, body = "this proxy supports only CONNECT\n" }
  elseif not credential_is_good(icp, request) then
    local challenge = { { "Proxy-Authenticate", 'Basic realm="stub"' } }
    return nil, { status = 407, headers = challenge, body = "proxy credentials required\n" }
  end
  return connect_to(request.target)
end

local function copy_bytes(from, to)
  while true do
    local bytes = from:xread(-PIECE_BYTES)
    if not bytes or not to:xwrite(bytes, "n") then
      break
    end
  end
  to:shutdown "w"
  from:shutdown "r"
end

local function relay(icp, client, target)
  for _, socket in ipairs { client, target } do
    socket:setmode("b", "bf")
    socket:setvbuf("full", math.huge)
    socket:onerror(function(_, _, code) return code end)
  end
  local answered = condition.new()
  local is_over = false
  icp.loop:wrap(function()
    pcall(copy_bytes, target, client)
    is_over = true
    answered:signal()
  end)
  copy_bytes(client, target)
  while not is_over do
    cqueues.poll(answered)
  end
  target:close()
end

local function has_order(order)
  return order.status or order.raw or order["end"] or order.body
end

--- Serves one connection to the proxy; the socket belongs to the caller.
local function serve(icp, socket, row, entry)
  local connection = h1_connection.new(socket, "server", 1.1)
  local ending
  repeat
    local request = http1.read_request(connection)
    if not request then
      return
    end
    request.listener, request.connection = row.name, entry.connection
    request.tls, request.client_cert = false, false
    icp.journal:add_request(request, entry)
    local order = icp.plan:take_for_request(request)
    icp.gate:pass(request, order)
    if not has_order(order) then
      local target, refusal = open_tunnel(icp, request)
      if target then
        socket:xwrite("HTTP/1.1 200 Connection established\r\n\r\n", "n")
        return relay(icp, socket, target)
      end
      refusal.delay = {}
      order = refusal
    end
    ending = misbehave.deliver(socket, request, answers.build(icp, request, order), order)
  until ending
  misbehave.end_connection(socket, ending)
end

return { serve = serve }
