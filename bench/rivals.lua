-- One script of bench/rivals: tokens for 100 repositories, one after the other, and then as many as 1,000 a second, for
-- 20 of them in turn. Prints the seconds of the first part, the tokens of the second, and KiB of memory.
-- Usage: <runtime> rivals.lua <client> <bench directory> <build directory> <url> <CA file> <ID token file> <seconds>

local client_name, here, build, url, cacert, id_token_file, seconds = ...
local runtime = rawget(_G, "jit") and "luajit" or _VERSION:lower():gsub(" ", "")
package.cpath = ("%s/bench/%s/?.so;%s/%s/?.so;%s"):format(build, runtime, build, runtime, package.cpath)

local meter = require "meter"
local socket = require "socket"

local COLD, WARM, RATE = 100, 20, 1000

local function read_file(path, format)
  local file = assert(io.open(path))
  local text = file:read(format)
  file:close()
  return text
end

local setup = { url = url, cacert = cacert, id_token = read_file(id_token_file, "*l"), id_token_file = id_token_file,
  user_agent = "bench", curl_config = id_token_file .. ".curl", scratch = id_token_file .. ".urls",
  check_answer = function(answer, why) if not (answer and answer.token) then error(why or "no token", 0) end end }

local function make_scope(n) return ("repository:default/app%d:pull"):format(n) end
local function make_query(n)
  return ("?service=token-service&scope=repository%%3Adefault%%2Fapp%d%%3Apull"):format(n)
end

local clients = {}

function clients.icptoken()
  local client = require("icptoken").new { url = url, cacert = cacert, id_token_file = id_token_file,
    service = "token-service" }
  return function(n) return assert(client:token { scope = make_scope(n) }) end
end

-- The others, each with its connection but without a cache; and LuaSec with a table that keeps tokens as long as the
-- answer says, without renewal.
local function open_fetcher(name)
  local _, fetchers = assert(loadfile(here .. "/fetch.lua"))(setup)
  return fetchers[name]()
end

for _, name in ipairs { "luacurl", "luasec", "popen" } do
  clients[name] = function()
    local fetch = open_fetcher(name)
    return function(n) return fetch(make_query(n)) end
  end
end

function clients.luasec_table()
  local fetch, tokens = open_fetcher "luasec", {}
  return function(n)
    local answer = tokens[n]
    if not answer or os.time() >= answer.ends_at then
      answer = fetch(make_query(n))
      answer.ends_at = os.time() + answer.expires_in
      tokens[n] = answer
    end
    return answer
  end
end

local get_token, clock = clients[client_name](), meter.clock
local start = clock()
for n = 1, COLD do get_token(n) end
local cold, count = clock() - start, 0
start = clock()
local stop = start + tonumber(seconds)
while clock() < stop do
  local wait = start + count / RATE - clock()
  if wait > 0 then socket.sleep(wait) end
  if clock() < stop then
    get_token(count % WARM + 1)
    count = count + 1
  end
end
print(cold, count, read_file("/proc/self/status", "*a"):match "VmHWM:%s+(%d+)" + meter.children())
