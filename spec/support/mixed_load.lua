-- A short mixed load on a gateway, step by step: cold and cached keys, clients that disconnect, an endpoint that fails
-- in many ways, a reload, and two shutdowns with token requests in progress. Each step checks what clients get.

local gateway = require "support.gateway"
local load = require "support.load"
local testkit = require "testkit"

local mixed_load = {}

-- Limits for a client and for nginx, which only a hang reaches.
local EXIT_SECONDS = 900
local CLIENT_SECONDS = 900
local AWAIT_SECONDS = 900
-- The gateway's limit for a token request. One of the failures takes all of it.
local TIMEOUT_SECONDS = 180
--- How many processes of nginx the steps start: masters and their two workers, at a start, a reload and another start.
mixed_load.PROCESSES = 3 + 2 + 3

-- Each: what the endpoint does (an order of the stub), and the status for the client.
local FAILURES = {
  { { status = 401 }, 401 }, { { status = 403 }, 403 }, { { status = 404 }, 502 },
  { { status = 429 }, 429 }, { { status = 429, headers = { { "Retry-After", "60" } } }, 429 },
  { { status = 500 }, 502 }, { { status = 503, headers = { { "Retry-After", "60" } } }, 503 },
  { { redirect = "https://login.example/?token=x" }, 502 },
  { { body = "<html>garbage</html>" }, 502 }, { { body = '{"token":"\\ud800"' }, 502 },
  { { token = "a\r\nb" }, 502 }, { { raw = "garbage\r\n\r\n" }, 502 }, { { cut = 40 }, 502 },
  { { raw = "", ["end"] = "reset" }, 502 },
  { { endless = "body", bytes = 2 ^ 21 }, 502 }, { { endless = "headers", bytes = 2 ^ 18 }, 502 },
  { { raw = "", ["end"] = "hold" }, 504 },
}

-- Authorization values with which no token is requested.
local HOSTILE = { "", "Bearer", "Bearer \1\2", "Bearer a.b.c\255", "Bearer " .. ("x"):rep(20000) .. "\t", "Basic !!!",
  "Basic bm9jb2xvbg==", "Negotiate abc", "Bearer a=b", ("A"):rep(30000) }

local LOCATIONS = [[
  location = /login { content_by_lua_block { gateway:login() } }
  location = /status { stub_status; }
]]

local function await(what, probe)
  local deadline = testkit.monotonic() + AWAIT_SECONDS
  repeat
    if probe() then return end
    load.sleep(0.02)
  until testkit.monotonic() > deadline
  error("timed out while waiting for " .. what, 0)
end

local function check_statuses(self, what, answers, status)
  self.served = self.served + #answers
  for _, answer in ipairs(answers) do
    if answer.status ~= status then
      error(("%s: %s instead of %d"):format(what, answer.status or answer.problem, status), 0)
    end
  end
end

-- Returns a request for a repository; requests with the same name need the same token.
local function make_request(self, name, headers)
  local all = { Authorization = "Bearer " .. self.stub.id_token }
  for field, value in pairs(headers or {}) do all[field] = value end
  return { target = "/v2/valgrind/" .. name .. "/manifests/latest", headers = all, timeout = CLIENT_SECONDS }
end

local function get_one(self, what, request, status)
  check_statuses(self, what, { load.request(self.server.port, request) }, status)
end

local function get_cold(self)
  local basic = { Authorization = "Basic YWRtaW46YWRtaW4=" } -- admin:admin
  local answers = load.run(self.server.port, 60, function(i)
    return make_request(self, "cold-" .. i % 30, i % 3 == 0 and basic or nil)
  end)
  check_statuses(self, "cold keys", answers, 200)
end

local function get_cached(self)
  local answers = load.run(self.server.port, 400, function() return make_request(self, "cold-1") end, 8, true)
  check_statuses(self, "a cached key", answers, 200)
end

local function meet_failures(self)
  for i, case in ipairs(FAILURES) do
    case[1].times = "forever"
    self.stub:plan(case[1])
    -- a refused credential is remembered for a while
    local headers = case[2] == 401 and { Authorization = "Bearer refused" } or nil
    get_one(self, "failure " .. i, make_request(self, "failure-" .. i, headers), case[2])
    self.stub:reset()
  end
end

local function meet_refusals(self)
  local challenge = 'Bearer realm="https://registry.example/",error="%s"'
  for error_code, status in pairs { invalid_token = 401, insufficient_scope = 403, ["\\"] = 401 } do
    get_one(self, "a refusal", make_request(self, "cold-2",
      { ["X-Test-Status"] = "401", ["X-Test-Challenge"] = challenge:format(error_code) }), status)
  end
  get_one(self, "after the refusals", make_request(self, "cold-2"), 200)
end

