-- Clients that fetch one token after the other. Each is a function that sets up (see driver.lua) and returns the
-- function that performs that many fetches. The file also returns the fetchers, for rivals.lua.

local setup = ...
local url, cacert, id_token, user_agent = setup.url, setup.cacert, setup.id_token, setup.user_agent
local check_answer = setup.check_answer
local bearer = "Bearer " .. id_token

-- Each of these returns the function that fetches once. Those that rivals.lua compares take a query ("?scope=…"), which
-- is added to the URL.
local fetchers = {}

function fetchers.baseline()
  local client = require("baseline").new(url, cacert, id_token)
  return function() check_answer(client:fetch()) end
end

-- The same, safe from the use after free in libcurl before 8.1 that src/transfer.c describes.
function fetchers.safe()
  local client = require("baseline").new(url, cacert, id_token, true)
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
  return function(query)
    count = 0
    if query then easy:setopt(curl.OPT_URL, url .. query) end
    local done, why = easy:perform()
    local answer = done and json.decode(table.concat(chunks, "", 1, count))
    check_answer(answer, why)
    return answer
  end
end

-- LuaSec over LuaSocket with a minimal HTTP/1.1 client that keeps one connection, because ssl.https cannot.
function fetchers.luasec()
  local socket, ssl, json = require "socket", require "ssl", require "cjson".new()
  local host, port, path = url:match "^https://([^:/]+):(%d+)(/.*)$"
  local connection = assert(socket.connect(host, tonumber(port)))
  connection:setoption("tcp-nodelay", true)
  connection = assert(ssl.wrap(connection, { mode = "client", protocol = "tlsv1_3", verify = "peer", cafile = cacert }))
  connection:settimeout(30)
  assert(connection:dohandshake())
  local function render(query)
    return ("GET %s%s HTTP/1.1\r\nHost: %s:%s\r\nUser-Agent: %s\r\nAuthorization: %s\r\n"
      .. "Accept: application/json\r\n\r\n"):format(path, query, host, port, user_agent, bearer)
  end
  local request = render ""
  return function(query)
    assert(connection:send(query and render(query) or request))
    local status = assert(connection:receive "*l")
    assert(status:match "^HTTP/1%.1 200 ", status)
    local length
    for line in function() return assert(connection:receive "*l") end do
      if line == "" then break end
      local name, value = line:match "^([^:]+):%s*(.*)$"
      if name:lower() == "content-length" then length = tonumber(value) end
    end
    local body = assert(connection:receive(length))
    local answer = json.decode(body)
    check_answer(answer)
    return answer
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

-- The curl program: a new process for each fetch. The credential is not on the command line, but in a file of mode 0600
-- that bench/run has written next to the ID token.
function fetchers.popen()
  local json = require "cjson".new()
  local command = ("curl --silent --show-error --http1.1 --user-agent '%s' --cacert '%s' --config '%s' '%s"):format(
    user_agent, cacert, setup.curl_config, url)
  return function(query)
    local pipe = assert(io.popen(command .. (query or "") .. "'"))
    local body = pipe:read "*a"
    pipe:close()
    local answer = json.decode(body)
    check_answer(answer)
    return answer
  end
end

-- A Lua process for each fetch, as a shell script would start it.
function fetchers.oneshot()
  local script = setup.scratch .. ".lua"
  local file = assert(io.open(script, "w"))
  file:write(("local answer = assert(require('icptoken').fetch { url = %q, cacert = %q, id_token_file = %q, "
    .. "user_agent = %q })\nprint(answer.token, answer.expires_in)\n"):format(
    url, cacert, setup.id_token_file, user_agent))
  file:close()
  local command = ("LUA_CPATH='%s' lua5.4 '%s'"):format(package.cpath, script)
  return function()
    local pipe = assert(io.popen(command))
    local token, expires_in = pipe:read "*a":match "^(%S+)%s+(%d+)"
    pipe:close()
    check_answer { token = token, expires_in = tonumber(expires_in) }
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

return clients, fetchers
