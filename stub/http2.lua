-- Serves one HTTP/2 connection with lua-http, each stream in its own coroutine. Orders about the bytes of HTTP/1.1
-- (raw, cut, framing, endless, …) are not supported and answered with 500.

local cqueues = require "cqueues"
local condition = require "cqueues.condition"
local errno = require "cqueues.errno"
local h2_connection = require "http.h2_connection"
local h2_error = require "http.h2_error"
local new_headers = require "http.headers".new
local answers = require "answers"
local text = require "text"

local IDLE_SECONDS = 300
local REQUEST_SECONDS = 60
local NOT_HERE = { "raw", "cut", "endless", "framing", "keep_alive", "close_idle" }

local function read_request(stream)
  local fields = stream:get_headers(REQUEST_SECONDS)
  local body = fields and stream:get_body_as_string(REQUEST_SECONDS)
  if not body then
    return nil
  end
  local headers = {}
  for name, value in fields:each() do
    table.insert(headers, { name, value })
  end
  local target = fields:get ":path"
  local path, query = text.parse_target(target)
  return {
    version = "2", method = fields:get ":method", target = target, path = path, query = query,
    headers = headers, body = body,
  }
end

local function find_misplaced(order)
  for _, name in ipairs(NOT_HERE) do
    if order[name] ~= nil then
      return name
    end
  end
  local ending = order["end"]
  if order.delay.drip then
    return "drip"
  elseif ending and ending ~= "reset" and ending ~= "hold" then
    return "end"
  end
end

local function has_body(answer)
  return answer.body ~= "" and not answer.to_head
end

local function send_headers(stream, answer)
  local fields = new_headers()
  fields:append(":status", tostring(answer.status))
  for _, header in ipairs(answers.list_headers(answer)) do
    fields:append(header[1]:lower(), header[2])
  end
  return stream:write_headers(fields, not has_body(answer), REQUEST_SECONDS)
end

local function pause(seconds)
  if seconds then
    cqueues.sleep(seconds)
  end
end

local function send_body(stream, body, delay)
  local middle = delay.body and math.floor(#body / 2) or 0
  if middle > 0 then
    stream:write_chunk(body:sub(1, middle), false, REQUEST_SECONDS)
    pause(delay.body)
  end
  return stream:write_chunk(body:sub(middle + 1), true, REQUEST_SECONDS)
end

-- Waits until the client resets the stream or closes the connection.
local function wait_for_end(stream, over)
  while stream.state ~= "closed" and not over.reached do
    cqueues.poll(stream.recv_headers_cond, over.condition)
  end
end

local function send_answer(stream, answer, order, over)
  if order["end"] == "reset" then
    return stream:rst_stream(h2_error.errors.INTERNAL_ERROR:new { message = "ordered", stream_error = true })
  elseif order["end"] == "hold" then
    return wait_for_end(stream, over)
  end
  if send_headers(stream, answer) and has_body(answer) then
    pause(order.delay.head)
    send_body(stream, answer.body, order.delay)
  end
end

local function serve_stream(icp, stream, about, entry, over)
  local request = read_request(stream)
  if not request then
    return
  end
  for name, value in pairs(about) do
    request[name] = value
  end
  icp.journal:add_request(request, entry)
  local order = icp.plan:take_for_request(request)
  local misplaced = find_misplaced(order)
  if misplaced then
    order = { status = 500, body = misplaced .. " cannot be ordered over HTTP/2\n", delay = {} }
  end
  icp.gate:pass(request, order)
  if not over.reached then
    send_answer(stream, answers.build(icp, request, order), order, over)
  end
end

local function start_stream(icp, stream, about, entry, over)
  icp.loop:wrap(function()
    local ok, why = pcall(serve_stream, icp, stream, about, entry, over)
    if not ok then
      icp:report("HTTP/2 stream", why)
    end
    pcall(stream.shutdown, stream)
  end)
end

--- Serves the connection until either side closes it, and closes the socket.
local function serve(icp, socket, about, entry)
  local connection = h2_connection.new(socket, "server")
  local became_idle, is_idle = condition.new(), true
  local over = { condition = condition.new(), reached = false }
  connection:onidle(function()
    is_idle = true
    became_idle:signal()
  end)
  while true do
    local stream, _, code = connection:get_next_incoming_stream(IDLE_SECONDS)
    if stream then
      is_idle = false
      start_stream(icp, stream, about, entry, over)
    elseif code ~= errno.ETIMEDOUT or is_idle then
      break
    end
  end
  over.reached = true
  over.condition:signal()
  if not is_idle then
    became_idle:wait(REQUEST_SECONDS)
  end
  connection:close()
end

return { serve = serve }
