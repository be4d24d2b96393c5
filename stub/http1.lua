-- Serves one HTTP/1.1 connection: reads requests with lua-http, adds each to the journal, and sends the answer as an
-- order says. The caller closes the socket.

local h1_connection = require "http.h1_connection"
local answers = require "answers"
local misbehave = require "misbehave"
local text = require "text"

local IDLE_SECONDS = 300
local REQUEST_SECONDS = 60

local http1 = {}

local function read_headers(connection)
  local headers = {}
  while true do
    local name, value = connection:read_header(REQUEST_SECONDS)
    if not name then
      -- at the blank line there is no error message in place of the value
      return not value and connection:read_headers_done(REQUEST_SECONDS) and headers or nil
    end
    table.insert(headers, { name, value })
  end
end

local function read_chunked_body(connection)
  local chunks = {}
  while true do
    local chunk = connection:read_body_chunk(REQUEST_SECONDS)
    if chunk == nil then
      return nil
    elseif chunk == false then
      return read_headers(connection) and table.concat(chunks)
    end
    table.insert(chunks, chunk)
  end
end

local function read_body(connection, headers)
  if (text.find_header(headers, "Expect") or ""):lower() == "100-continue" then
    connection.socket:xwrite("HTTP/1.1 100 Continue\r\n\r\n", "n")
  end
  if text.find_header(headers, "Transfer-Encoding") then
    return read_chunked_body(connection)
  end
  local length = tonumber(text.find_header(headers, "Content-Length") or 0)
  if length == 0 then
    return ""
  end
  return length and connection:read_body_by_length(length, REQUEST_SECONDS)
end

--- Returns the next request, or nil if the connection was closed or the request is malformed.
function http1.read_request(connection)
  local method, target, version = connection:read_request_line(IDLE_SECONDS)
  local headers = method and read_headers(connection)
  local body = headers and read_body(connection, headers)
  if not body then
    return nil
  end
  local path, query = text.parse_target(target)
  return {
    version = ("%.1f"):format(version), method = method, target = target, path = path, query = query,
    headers = headers, body = body,
  }
end

--- Serves the connection until either side closes it. `about`: fields that all its requests have (listener, connection,
-- tls, client_cert).
function http1.serve(icp, socket, about, entry)
  local connection = h1_connection.new(socket, "server", 1.1)
  local ending
  repeat
    local request = http1.read_request(connection)
    if not request then
      return misbehave.end_connection(socket, "close")
    end
    for name, value in pairs(about) do
      request[name] = value
    end
    icp.journal:add_request(request, entry)
    local order = icp.plan:take_for_request(request)
    icp.gate:pass(request, order)
    ending = misbehave.deliver(socket, request, answers.build(icp, request, order), order)
  until ending
  misbehave.end_connection(socket, ending)
end

return http1
