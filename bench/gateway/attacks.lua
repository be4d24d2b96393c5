-- Measures what other users notice of an attack or of overload: they request new tokens at a steady rate during an
-- attack by clients without valid credentials ("strangers"), or while the endpoint is slow. Prints a table: how many
-- requests of the other users were served, the median and 99th percentile of their times, and how many token requests
-- the cluster received. `make bench-attacks` runs it.
--
-- Usage: luajit bench/gateway/attacks.lua [row]...                  all rows when none is named
--        luajit bench/gateway/attacks.lua --attack kind port seconds   internal: the process of an attack
-- To measure an older version of the gateway, copy this file into its tree.
package.path = "spec/?.lua;lua/?.lua;./?.lua;" .. package.path
package.cpath = "build/luajit/?.so;" .. package.cpath

local gateway = require "support.gateway"
local load = require "support.load"
local mime = require "mime"
local nginx = require "support.nginx"
local stub_client = require "stub.client"
local testkit = require "testkit"

local WARM_UP_SECONDS, RAMP_SECONDS = 1, 4
local SECONDS = tonumber(os.getenv "DURATION") or 20

-- The endpoint accepts any ID token that begins with "good", refuses all others after 0.2 s, and counts both.
local ENDPOINT = [[
  lua_shared_dict counts 1m;
  server {
    listen 127.0.0.1:@PORT@ ssl backlog=4096;
    ssl_certificate %s;
    ssl_certificate_key %s;
    keepalive_requests 1000000;
    location = /counts {
      content_by_lua_block {
        local counts = ngx.shared.counts
        ngx.print(counts:get "good" or 0, " ", counts:get "refused" or 0)
        counts:flush_all()
      }
    }
    location / {
      content_by_lua_block {
        local authorization = ngx.var.http_authorization or ""
        if authorization:sub(1, 11) ~= "Bearer good" then
          ngx.shared.counts:incr("refused", 1, 0)
          ngx.sleep(0.2)
          ngx.status = 401
          return ngx.print "{}"
        end
        local count = ngx.shared.counts:incr("good", 1, 0)
        %s
        ngx.print '%s'
      }
    }
  }
]]
local QUICK = "ngx.sleep(0.02)"
local SLOW = "ngx.sleep(1 + 2 * math.random())"
local HANGING = "ngx.sleep(math.random() < 0.2 and 20 or 0.02)"

local ROWS = {
  { name = "quiet", what = "no attack", rate = 5 },
  { name = "5", what = "1,000 strangers in flight, random names", rate = 5, attack = "strangers" },
  { name = "5-login", what = "1,500 strangers in flight at /login", rate = 5, attack = "login_strangers" },
  { name = "5-new", what = "as 5, others are new users", rate = 5, attack = "strangers", are_new = true },
  { name = "6", what = "150 a second that close at once", rate = 5, attack = "closers" },
  { name = "10", what = "one wrong password at /login, 100 in flight", rate = 5, attack = "guesser" },
  { name = "12-1.5", what = "1.5 times the capacity, answers in 1 to 3 s", rate = 12, behaviour = SLOW, capacity = 8 },
  { name = "12-3", what = "3 times the capacity", rate = 24, behaviour = SLOW, capacity = 8 },
  { name = "12-10", what = "10 times the capacity", rate = 80, behaviour = SLOW, capacity = 8 },
  { name = "13", what = "one answer in five hangs for 20 s", rate = 40, behaviour = HANGING, timeout = 5 },
}

-- --- the process of an attack

local function keep_sending(port, count, seconds, make)
  local tasks, deadline = {}, load.read_time() + seconds
  for i = 1, count do
    tasks[i] = function()
      load.sleep(i / count)
      while load.read_time() < deadline do
        local started = load.read_time()
        load.perform(port, make())
        -- A real attacker would not wait. This limits the load on a gateway that answers at once.
        load.sleep(math.max(0, started + 1 - load.read_time()))
      end
    end
  end
  load.together(unpack(tasks))
end

local function make_stranger(target)
  return function()
    local pair = mime.b64(("stranger%.0f:secret"):format(math.random() * 1e15))
    return { target = target, headers = { Authorization = "Basic " .. pair, ["X-Client"] = "stranger" } }
  end
end

local attacks = {}

function attacks.strangers(port, seconds)
  keep_sending(port, 1000, seconds, make_stranger "/v2/a/b/manifests/latest")
end

function attacks.login_strangers(port, seconds)
  keep_sending(port, 1500, seconds, make_stranger "/login")
end

function attacks.guesser(port, seconds)
  local request = make_stranger "/login" ()
  local tasks, deadline = {}, load.read_time() + seconds
  for i = 1, 100 do
    tasks[i] = function()
      repeat
        load.perform(port, request)
        load.sleep(0.1)
      until load.read_time() > deadline
    end
  end
  load.together(unpack(tasks))
end

function attacks.closers(port, seconds)
  local tasks = {}
  for i = 1, 150 * seconds do
    tasks[i] = function()
      load.sleep(i / 150)
      load.send_and_close(port, { target = ("/v2/closing/image%d/manifests/latest"):format(i),
        headers = { Authorization = "Bearer good-but-gone", ["X-Client"] = "closer" } })
    end
  end
  load.together(unpack(tasks))
end

-- --- the table

