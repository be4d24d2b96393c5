-- A real Prometheus of a spec's own, with the files of examples/monitoring/, and promtool. It dies with this process.

local cjson = require "cjson"
local files = require "support.files"
local load = require "support.load"
local nginx = require "support.nginx"
local shell = require "support.shell"
local testkit = require "testkit"

local prometheus = { DIRECTORY = "examples/monitoring/" }
local prometheus_methods = {}
local prometheus_meta = { __index = prometheus_methods }

local START_SECONDS = 120
local STOP_SECONDS = 20
local ATTEMPTS = 5
-- The specs run the rules as if time passed this many times faster; see docs/operations.md.
local SPEED = 60

local function run_shell(command)
  local output = shell.run(command .. " 2>&1; echo $?")
  local text, status = output:match "^(.-)(%d+)\n$"
  return tonumber(status), text
end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- Runs promtool with these arguments. Returns its exit status and its output.
function prometheus.run_promtool(...)
  local words = { "promtool" }
  for _, argument in ipairs { ... } do words[#words + 1] = quote(argument) end
  return run_shell(table.concat(words, " "))
end

local UNITS = { ms = 1, s = 1000, m = 60000, h = 3600000, d = 86400000 }

local function divide(duration)
  local milliseconds = 0
  for number, unit in duration:gmatch "(%d+)(%a+)" do milliseconds = milliseconds + number * UNITS[unit] end
  assert(milliseconds > 0, duration)
  return ("%dms"):format(milliseconds / SPEED)
end

--- Returns rules whose every duration, in `for:`, `keep_firing_for:` and in the brackets of ranges, is a sixtieth.
function prometheus.shorten(rules)
  local shortened = rules:gsub("(%f[%w_]for: )([%w]+)", function(name, duration) return name .. divide(duration) end)
  shortened = shortened:gsub("(keep_firing_for: )(%w+)", function(name, duration) return name .. divide(duration) end)
  return (shortened:gsub("%[(%d%w*)%]", function(duration) return "[" .. divide(duration) .. "]" end))
end

-- examples/monitoring/prometheus.yml, with other addresses and another scrape interval.
local function configure(dir, port)
  local text = files.read(prometheus.DIRECTORY .. "prometheus.yml")
  local count
  text, count = text:gsub("_interval: %d+s", "_interval: 1s")
  assert(count == 2, "prometheus.yml has two intervals")
  text, count = text:gsub("%- registry%.example%.com:%d+", "- 127.0.0.1:" .. port)
  assert(count == 1, "prometheus.yml has one target")
  text, count = text:gsub("scheme: https", "scheme: http")
  assert(count == 1, "prometheus.yml scrapes over HTTPS")
  text, count = text:gsub("%- alertmanager%.example%.com:%d+", "- 127.0.0.1:" .. nginx.find_free_port())
  assert(count == 1, "prometheus.yml has one Alertmanager")
  files.write(dir .. "/prometheus.yml", text)
  files.write(dir .. "/icptoken.rules.yml", prometheus.shorten(files.read(prometheus.DIRECTORY
    .. "icptoken.rules.yml")))
end

local function read_log(self)
  return files.read(self.dir .. "/output")
end

local function await_start(self)
  local deadline = testkit.monotonic() + START_SECONDS
  repeat
    if testkit.waitpid(self.pid, 0.05) ~= "running" then return nil, read_log(self) end
    -- another server may have taken the port
    if read_log(self):find "Server is ready" and load.request(self.port, { target = "/-/ready" }).status == 200 then
      return true
    end
  until testkit.monotonic() > deadline
  return nil, "no answer\n" .. read_log(self)
end

local function launch(self)
  self.port = nginx.find_free_port()
  files.write(self.dir .. "/output", "")
  self.pid = assert(testkit.spawn { "prometheus", "--config.file=" .. self.dir .. "/prometheus.yml",
    "--storage.tsdb.path=" .. self.dir .. "/data", "--web.listen-address=127.0.0.1:" .. self.port,
    stdin = "/dev/null", stdout = self.dir .. "/output", stderr = self.dir .. "/output" })
  return await_start(self)
end

--- Starts a Prometheus that scrapes /metrics at a port, and evaluates the rules, once a second; waits until it answers.
function prometheus.start(port)
  local _, dir = run_shell "mktemp -d"
  local self = setmetatable({ dir = dir:match "[^\n]+" }, prometheus_meta)
  configure(self.dir, port)
  local problem
  for _ = 1, ATTEMPTS do
    local started
    started, problem = launch(self)
    if started then return self end
    if not problem:find "address already in use" then break end
  end
  self:stop()
  error("Prometheus did not start: " .. problem, 2)
end

local function get(self, path)
  local answer = load.perform(self.port, { target = "/api/v1/" .. path })
  local body = cjson.decode((assert(answer.body, answer.problem)))
  if body.status ~= "success" then error(body.error .. ": " .. path, 3) end
  return body.data
end

--- Returns the series that an expression returns now: a list of { metric =, value = { time, text } }.
function prometheus_methods:query(expression)
  local escaped = expression:gsub("[^%w]", function(char) return ("%%%02X"):format(char:byte()) end)
  return get(self, "query?query=" .. escaped).result
end

--- Returns all alerts that are pending or firing: a list of { state =, labels =, annotations = }.
function prometheus_methods:list_alerts()
  return get(self, "alerts").alerts
end

--- Returns the state of each alert ("pending", "firing") by its name; there is none for one that is inactive.
function prometheus_methods:read_alerts()
  local states = {}
  for _, alert in ipairs(self:list_alerts()) do
    local name = alert.labels.alertname
    if states[name] ~= "firing" then states[name] = alert.state end
  end
  return states
end

--- Stops it, and waits until it has exited.
function prometheus_methods:stop()
  if not self.pid then return end
  testkit.kill(self.pid, "TERM")
  if testkit.waitpid(self.pid, STOP_SECONDS) == "running" then
    testkit.kill(self.pid, "KILL")
    testkit.waitpid(self.pid)
  end
  self.pid = nil
  os.execute("rm -rf " .. self.dir)
end

return prometheus
