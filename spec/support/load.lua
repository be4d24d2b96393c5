-- Many HTTP/1.1 requests at once, from one thread: a client with coroutines of cqueues (LuaJIT only). An answer is
-- { status, headers (names in lower case), body, seconds }, or { problem, seconds } if there was none.

local cqueues = require "cqueues"
local socket = require "cqueues.socket"

local load = {}

local SECONDS = 60

local function read_head(connection)
  local line = connection:read "*l"
  if not line then return nil, "closed before an answer" end
  local status = tonumber(line:match "^HTTP/1%.%d (%d%d%d)")
  if not status then return nil, "not HTTP: " .. line end
  local headers = {}
  for line_read in connection:lines "*l" do
    local field = line_read:gsub("\r$", "")
    if field == "" then return status, headers end
    local name, value = field:match "^([^:]+):%s*(.-)%s*$"
    if not name then return nil, "no header field: " .. field end
    name = name:lower()
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
  end
  return nil, "closed in the head"
end

local function read_chunks(connection)
  local parts = {}
  repeat
    local digits = (connection:read "*l" or ""):match "^%x+"
    if not digits then return nil end
    local size = tonumber(digits, 16)
    local data = connection:read(size + 2)
    if not data or #data < size + 2 then return nil end
    parts[#parts + 1] = data:sub(1, size)
  until size == 0
  return table.concat(parts)
end

local function read_body(connection, method, status, headers)
  if method == "HEAD" or status == 204 or status == 304 then return "" end
  if (headers["transfer-encoding"] or ""):find "chunked" then return read_chunks(connection) end
  local length = tonumber(headers["content-length"])
  if not length then return connection:read "*a" or "" end
  if length == 0 then return "" end
  local body = connection:read(length)
  return body and #body == length and body or nil
end

-- A request as bytes. `raw` replaces all of it.
local function render(request, port)
  if request.raw then return request.raw end
  local lines = { ("%s %s HTTP/1.1"):format(request.method or "GET", request.target or "/v2/") }
  local has_host = false
  for name, value in pairs(request.headers or {}) do
    -- a list sends a field more than once
    for _, one in ipairs(type(value) == "table" and value or { value }) do
      lines[#lines + 1] = name .. ": " .. one
    end
    has_host = has_host or name:lower() == "host"
  end
  if not has_host then lines[#lines + 1] = "Host: 127.0.0.1:" .. port end
  if request.body then lines[#lines + 1] = "Content-Length: " .. #request.body end
  lines[#lines + 1] = "\r\n"
  return table.concat(lines, "\r\n") .. (request.body or "")
end

local function connect(port, seconds)
  local connection = socket.connect { host = "127.0.0.1", port = port }
  connection:setmode("b", "b")
  connection:settimeout(seconds)
  connection:onerror(function(_, _, code) return code end)
  return connection
end

local function read_answer(connection, method)
  local status, headers = read_head(connection)
  if not status then return nil, headers end
  local body = read_body(connection, method, status, headers)
  if not body then return nil, "closed in the body" end
  return { status = status, headers = headers, body = body }
end

local function exchange(connection, port, request)
  local _, problem = connection:write(render(request, port))
  if problem then return nil, "cannot send" end
  connection:flush()
  return read_answer(connection, request.method)
end

-- One request over a connection of its own, or over one that is kept in `kept`.
local function perform(port, request, kept)
  local started = cqueues.monotime()
  local connection = kept and kept.connection or connect(port, request.timeout or SECONDS)
  local answer, problem = exchange(connection, port, request)
  answer = answer or { problem = problem }
  if kept and answer.status and answer.headers.connection ~= "close" then
    kept.connection = connection
  else
    connection:close()
    if kept then kept.connection = nil end
  end
  answer.seconds = cqueues.monotime() - started
  return answer
end

-- Runs coroutines to their end; an error in one is raised here.
local function loop(body)
  local queue = cqueues.new()
  body(queue)
  for problem in queue:errors() do error(problem, 0) end
end

--- One request and its answer. request: `method`, `target`, `headers` (name to value, or to a list of values), `body`,
-- or `raw` (all bytes); `timeout` (60 s).
function load.request(port, request)
  local answer
  loop(function(queue)
    queue:wrap(function() answer = perform(port, request) end)
  end)
  return answer
end

--- Sends `count` requests, `concurrency` at a time (all), and returns the list of answers. make(i) makes each request.
-- keep: over kept connections.
function load.run(port, count, make, concurrency, keep)
  local answers, next_index = {}, 1
  loop(function(queue)
    for _ = 1, math.min(count, concurrency or count) do
      queue:wrap(function()
        local kept = keep and {} or nil
        while next_index <= count do
          local i = next_index
          next_index = i + 1
          answers[i] = perform(port, make(i), kept)
        end
        if kept and kept.connection then kept.connection:close() end
      end)
    end
  end)
  return answers
end

--- Sends requests and disconnects before an answer, `wait` seconds later, `concurrency` at a time.
function load.abandon(port, count, make, concurrency, wait)
  local next_index = 1
  loop(function(queue)
    for _ = 1, math.min(count, concurrency or count) do
      queue:wrap(function()
        while next_index <= count do
          local i = next_index
          next_index = i + 1
          local connection = connect(port, SECONDS)
          connection:write(render(make(i), port))
          connection:flush()
          cqueues.sleep(wait)
          connection:close()
        end
      end)
    end
  end)
end

--- Runs a list of tasks side by side: functions that may use perform and sleep.
function load.run_tasks(tasks)
  loop(function(queue)
    for _, task in ipairs(tasks) do queue:wrap(task) end
  end)
end

--- The same with the tasks as arguments.
function load.together(...)
  load.run_tasks { ... }
end

load.perform = perform
load.sleep = cqueues.sleep
load.read_time = cqueues.monotime

--- Sends a request, and returns its connection: to be closed, or passed to receive.
function load.send(port, request)
  local connection = connect(port, request.timeout or SECONDS)
  connection:write(render(request, port))
  connection:flush()
  return connection
end

--- Sends a request and closes the connection, so that the kernel may send both in one packet.
function load.send_and_close(port, request)
  local connection = connect(port, SECONDS)
  connection:setmode("b", "bf")
  connection:connect(SECONDS)
  connection:write(render(request, port))
  connection:flush()
  connection:close()
end

--- Waits for the answer to what was sent, and closes the connection.
function load.receive(connection, method)
  local answer, problem = read_answer(connection, method)
  connection:close()
  return answer or { problem = problem }
end

--- The number of answers by status; "none" counts requests without an answer.
function load.count(answers)
  local counts = {}
  for _, answer in ipairs(answers) do
    local name = answer.status or "none"
    counts[name] = (counts[name] or 0) + 1
  end
  return counts
end

--- The time in seconds that this share (0.5, 0.99) of the answers did not exceed.
function load.percentile(answers, share)
  local seconds = {}
  for i, answer in ipairs(answers) do seconds[i] = answer.seconds end
  table.sort(seconds)
  return seconds[math.max(1, math.ceil(share * #seconds))]
end

return load