local function send_hostile(self)
  for i, value in ipairs(HOSTILE) do
    get_one(self, "hostile value " .. i, make_request(self, "hostile", { Authorization = value }), 401)
  end
end

local function log_in(self)
  for credential, status in pairs { ["YWRtaW46YWRtaW4="] = 200, ["YWRtaW46d3Jvbmc="] = 401 } do
    get_one(self, "log in", { target = "/login", timeout = CLIENT_SECONDS,
      headers = { Authorization = "Basic " .. credential } }, status)
  end
end

-- From now on a token request takes a second.
local function slow_down(self)
  self.stub:reset()
  self.stub:plan { delay = { before = 1 }, times = "forever" }
end

-- Clients that disconnect, some during their token request, some before it.
local function abandon(self)
  slow_down(self)
  load.abandon(self.server.port, 40, function(i) return make_request(self, "abandoned-" .. i) end, 40, 0.5)
  self.stub:reset()
  self.served = self.served + 40
end

-- Returns how many requests nginx handles, without the one that this needs.
local function count_active(self)
  local status = load.perform(self.server.port, { target = "/status", timeout = CLIENT_SECONDS })
  return tonumber(status.body:match "Writing: (%d+)") - 1
end

-- Calls act() when nginx has this many requests and most wait for the endpoint. Returns the answers.
local function act_under_load(self, act, prefix, count)
  slow_down(self)
  local answers, tasks, answered = {}, {}, 0
  for i = 1, count do
    tasks[i] = function()
      answers[i] = load.perform(self.server.port, make_request(self, prefix .. i))
      answered = answered + 1
    end
  end
  tasks[count + 1] = function()
    await("requests in progress", function() return count_active(self) + answered >= count end)
    act()
  end
  load.together(unpack(tasks))
  self.stub:reset()
  return answers
end

local function reload(self)
  local before = self.server:workers()
  local function act() testkit.kill(self.server.pid, "HUP") end
  check_statuses(self, "during a reload", act_under_load(self, act, "reload-", 20), 200)
  await("the old workers to exit", function()
    for _, pid in ipairs(self.server:workers()) do
      if pid == before[1] or pid == before[2] then return false end
    end
    return true
  end)
  check_statuses(self, "after a reload", { load.request(self.server.port, make_request(self, "reloaded")) }, 200)
end

local function await_exit(self)
  local how, status = testkit.waitpid(self.server.pid, EXIT_SECONDS)
  if how == "running" then error("nginx does not exit", 0) end
  self.server.pid = nil
  os.execute("rm -rf " .. self.server.dir)
  self.server = nil
  if how ~= "exited" or status ~= 0 then error(("nginx %s with %d"):format(how, status), 0) end
end

-- nginx finishes its requests before a graceful shutdown.
local function quit(self)
  local function act() testkit.kill(self.server.pid, "QUIT") end
  check_statuses(self, "during a graceful shutdown", act_under_load(self, act, "quit-", 12), 200)
  await_exit(self)
end

-- Whether a process has exited, and its parent has not waited for it yet.
local function is_zombie(pid)
  local file = assert(io.open(("/proc/%d/stat"):format(pid), "rb"))
  local state = file:read("*a"):match "^.*%) (%a)"
  file:close()
  return state == "Z"
end

-- A master that is terminated kills the workers that have not exited about a second later, before a slow one has
-- written valgrind's summary. So the master is stopped until they have exited.
local function terminate(self)
  local function act()
    local workers = self.server:workers()
    testkit.kill(self.server.pid, "STOP")
    for _, pid in ipairs(workers) do testkit.kill(pid, "TERM") end
    await("the workers to exit", function()
      for _, pid in ipairs(workers) do
        if not is_zombie(pid) then return false end
      end
      return true
    end)
    testkit.kill(self.server.pid, "TERM")
    testkit.kill(self.server.pid, "CONT")
  end
  act_under_load(self, act, "terminate-", 12)
  await_exit(self)
end

local function start_server(self)
  self.server = gateway.start { stub = self.stub, upstream = self.upstream, locations = LOCATIONS,
    gateway = { timeout = TIMEOUT_SECONDS, retries = 1, hedge_after = 0.5 } }
end

local function read_metrics(self)
  get_one(self, "metrics", { target = "/metrics", timeout = CLIENT_SECONDS }, 200)
end

local STEPS = { start_server, get_cold, get_cached, meet_failures, meet_refusals, send_hostile, log_in, abandon, reload,
  get_cold, get_cached, read_metrics, quit, start_server, get_cold, terminate }

--- Runs all steps. self: stub, upstream (see support.gateway). Sets self.served to the number of requests so far, and
-- self.server to the nginx that runs, which the caller stops if a step raises an error.
function mixed_load.run(self)
  self.served = 0
  for _, step in ipairs(STEPS) do step(self) end
end

return mixed_load
