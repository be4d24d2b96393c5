-- Sends an answer over HTTP/1.1 as ordered: with pauses, byte by byte, cut off, without end; and ends a connection
-- in each of the ways a network has. The socket stays owned by the connection's loop in http1.lua, which closes it.

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

-- Reads and forgets until the peer is gone.
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

--- Does to the connection what `ending` says; the caller closes the socket afterwards.
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

-- The bytes in up to three parts with a pause between: up to the end of the head, to the middle of the body, the rest.
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

-- Sends the piece again and again, `limit` bytes or more. The count is of what the system's buffers took.
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

--- What the order makes of the answer: its bytes, and how many of them are head.
function misbehave.render(answer, order)
	if order.raw then
		return order.raw, 0
	end
	local head, body = answers.serialise(answer)
	return head .. body, #head
end

--- Sends the answer, whose wait (gate.lua) is over. Gives how the connection is to end, or nil when it is to be kept.
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
