-- Redis's protocol, RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/): commands as bytes, and a
-- reader of replies that needs little memory whatever is sent to it.
--
-- The Redis libraries for nginx (resty.redis, nginx.redis) trust what Redis sends: after "$1000000000" they collect
-- 1 GB, for "*1000000000" they allocate a table of that size, they follow arrays to any depth and lines to any length,
-- and each of their reads may take a whole timeout. Redis is only trusted to keep sealed records and must not be able
-- to do that. So this reader checks each length before it reads on, takes at most CHUNK_BYTES from the socket at once,
-- and fails instead of exceeding a limit.

local resp = {}
local reader_methods = {}
local reader_meta = { __index = reader_methods }

-- What a reply may contain.
local MAX_TEXT_BYTES = 65536
local MAX_LINE_BYTES = 1024
local MAX_ELEMENTS = 16
local MAX_DEPTH = 2
-- All replies of one exchange together.
local MAX_BYTES = 16 * 1024 * 1024

local CHUNK_BYTES = 4096

--- The longest text that can be read, in bytes.
resp.MAX_TEXT_BYTES = MAX_TEXT_BYTES

--- The value that read returns for a null of Redis.
resp.null = ngx.null

--- Returns a command as bytes. command: a list of strings and numbers.
function resp.encode(command)
  local parts = { "*" .. #command .. "\r\n" }
  for i, argument in ipairs(command) do
    local text = tostring(argument)
    parts[i + 1] = "$" .. #text .. "\r\n" .. text .. "\r\n"
  end
  return table.concat(parts)
end

--- Returns a reader of the replies of one exchange. receive takes a number and returns at least one byte and at most
-- that many; or nil and a problem.
function resp.new_reader(receive)
  return setmetatable({ receive = receive, buffer = "", first = 1, bytes = 0 }, reader_meta)
end

-- Appends what has arrived to the buffer. Returns true, or nil and a problem.
local function fill(self)
  local text, problem = self.receive(CHUNK_BYTES)
  if not text then return nil, problem end
  self.bytes = self.bytes + #text
  if self.bytes > MAX_BYTES then return nil, "protocol" end
  self.buffer, self.first = self.buffer:sub(self.first) .. text, 1
  return true
end

-- Returns a line without its CRLF, or nil and a problem.
local function read_line(self)
  local from = self.first
  while true do
    local last = self.buffer:find("\r\n", from, true)
    if last and last - self.first > MAX_LINE_BYTES then return nil, "protocol" end
    if last then
      local line = self.buffer:sub(self.first, last - 1)
      self.first = last + 2
      return line
    end
    if #self.buffer - self.first > MAX_LINE_BYTES then return nil, "protocol" end
    local scanned = math.max(0, #self.buffer - self.first) -- the last byte may be a CR
    local ok, problem = fill(self)
    if not ok then return nil, problem end
    from = self.first + scanned
  end
end

-- Returns this many bytes that are followed by CRLF, or nil and a problem.
local function read_text(self, length)
  local parts = { self.buffer:sub(self.first, self.first + length + 1) }
  local missing = length + 2 - #parts[1]
  self.first = self.first + #parts[1]
  while missing > 0 do
    local ok, problem = fill(self)
    if not ok then return nil, problem end
    local part = self.buffer:sub(1, missing)
    parts[#parts + 1], missing, self.first = part, missing - #part, #part + 1
  end
  local text = table.concat(parts)
  if text:sub(-2) ~= "\r\n" then return nil, "protocol" end
  return text:sub(1, length)
end

local read_reply

-- Returns a list of this many replies, or nil and a problem. An error inside an array counts as a problem, because none
-- of our commands returns one.
local function read_array(self, length, depth)
  local list = {}
  for i = 1, length do
    local is_success, value = read_reply(self, depth)
    if not is_success then return nil, is_success == nil and value or "protocol" end
    list[i] = value
  end
  return list
end

-- Returns the length of a text or an array, -1 for a null; or nil.
local function read_length(digits, limit)
  local length = digits:find "^%d%d?%d?%d?%d?%d?$" and tonumber(digits) or digits == "-1" and -1
  return length and length <= limit and length or nil
end

local READERS = {
  ["+"] = function(_, line) return line end,
  [":"] = function(_, line) return line:find "^-?%d+$" and #line <= 20 and tonumber(line) or nil, "protocol" end,
  ["$"] = function(self, line)
    local length = read_length(line, MAX_TEXT_BYTES)
    if not length then return nil, "protocol" end
    if length == -1 then return resp.null end
    return read_text(self, length)
  end,
  ["*"] = function(self, line, depth)
    local length = read_length(line, MAX_ELEMENTS)
    if not length or depth == MAX_DEPTH then return nil, "protocol" end
    if length == -1 then return resp.null end
    return read_array(self, length, depth + 1)
  end,
}

-- See read. depth: how many arrays the reply is in.
function read_reply(self, depth)
  local line, problem = read_line(self)
  if not line then return nil, problem end
  local kind, rest = line:sub(1, 1), line:sub(2)
  if kind == "-" then return false, rest end
  if not READERS[kind] then return nil, "protocol" end
  local value
  value, problem = READERS[kind](self, rest, depth)
  if value == nil then return nil, problem end
  return true, value
end

--- Reads a reply. Returns true and its value: a string, a number, resp.null, or a list of these; false and Redis's
-- text if it is an error; or nil and a problem: "protocol" if this is not RESP2 or exceeds a limit, or what receive
-- returned.
function reader_methods:read()
  return read_reply(self, 0)
end

--- Returns whether more has arrived than was read, which after the last reply belongs to none.
function reader_methods:has_rest()
  return self.first <= #self.buffer
end

return resp