local function start_servers(row)
  local stub, servers = stub_client.start(), {}
  local url = ("https://localhost:%d/image-manager/api/v1/auth/token?service=token-service"):format(stub.port)
  local process = io.popen(("curl -s --fail --cacert %s -H 'Authorization: Bearer %s' '%s'"):format(stub.ca,
    stub.id_token, url))
  local body = process:read "*a"
  process:close()
  assert(#body > 100, "the fake ICP returned no token")
  servers.stub = stub
  servers.endpoint = nginx.start { workers = 1, log_level = "warn",
    http = ENDPOINT:format(stub.server_cert, stub.server_key, row.behaviour or QUICK, body) }
  servers.upstream = gateway.start_upstream()
  local has_option = pcall(function()
    local names = table.concat(require("icptoken.gateway.options").list_names(), " ")
    assert(names:find "client_address")
  end)
  servers.gateway = gateway.start { workers = row.capacity and 1 or row.timeout and 1 or 2, dict = "16m",
    upstream = servers.upstream, log_level = "warn",
    gateway = ("{ host = 'localhost', port = %d, cacert = %q, service = 'token-service', timeout = %d, "
      .. "max_inflight = %d, challenge = 'bearer', realm = 'http://localhost/login' %s }")
      :format(servers.endpoint.port, stub.ca, row.timeout or 10, (row.capacity or row.timeout) and 16 or 8,
        has_option and ", client_address = 'http_x_client'" or ""),
    locations = "location = /login { content_by_lua_block { gateway:login() } }" }
  return servers
end

local function stop_servers(servers)
  for _, name in ipairs { "gateway", "upstream", "endpoint", "stub" } do servers[name]:stop() end
end

local function start_attack(kind, port)
  return assert(testkit.spawn { "luajit", "bench/gateway/attacks.lua", "--attack", kind, tostring(port),
    tostring(WARM_UP_SECONDS + SECONDS + 5), death_signal = "KILL" })
end

local function read_counts(servers)
  local process = io.popen(("curl -s --insecure https://localhost:%d/counts"):format(servers.endpoint.port))
  local good, refused = process:read("*a"):match "^(%d+) (%d+)"
  process:close()
  return tonumber(good), tonumber(refused)
end

-- Requests new keys at a steady rate, however the previous requests ended.
local function measure_others(row, port)
  local answers, tasks, started = {}, {}, load.read_time()
  for i = 1, row.rate * SECONDS do
    tasks[i] = function()
      load.sleep(math.max(0, started + i / row.rate - load.read_time()))
      local answer = load.perform(port, { target = ("/v2/others/image%d/manifests/latest"):format(i),
        headers = { Authorization = "Bearer good" .. (row.are_new and i or ""), ["X-Client"] = "other" .. i % 10 } })
      answer.second = load.read_time() - started
      answers[i] = answer
    end
  end
  load.together(unpack(tasks))
  return answers
end

local function format_counts(answers)
  local parts = {}
  for status, count in pairs(load.count(answers)) do
    if status ~= 200 then parts[#parts + 1] = ("%dx%s"):format(count, status) end
  end
  table.sort(parts)
  return table.concat(parts, " ")
end

-- Returns the share of the others' requests that were served. Past capacity, it is the share of those that could be
-- served after the first answers.
local function compute_share(row, answers, served)
  if not row.capacity then return #served / #answers end
  local count = 0
  for _, answer in ipairs(served) do
    if answer.second > RAMP_SECONDS and answer.second <= SECONDS then count = count + 1 end
  end
  return count / (row.capacity * (SECONDS - RAMP_SECONDS))
end

local function measure(row)
  local servers = start_servers(row)
  local port = servers.gateway.port
  load.run(port, 20, function(i)
    return { target = ("/v2/before/image%d/manifests/latest"):format(i), headers = { Authorization = "Bearer good" } }
  end, 2)
  local attack = row.attack and start_attack(row.attack, port)
  load.together(function() load.sleep(WARM_UP_SECONDS) end)
  read_counts(servers)
  local answers = measure_others(row, port)
  local good, refused = read_counts(servers)
  if attack then
    testkit.kill(attack, "KILL")
    testkit.waitpid(attack)
  end
  stop_servers(servers)
  local served = {}
  for _, answer in ipairs(answers) do
    if answer.status == 200 then served[#served + 1] = answer end
  end
  print(("%-8s %-44s %5d %6.1f%% %8.3f %8.3f %8.3f %6d %6d  %s"):format(row.name, row.what, #answers,
    100 * compute_share(row, answers, served), load.percentile(answers, 0.5), load.percentile(answers, 0.99),
    #served > 0 and load.percentile(served, 0.99) or 0, good, refused, format_counts(answers)))
end

local arguments = { ... }
if arguments[1] == "--attack" then
  attacks[arguments[2]](tonumber(arguments[3]), tonumber(arguments[4]))
  os.exit(0)
end

local wanted = {}
for _, name in ipairs(arguments) do wanted[name] = true end
io.stdout:setvbuf "line"
local HEAD = "%-8s %-44s %5s %7s %8s %8s %8s %6s %6s  %s"
print(HEAD:format("row", "what", "sent", "served", "p50 s", "p99 s", "p99 of", "good", "wrong", "others' failures"))
print(HEAD:format("", "", "", "", "", "", "served", "at the", "cluster", ""))
for _, row in ipairs(ROWS) do
  if not next(wanted) or wanted[row.name] then measure(row) end
end
