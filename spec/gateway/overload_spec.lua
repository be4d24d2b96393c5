-- More token requests than the cluster can answer, and answers that do not arrive: as many requests as possible are
-- served, and the others are refused early, with the reason.

local cases = require "support.cases"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"

local HANG = { raw = "", ["end"] = "hold" }

local bed

setup(function() bed = gateway_bed.open() end)
teardown(function() gateway_bed.close(bed) end)
before_each(function() bed.stub:reset() end)

local function request(name, headers)
  return bed:request("/v2/overload/" .. name .. "/manifests/latest", "GET", headers)
end

local function list_asked()
  local names = {}
  for i, token_request in ipairs(bed.stub:requests()) do names[i] = token_request.query.scope[1]:match "/([%w-]+):" end
  return names
end

describe("past capacity", function()
  local SECONDS, MAX_INFLIGHT, DELAY, TIMEOUT = 8, 4, 0.5, 2
  local server

  setup(function()
    server = bed:start { workers = 1, locations = gateway_probe.LOCATIONS,
      gateway = ("timeout = %d, max_inflight = %d"):format(TIMEOUT, MAX_INFLIGHT) }
  end)
  before_each(function()
    bed.stub:plan { delay = { before = DELAY }, times = "forever" }
    assert.equal(200, load.request(server.port, request "first").status)
  end)

  local function count_served(answers)
    local counts = load.count(answers)
    return counts[200] or 0, counts
  end

  -- As many clients as there are runners, each sending one request after the other.
  local function measure_capacity()
    local answers, tasks, deadline = {}, {}, load.read_time() + SECONDS
    for i = 1, MAX_INFLIGHT do
      tasks[i] = function()
        while load.read_time() < deadline do
          -- not in one statement, in which the index would be that of before the wait
          local answer = load.perform(server.port, request(("alone%d-%d"):format(i, #answers)))
          answers[#answers + 1] = answer
        end
      end
    end
    load.together(unpack(tasks))
    return (count_served(answers))
  end

  local function overload(factor)
    local rate = factor * MAX_INFLIGHT / DELAY
    local answers, tasks = {}, {}
    for i = 1, rate * SECONDS do
      tasks[i] = function()
        load.sleep(i / rate)
        answers[i] = load.perform(server.port, request(("times%d-%d"):format(factor, i)))
      end
    end
    load.together(unpack(tasks))
    return answers
  end

  for _, factor in ipairs { 3, 10 } do
    it(("by %d times, as much is served, and others get 503 with Retry-After"):format(factor), function()
      local alone = measure_capacity()
      local answers = overload(factor)
      local served, counts = count_served(answers)
      assert.is_true(served >= 0.8 * alone, ("%d served, and %d alone"):format(served, alone))
      -- a late answer may miss the deadline
      assert.is_true((counts[504] or 0) <= 0.1 * #answers, (counts[504] or 0) .. " times 504")
      assert.equal(#answers, served + counts[503] + (counts[504] or 0))
      for _, answer in ipairs(answers) do
        if answer.status == 503 then
          assert.is_true(tonumber(answer.headers["retry-after"]) >= 1)
          assert.equal("overloaded", (select(2, gateway_bed.read_error(answer))))
        end
      end
    end)
  end
end)

describe("a wait for another attempt", function()
  for what, order in pairs {
    ["for Retry-After"] = { status = 429, headers = { { "Retry-After", "1" } } }, ["for a back-off"] = { status = 500 },
  } do
    it(what .. " leaves the runner to others", function()
      local server = bed:start { workers = 1, locations = gateway_probe.LOCATIONS,
        gateway = "timeout = 60, max_inflight = 1, retries = 2" }
      order.together = 2 -- the refusal waits for a second one, or a reset
      bed.stub:plan(order)
      local refused = load.send(server.port, request "refused")
      gateway_bed.await("the token request", function() return #bed.stub:requests() == 1 end)
      local other = load.send(server.port, request "other")
      gateway_bed.await("the other one in the queue", function()
        return gateway_probe.read_metric(server.port, "icptoken_queued") == 1
      end)
      assert.same({ "refused" }, list_asked())
      bed.stub:reset()
      assert.equal(200, load.receive(other).status)
      assert.equal(200, load.receive(refused).status)
      assert.same({ "other", "refused" }, list_asked())
    end)
  end

  it("after which there is no time for an attempt ends with the failure of the cluster", function()
    local server = bed:start { workers = 2, gateway = "timeout = 3, retries = 2" }
    bed.stub:plan({ status = 500 }, { raw = HANG.raw, ["end"] = HANG["end"], times = "forever" })
    local answers = load.run(server.port, 20, function() return request "said" end)
    -- One more where the other worker's requests came so much later that they had time for an attempt of their own. On
    -- a busy machine that may be so late that nothing is left of what the cluster said.
    local asked, counts = #list_asked(), load.count(answers)
    assert.is_true(asked == 2 or asked == 3, asked .. " token requests")
    assert.equal(20, counts[502] + (asked == 3 and counts[504] or 0))
    for _, answer in ipairs(answers) do
      if answer.status == 502 then assert.equal("server_error", (select(2, gateway_bed.read_error(answer)))) end
    end
  end)
end)

describe("one answer in five that hangs", function()
  it("delays its own request only, and briefly", function()
    local server = bed:start { workers = 1, gateway = "timeout = 60, max_inflight = 4, hedge_after = NONE" }
    local orders = {}
    for i = 1, 100, 2 do
      orders[i] = { delay = { before = 0.01 }, times = 4 }
      orders[i + 1] = HANG
    end
    bed.stub:plan(unpack(orders))
    local answers = load.run(server.port, 60, function(i) return request("hanging" .. i) end, 4)
    assert.same({ [200] = 60 }, load.count(answers))
    for _, answer in ipairs(answers) do assert.is_true(answer.seconds < 60 / 2) end
  end)

  it("delays its own request only, also after the endpoint has been slow to refuse unknown credentials", function()
    local server = bed:start { workers = 1, gateway = "timeout = 60, max_inflight = 4, hedge_after = NONE" }
    bed.stub:plan { delay = { before = 0.01 }, times = 16 }
    assert.same({ [200] = 16 }, load.count(load.run(server.port, 16, function(i) return request("quick" .. i) end, 1)))
    bed.stub:reset()
    bed.stub:plan { status = 401, delay = { before = 1 }, times = "forever" }
    local refused = load.run(server.port, 12, function(i)
      return { target = "/v2/strange/manifests/1", headers = { Authorization = "Bearer stranger" .. i } }
    end)
    assert.same({ [401] = 12 }, load.count(refused))
    bed.stub:reset()
    bed.stub:plan(HANG)
    assert.equal(200, load.request(server.port, request "hanging").status)
  end)

  it("adds no more than the budget to the load of an endpoint that is slow for all", function()
    local REQUESTS, BUDGET, SHARE = 60, 10, 0.4
    local server = bed:start { workers = 1, gateway = "timeout = 60, max_inflight = 1, hedge_after = NONE" }
    bed.stub:plan { delay = { before = 0.01 }, times = 16 }
    load.run(server.port, 16, function(i) return request("quick" .. i) end, 1)
    bed.stub:reset()
    bed.stub:plan { delay = { before = 0.5 }, times = "forever" }
    load.run(server.port, REQUESTS, function(i) return request("slow" .. i) end, 1)
    local asked = #bed.stub:requests()
    -- the initial budget, what was earned, and one more, as the last one may overdraw it
    assert.is_true(asked <= REQUESTS + 2 * BUDGET + SHARE * REQUESTS + 3, asked .. " token requests")
  end)
end)

describe("a failure of one key", function()
  local server

  before_each(function()
    server = bed:start { workers = 1, locations = gateway_probe.LOCATIONS }
  end)

  local function make_due(...)
    for _, name in ipairs { ... } do assert.equal(200, load.request(server.port, request(name)).status) end
    gateway_probe.age_tokens(server.port)
    bed.stub:reset()
  end

  -- Uses tokens that are due for renewal, one after the other, and waits for the token request of each.
  local function use(...)
    for i, name in ipairs { ... } do
      assert.equal(200, load.request(server.port, request(name)).status)
      gateway_bed.await("the renewal of " .. name, function() return #bed.stub:requests() == i end)
      gateway_bed.await("its completion", function()
        return gateway_probe.read_metric(server.port, "icptoken_inflight") == 0
      end)
    end
  end

  for _, row in ipairs {
    { status = 429, headers = { { "Retry-After", "3600" } } }, { status = 403 }, { status = 404 },
  } do
    it(("with %d does not pause the renewals of others"):format(row.status), function()
      make_due("one", "two", "three", "four")
      row.times = 3
      bed.stub:plan(row)
      use("one", "two", "three", "four")
      assert.equal(0, gateway_probe.read_metric(server.port, "icptoken_endpoint_paused"))
    end)
  end

  it("pauses those of all others only as the third in a row", function()
    make_due("one", "two", "three", "four")
    -- a pause that is not over before it is looked at
    local row = { status = 503, headers = { { "Retry-After", "3600" } }, times = "forever" }
    bed.stub:plan(row)
    use("one", "two")
    assert.equal(0, gateway_probe.read_metric(server.port, "icptoken_endpoint_paused"))
    bed.stub:reset()
    bed.stub:plan(row)
    use "three"
    assert.equal(1, gateway_probe.read_metric(server.port, "icptoken_endpoint_paused"))
  end)
end)

describe("an ID token that expires before the answer to its token request", function()
  it("gets no token", function()
    local server = bed:start { workers = 1, gateway = "timeout = 120" }
    local seconds = 1.5
    repeat -- on a busy machine it may expire before the token request is made
      seconds = 2 * seconds
      local id_token = cases.make_jwt(('{"exp":%d}'):format(os.time() + seconds))
      bed.stub:reset()
      bed.stub:set { id_tokens = { id_token } }
      bed.stub:plan { delay = { before = seconds + 2 } }
      local answer = load.request(server.port, request("expiring", { Authorization = "Bearer " .. id_token }))
      assert.equal(401, answer.status)
    until #bed.stub:requests() > 0 or seconds > 30
    assert.equal(1, #bed.stub:requests())
  end)
end)
