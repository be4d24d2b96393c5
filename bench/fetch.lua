-- The clients that fetch one token after the other. Each is a function that sets up (see driver.lua) and returns the
-- function that performs that many fetches.

local setup = ...
local url, cacert, id_token, user_agent = setup.url, setup.cacert, setup.id_token, setup.user_agent
local check_answer = setup.check_answer
local bearer = "Bearer " .. id_token

-- Each of these returns the function that fetches once.
local fetchers = {}

function fetchers.baseline()
  local client = require("baseline").new(url, cacert, id_token)
  return function() check_answer(client:fetch()) end
end

function fetchers.icptoken()
  local client = require("icptoken").new { url = url, cacert = cacert, id_token = id_token, user_agent = user_agent }
  return function() check_answer(client:fetch()) end
end

-- Debian's lua-curl, one easy handle kept with its connection.
function fetchers.luacurl()
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
function fetchers.luasec()
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
function fetchers.https()
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
function fetchers.popen()
  local json = require "cjson".new()
  local command = ("curl --silent --show-error --http1.1 --user-agent '%s' --cacert '%s' --config '%s' '%s'"):format(
    user_agent, cacert, setup.curl_config, url)
  return function()
    local pipe = assert(io.popen(command))
    local body = pipe:read "*a"
    pipe:close()
    check_answer(json.decode(body))
  end
end

local clients = {}

for name, open_fetcher in pairs(fetchers) do
  clients[name] = function()
    local fetch = open_fetcher()
    return function(count)
      for _ = 1, count do fetch() end
    end
  end
end

return clients
