-- Requests and answers of HTTP/1.1 as text.

local times = require "icptoken.cli.times"
local version = require "icptoken.cli.version"

local http = {}

--- The text of a GET request. authorization: the value of that header, or nil.
function http.request(authority, target, authorization)
  local lines = { ("GET %s HTTP/1.1"):format(target), "Host: " .. authority, "User-Agent: icptoken/" .. version,
    "Accept: application/json", "Connection: close" }
  if authorization then lines[#lines + 1] = "Authorization: " .. authorization end
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

--- An answer from its bytes: `status`, and `headers` (names in lower case to lists of values). nil if the bytes are
-- no HTTP answer.
function http.parse(bytes)
  local status, position = bytes:match "^HTTP/1%.[01] (%d%d%d)[^\n]*\n()"
  if not status then return nil end
  local answer = { status = tonumber(status), headers = {} }
  for text in bytes:sub(position):gmatch "([^\r\n]*)\r?\n" do
    if text == "" then break end
    local name, value = text:match "^([^:%s]+):%s*(.-)%s*$"
    if name then
      name = name:lower()
      answer.headers[name] = answer.headers[name] or {}
      table.insert(answer.headers[name], value)
    end
  end
  return answer
end

--- The server's time by the header Date, in seconds since the epoch, or nil.
function http.read_date(answer)
  local text = answer and answer.headers.date and answer.headers.date[1]
  return text and times.parse_http(text)
end

return http
