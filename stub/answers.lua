-- Builds the answer to a request: ICP's, as modified by an order; and its bytes in HTTP/1.1. An answer has the fields
-- status, headers (a header list without framing), body, framing ("length", "chunked", "close"), closes, to_head
-- (whether it answers a HEAD request and so has no body).

local reasons = require "http.h1_reason_phrases"
local identity_provider = require "identity_provider"
local registry = require "registry"
local text = require "text"
local token_endpoint = require "token_endpoint"

local CHUNK_BYTES = 512

local routes = {
  [token_endpoint.PATH] = token_endpoint.answer_request,
  [identity_provider.LOGIN_PATH] = identity_provider.log_in,
  [identity_provider.EXCHANGE_PATH] = identity_provider.exchange_token,
  [registry.PATH] = registry.ping,
}

local answers = {}

local function answer_normally(icp, request, order)
  local route = routes[request.path]
  if not route then
    return { status = 404, content_type = "text/html", body = "<html><body>404 Not Found</body></html>\n" }
  end
  return route(icp, request, order)
end

local function choose_content(icp, request, order)
  if order.redirect then
    return { status = order.status or 302, location = order.redirect, body = order.body or "" }
  elseif order.status or order.body then
    return { status = order.status or 200, content_type = "application/json", body = order.body or "" }
  end
  return answer_normally(icp, request, order)
end

-- A header of an order replaces the one of that name; with the value false it removes it.
local function apply_headers(headers, ordered)
  local replaced, kept = {}, {}
  for _, header in ipairs(ordered) do
    replaced[header[1]:lower()] = true
  end
  for _, header in ipairs(headers) do
    if not replaced[header[1]:lower()] then
      table.insert(kept, header)
    end
  end
  for _, header in ipairs(ordered) do
    if header[2] then
      table.insert(kept, header)
    end
  end
  return kept
end

local function choose_date(icp, order)
  if order.date == nil then
    return text.format_http_date(icp:now())
  end
  return order.date
end

local function wants_close(request, order)
  local connection = text.find_header(request.headers, "Connection") or ""
  return order.keep_alive == false or order.framing == "close" or connection:lower() == "close"
    or request.version == "1.0"
end

--- Returns the answer to a request under an order.
function answers.build(icp, request, order)
  local content = choose_content(icp, request, order)
  local headers = {}
  local function add(name, value)
    if value then
      table.insert(headers, { name, value })
    end
  end
  add("Date", choose_date(icp, order))
  add("Content-Type", content.content_type)
  add("Location", content.location)
  add("WWW-Authenticate", content.challenge)
  return {
    status = content.status, headers = headers, ordered_headers = order.headers or {}, body = content.body,
    framing = order.framing or "length", closes = wants_close(request, order), to_head = request.method == "HEAD",
  }
end

--- Returns the header list for HTTP/2, which has its own framing and no Connection header.
function answers.list_headers(answer)
  local headers = { unpack(answer.headers) }
  table.insert(headers, { "Content-Length", ("%d"):format(#answer.body) })
  return apply_headers(headers, answer.ordered_headers)
end

local function chunk_body(body)
  local chunks = {}
  for at = 1, #body, CHUNK_BYTES do
    local chunk = body:sub(at, at + CHUNK_BYTES - 1)
    table.insert(chunks, ("%x\r\n%s\r\n"):format(#chunk, chunk))
  end
  return table.concat(chunks) .. "0\r\n\r\n"
end

local function status_has_body(status)
  return status ~= 204 and status ~= 304 and status >= 200
end

local function frame_body(answer, content_length)
  if not status_has_body(answer.status) then
    return "", nil
  elseif answer.framing == "chunked" then
    return chunk_body(answer.body), { "Transfer-Encoding", "chunked" }
  elseif answer.framing == "length" then
    return answer.body, { "Content-Length", ("%d"):format(content_length or #answer.body) }
  end
  return answer.body, nil
end

--- Returns the head (with its blank line) and the framed body in HTTP/1.1. content_length: sent in place of the true
-- length, if given.
function answers.serialise(answer, content_length)
  local headers = { unpack(answer.headers) }
  local body, framing_header = frame_body(answer, content_length)
  headers[#headers + 1] = framing_header
  if answer.closes then
    table.insert(headers, { "Connection", "close" })
  end
  local lines = { ("HTTP/1.1 %d %s"):format(answer.status, reasons[tostring(answer.status)]) }
  for _, header in ipairs(apply_headers(headers, answer.ordered_headers)) do
    table.insert(lines, header[1] .. ": " .. header[2])
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n", answer.to_head and "" or body
end

return answers
