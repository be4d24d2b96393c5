-- Clients that fetch many tokens, each for another repository. Each is a function that sets up (see driver.lua) and
-- returns the function that fetches that many.

local setup = ...

local function open_client(http_version)
  return require("icptoken").new {
    url = setup.url, cacert = setup.cacert, id_token = setup.id_token, user_agent = setup.user_agent,
    service = "token-service", http_version = http_version,
  }
end

local function get_scope(n) return ("repository:default/app%d:pull"):format(n) end

-- Returns that many requests. They are made once, in the warm-up round, outside the measured time.
local lists = {}
local function get_requests(count)
  if not lists[count] then
    lists[count] = {}
    for n = 1, count do lists[count][n] = { scope = get_scope(n) } end
  end
  return lists[count]
end

local function check_all(tokens, errors, count)
  if errors then error(select(2, next(errors)).message, 0) end
  assert(#tokens == count)
  for n = 1, count do setup.check_answer(tokens[n]) end
end

local function open_fetch_all(http_version)
  local client = open_client(http_version)
  return function(count)
    local tokens, errors = client:fetch_all(get_requests(count))
    check_all(tokens, errors, count)
  end
end

local clients = {}

function clients.fetch_all() return open_fetch_all "1.1" end

function clients.fetch_all2() return open_fetch_all "2" end

-- The least that returns the answers: the same loop in C, which decodes each and makes a table.
local function open_least(is_http2)
  local least = require("baseline").many(setup.url, setup.cacert, setup.id_token, is_http2)
  return function(count) check_all(least:fetch_all(count), nil, count) end
end

function clients.least_all() return open_least(false) end

function clients.least_all2() return open_least(true) end

-- One client:fetch after the other.
function clients.in_a_row()
  local client = open_client "1.1"
  return function(count)
    for _, request in ipairs(get_requests(count)) do setup.check_answer(client:fetch(request)) end
  end
end

-- A curl process for each request, 16 at a time.
function clients.xargs()
  local command = ("xargs -P 16 -n 1 curl --silent --show-error --fail --output /dev/null --http1.1 "
    .. "--user-agent '%s' --cacert '%s' --config '%s' <'%s'"):format(
    setup.user_agent, setup.cacert, setup.curl_config, setup.scratch)
  return function(count)
    local file = assert(io.open(setup.scratch, "w"))
    for n = 1, count do
      local encoded = get_scope(n):gsub("[:/]", { [":"] = "%3A", ["/"] = "%2F" })
      file:write(setup.url, "?service=token-service&scope=", encoded, "\n")
    end
    file:close()
    local status = os.execute(command)
    assert(status == true or status == 0, "xargs failed")
  end
end

return clients
