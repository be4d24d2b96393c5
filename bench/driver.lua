-- Drives one client of the benchmark.
-- Usage: <runtime> driver.lua <client> <build directory> <url> <CA file> <ID token file>
-- Fetches once and prints "ready", "missing <why>" or "failed <why>"; then, for each count read from standard input,
-- performs that many fetches over the kept client and prints the wall and the CPU seconds they took (as bare.c does).

local client_name, build, url, cacert, id_token_file = ...
local luajit = rawget(_G, "jit")
local runtime = luajit and "luajit" or _VERSION:lower():gsub(" ", "")
package.cpath = ("%s/bench/%s/?.so;%s/%s/?.so;%s"):format(build, runtime, build, runtime, package.cpath)

local function read_token()
  local file = assert(io.open(id_token_file))
  local token = file:read "*l"
  file:close()
  return token
end

local id_token = read_token()
local bearer = "Bearer " .. id_token
local user_agent = "bench" -- of one length in all requests: libcurl formats headers byte by byte

-- Stops the run unless the answer is a token; what every client below must give.
local function check_answer(answer, why)
  if not (answer and answer.token and answer.expires_in == 1800) then error(why or "the answer is not a token", 0) end
end

-- Each client: a function that sets up and returns the function that fetches once.
local clients = {}

function clients.baseline()
  local client = require("baseline").new(url, cacert, id_token)
  return function() check_answer(client:fetch()) end
end

function clients.icptoken()
  local client = require("icptoken").new { url = url, cacert = cacert, id_token = id_token, user_agent = user_agent }
  return function() check_answer(client:fetch()) end
end

-- Debian's lua-curl, one easy handle kept with its connection.
function clients.luacurl()
  local curl, json = require "curl", require "cjson".new()
  local easy, chunks, count = curl.easy_init(), {}, 0
  easy:setopt(curl.OPT_URL, url)
  easy:setopt(curl.OPT_HTTPHEADER, { "Authorization: " .. bearer, "Accept: application/json" })
  easy:setopt(curl.OPT_USERAGENT, user_agent)
  easy:setopt(curl.OPT_CAINFO, cacert)
  easy:setopt(curl.OPT_HTTP_VERSION, curl.HTTP_VERSION_1_1)
  easy:setopt(curl.OPT_NOSIGNAL, 1)
  easy:setopt(curl.OPT_TIMEOUT_MS, 30000)
  easy:setopt(curl.OPT_CONNECTTIMEOUT_MS, 10000)
  easy:setopt(curl.OPT_WRITEFUNCTION, function(chunk)
    count = count + 1
    chunks[count] = chunk
    return #chunk
  end)
  return function()
    count = 0
    local done, why = easy:perform()
    check_answer(done and json.decode(table.concat(chunks, "", 1, count)), why)
  end
end

-- LuaSec over LuaSocket, one connection kept by a minimal HTTP/1.1 client: ssl.https itself cannot keep one.
function clients.luasec()
  local socket, ssl, json = require "socket", require "ssl", require "cjson".new()
  local host, port, path = url:match "^https://([^:/]+):(%d+)(/.*)$"
  local connection = assert(socket.connect(host, tonumber(port)))
  connection:setoption("tcp-nodelay", true)
  connection = assert(ssl.wrap(connection, { mode = "client", protocol = "tlsv1_3", verify = "peer", cafile = cacert }))
  connection:settimeout(30)
  assert(connection:dohandshake())
  local request = ("GET %s HTTP/1.1\r\nHost: %s:%s\r\nUser-Agent: %s\r\nAuthorization: %s\r\n"
    .. "Accept: application/json\r\n\r\n"):format(path, host, port, user_agent, bearer)
  return function()
    assert(connection:send(request))
    local status = assert(connection:receive "*l")
    assert(status:match "^HTTP/1%.1 200 ", status)
    local length
    for line in function() return assert(connection:receive "*l") end do
      if line == "" then break end
      local name, value = line:match "^([^:]+):%s*(.*)$"
      if name:lower() == "content-length" then length = tonumber(value) end
    end
    local body = assert(connection:receive(length))
    check_answer(json.decode(body))
  end
end

-- LuaSec's own request function: a new connection for each fetch.
function clients.https()
  local https, ltn12, json = require "ssl.https", require "ltn12", require "cjson".new()
  return function()
    local chunks = {}
    local done, status = https.request {
      url = url, sink = ltn12.sink.table(chunks), protocol = "tlsv1_3", verify = "peer", cafile = cacert,
      headers = { Authorization = bearer, Accept = "application/json", ["User-Agent"] = user_agent },
    }
    check_answer(done and status == 200 and json.decode(table.concat(chunks)), tostring(status))
  end
end

-- The curl program: a new process for each fetch. The credential stays off the command line, in a file of mode 0600
-- that bench/run has made beside the ID token.
function clients.popen()
  local json = require "cjson".new()
  local command = ("curl --silent --show-error --http1.1 --user-agent '%s' --cacert '%s' --config '%s' '%s'"):format(
    user_agent, cacert, id_token_file .. ".curl", url)
  return function()
    local pipe = assert(io.popen(command))
    local body = pipe:read "*a"
    pipe:close()
    check_answer(json.decode(body))
  end
end

local function say(...)
  io.write(table.concat({ ... }, " "):gsub("%s+", " "), "\n")
  io.flush()
end

local function run_count(fetch, clock, count)
  local wall, cpu = clock(), os.clock()
  for _ = 1, count do fetch() end
  say(("%.9f %.9f"):format(clock() - wall, os.clock() - cpu))
end

local function serve_counts(fetch, clock)
  fetch()
  say "ready"
  for line in io.lines() do run_count(fetch, clock, tonumber(line)) end
end

local found, fetch = pcall(clients[client_name])
if not found then
  say("missing", tostring(fetch))
else
  local served, why = pcall(serve_counts, fetch, require("baseline").clock)
  if not served then say("failed", tostring(why)) end
end
