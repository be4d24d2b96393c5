-- Ten seconds in which the token endpoint fails, in each of several ways, during a steady load with a token that is
-- valid all the time but due for renewal. All ways are tested at once, each with a gateway of its own.

local cqueues = require "cqueues"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local nginx = require "support.nginx"

local OUTAGE_SECONDS = 10
local RETRY_AFTER = 4
local STEADY_EVERY, COLD_EVERY = 0.01, 1

-- What the endpoint does, the answer to a request without a cached token, how often a renewal is tried, and the least
-- number of seconds until the next attempt.
local OUTAGES = {
  { name = "down", status = 502, code = "connect", attempts = { 3, 5 } },
  { name = "answering with 500", order = { status = 500 }, status = 502, code = "server_error", attempts = { 3, 5 },
    pauses = { 1, 2, 4 } },
  { name = "answering with 429", order = { status = 429, headers = { { "Retry-After", tostring(RETRY_AFTER) } } },
    status = 429, code = "rate_limited", attempts = { 2, 3 }, pauses = { RETRY_AFTER, RETRY_AFTER } },
  { name = "answering with garbage", order = { body = "<html>no token</html>" }, status = 502,
    code = "invalid_response", attempts = { 3, 5 }, pauses = { 1, 2, 4 } },
}

-- A server between gateway and stub that can be switched off.
local FRONT = [[
  server { listen 127.0.0.1:@PORT@; }
  server {
    listen 127.0.0.1:%d ssl;
    ssl_certificate %s;
    ssl_certificate_key %s;
    location / { proxy_pass http://127.0.0.1:%d; }
  }
]]

local function start_front(self)
  local stub = self.bed.stub
  self.front = nginx.start { workers = 1,
    http = FRONT:format(self.front_port, stub.server_cert, stub.server_key, stub.ports.http) }
end

local function stop_front(self)
  if self.front then self.front:stop() end
  self.front = nil
end

local function begin_outage(self)
  if not self.order then return stop_front(self) end
  self.order.times = "forever"
  self.bed.stub:plan(self.order)
end

local function end_outage(self)
  if not self.order then return start_front(self) end
  self.asked = self.bed.stub:requests()
  self.bed.stub:reset()
end

local function open(self)
  self.bed = gateway_bed.open()
  local options = ""
  if not self.order then
    self.front_port = nginx.find_free_port()
    start_front(self)
    options = "port = " .. self.front_port
  end
  self.server = self.bed:start { locations = gateway_probe.LOCATIONS, gateway = options }
  self.workers = gateway_bed.await_workers(self.server, 2)
  self.steady, self.cold = {}, {}
end

local function request(self, name)
  return load.perform(self.server.port, self.bed:request("/v2/" .. name .. "/manifests/latest"))
end

local function read_jwt(answer)
  return gateway_bed.read_echo(answer).headers.authorization
end

-- Sends requests until the deadline, and keeps the answers.
local function keep_asking(self, answers, seconds, name, deadline)
  while cqueues.monotime() < deadline do
    answers[#answers + 1] = request(self, name:format(#answers))
    load.sleep(seconds)
  end
end

local function live_through_outage()
  for _, outage in ipairs(OUTAGES) do
    outage.jwt = read_jwt(request(outage, "steady/image"))
    assert.equal(1, gateway_probe.age_tokens(outage.server.port))
    begin_outage(outage)
  end
  local tasks, deadline = {}, cqueues.monotime() + OUTAGE_SECONDS
  for _, outage in ipairs(OUTAGES) do
    table.insert(tasks, function() keep_asking(outage, outage.steady, STEADY_EVERY, "steady/image", deadline) end)
    table.insert(tasks, function() keep_asking(outage, outage.cold, COLD_EVERY, "cold/image%d", deadline) end)
  end
  load.together(unpack(tasks))
  for _, outage in ipairs(OUTAGES) do
    outage.fetches = gateway_probe.read_metric(outage.server.port, "icptoken_fetches_total")
    end_outage(outage)
  end
end

setup(function()
  for _, outage in ipairs(OUTAGES) do open(outage) end
  live_through_outage()
end)

teardown(function()
  for _, outage in ipairs(OUTAGES) do
    gateway_bed.close(outage.bed)
    stop_front(outage)
  end
end)

local function count_lines(self, text)
  local _, count = self.server:log():gsub("[^\n]*" .. text .. "[^\n]*", "")
  return count
end

for _, outage in ipairs(OUTAGES) do
  describe("while the endpoint is " .. outage.name, function()
    it("no request with a valid token fails", function()
      assert.same({ [200] = #outage.steady }, load.count(outage.steady))
      for _, answer in ipairs(outage.steady) do assert.equal(outage.jwt, read_jwt(answer)) end
      assert.is_true(gateway_probe.read_metric(outage.server.port, "icptoken_requests_total", 'result="stale"') > 0)
    end)

    it("a renewal is tried now and then", function()
      local attempts = outage.fetches - #outage.cold - 1
      assert.is_true(attempts >= outage.attempts[1] and attempts <= outage.attempts[2], attempts .. " attempts")
    end)

    it("a request without a token gets " .. outage.status, function()
      assert.same({ [outage.status] = #outage.cold }, load.count(outage.cold))
      for _, answer in ipairs(outage.cold) do
        assert.equal(outage.code, (select(2, gateway_bed.read_error(answer))))
        local retry_after = outage.status == 429 and tostring(RETRY_AFTER) or nil
        assert.equal(retry_after, answer.headers["retry-after"])
      end
    end)
  end)
end

for _, outage in ipairs(OUTAGES) do
  if outage.pauses then
    it("the pauses between renewals are kept if the endpoint is " .. outage.name, function()
      local times = {}
      for _, token_request in ipairs(outage.asked) do
        if token_request.query.scope[1]:find "steady" then times[#times + 1] = token_request.time end
      end
      assert.is_true(#times > 1)
      -- the first one returned the token
      for i, pause in ipairs(outage.pauses) do
        if times[i + 2] then assert.is_true(times[i + 2] - times[i + 1] >= pause) end
      end
    end)
  end
end

for _, outage in ipairs(OUTAGES) do
  describe("after the endpoint was " .. outage.name, function()
    it("the same workers send it token requests again", function()
      assert.equal(200, request(outage, "cold/afterwards").status)
      gateway_bed.await("a new token", function() return read_jwt(request(outage, "steady/image")) ~= outage.jwt end)
      assert.same(outage.workers, outage.server:workers())
    end)

    it("the log has one line for its start and one for its end", function()
      assert.equal(1, count_lines(outage, "icptoken: requests to https://localhost:%d+ fail: "))
      assert.equal(1, count_lines(outage, "icptoken: requests to https://localhost:%d+ succeed again "))
      assert.equal(2, count_lines(outage, "icptoken: "))
    end)
  end)
end
