-- Sends an answer over HTTP/1.1 as an order says: with pauses, byte by byte, truncated, endless; and shuts a connection
-- down in various ways. The caller closes the socket.

local cqueues = require "cqueues"
local answers = require "answers"
local system = require "system"

local PIECE_BYTES = 65536
local ENDLESS_BYTES = 50e6
local FILLER = ("filler "):rep(30)

local misbehave = {}

local function send(socket, bytes)
  return bytes == "" or socket:xwrite(bytes, "n")
end

-- Reads and discards until the peer has closed the connection.
local function wait_for_peer(socket)
  repeat
    local bytes = socket:xread(-4096)
  until not bytes
end

local endings = {}

function endings.close(socket)
  local ssl = socket:checktls()
  if ssl then
    system.send_close_notify(ssl)
  end
  system.end_sending(socket:pollfd())
end

function endings.abort(socket)
  system.shut_down(socket:pollfd())
end

function endings.reset(socket)
  system.reset_on_close(socket:pollfd())
end

endings.hold = wait_for_peer

--- Shuts a connection down: "close", "abort", "reset", or "hold" (see icp.lua). The caller closes the socket
-- afterwards.
function misbehave.end_connection(socket, ending)
  endings[ending](socket)
end

local function pause(seconds)
  if seconds then
    cqueues.sleep(seconds)
  end
end

local function drip(socket, bytes, seconds)
  for i = 1, #bytes do
    if not send(socket, bytes:sub(i, i)) then
      return false
    end
    cqueues.sleep(seconds)
  end
  return true
end

-- Sends the bytes in up to three parts with pauses in between: the head, half of the body, the rest.
local function send_in_parts(socket, bytes, head_length, delay)
  local middle = head_length + math.floor((#bytes - head_length) / 2)
  local at = 0
  for _, part in ipairs { { head_length, delay.head }, { middle, delay.body } } do
    local upto, seconds = part[1], part[2]
    if seconds and upto < #bytes then
      if not send(socket, bytes:sub(at + 1, upto)) then
        return false
      end
      at = upto
      pause(seconds)
    end
  end
  return send(socket, bytes:sub(at + 1))
end

local function send_bytes(socket, bytes, head_length, delay)
  if delay.drip then
    return drip(socket, bytes, delay.drip)
  end
  return send_in_parts(socket, bytes, head_length, delay)
end

-- Sends a piece repeatedly, at least `limit` bytes in all, and counts what the socket's buffer accepted in
-- request.taken.
local function send_repeated(socket, request, piece, limit)
  piece = piece:rep(math.ceil(PIECE_BYTES / #piece))
  while request.taken < limit do
    if not send(socket, piece) then
      return false
    end
    request.taken = request.taken + #piece
  end
  return true
end

local endless = {}

function endless.body(socket, request, answer, limit)
  local piece = ("x"):rep(PIECE_BYTES)
  if answer.framing == "chunked" then
    piece = ("%x\r\n%s\r\n"):format(PIECE_BYTES, piece)
  end
  answer.body = ""
  local head, last = answers.serialise(answer, math.ceil(limit / PIECE_BYTES) * PIECE_BYTES)
  return send(socket, head) and send_repeated(socket, request, piece, limit) and send(socket, last)
end

function endless.headers(socket, request, answer, limit)
  local head, body = answers.serialise(answer)
  local status_line, rest = head:match "^(.-\r\n)(.*)$"
  return send(socket, status_line) and send_repeated(socket, request, "X-Filler: " .. FILLER .. "\r\n", limit)
    and send(socket, rest .. body)
end

function endless.interim(socket, request, answer, limit)
  local interim = "HTTP/1.1 103 Early Hints\r\nX-Filler: " .. FILLER .. "\r\n\r\n"
  local head, body = answers.serialise(answer)
  return send_repeated(socket, request, interim, limit) and send(socket, head .. body)
end

function endless.trailers(socket, request, answer, limit)
  answer.framing = "chunked"
  local head, body = answers.serialise(answer)
  return send(socket, head .. body:sub(1, -3))
    and send_repeated(socket, request, "X-Filler: " .. FILLER .. "\r\n", limit) and send(socket, "\r\n")
end

--- Returns the bytes of the answer under an order, and how many of them are the head.
function misbehave.render(answer, order)
  if order.raw then
    return order.raw, 0
  end
  local head, body = answers.serialise(answer)
  return head .. body, #head
end

--- Sends the answer. Returns how the connection is to be shut down, or nil to keep it.
function misbehave.deliver(socket, request, answer, order)
  local sent
  if order.endless then
    request.taken = 0
    sent = endless[order.endless](socket, request, answer, order.bytes or ENDLESS_BYTES)
  else
    local bytes, head_length = misbehave.render(answer, order)
    sent = send_bytes(socket, bytes:sub(1, order.cut or -1), head_length, order.delay)
  end
  pause(order.delay.after)
  if not sent then
    return "close"
  end
  return order["end"] or answer.closes and "close" or nil
end

return misbehave
