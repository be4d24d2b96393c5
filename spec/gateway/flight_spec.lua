-- Many cold requests at once, in two workers: there is one token request per key, few are sent at a time, and all
-- requests are served.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local mime = require "mime"
local stub_client = require "stub.client"
local testkit = require "testkit"

local REQUESTS = 1000
local CREDENTIALS = 300
local MAX_INFLIGHT = 8
-- How long the endpoint takes at first; it is doubled each time that not all requests have arrived meanwhile.
local SLOW_SECONDS = 1.5
local QUICK_SECONDS = 0.1

local bed, server

setup(function()
  bed = gateway_bed.open()
  server = bed:start { gateway = "timeout = 60, max_inflight = " .. MAX_INFLIGHT,
    locations = gateway_probe.LOCATIONS .. "add_header X-Times '$msec $request_time' always;" }
end)
teardown(function() gateway_bed.close(bed) end)
before_each(function() bed.stub:reset() end)

-- Returns whether nginx had received all requests this many seconds before it sent the first answer.
local function came_all(answers, seconds)
  local last_came, first_left = 0, math.huge
  for _, answer in ipairs(answers) do
    local left, took = assert(answer.headers, answer.problem)["x-times"]:match "^(%S+) (%S+)$"
    last_came, first_left = math.max(last_came, left - took), math.min(first_left, tonumber(left))
  end
  return last_came < first_left - seconds
end

-- Whether each of two workers had a fair number of the requests: the one that accepts first when both are idle may be
-- the only one that runs for a while.
local function had_both(answers)
  local workers = 0
  for _, count in pairs(gateway_probe.count_by_worker(answers)) do
    if count > REQUESTS / 100 then workers = workers + 1 end
  end
  return workers == 2
end

-- Sends all requests at once to both workers, for one repository, with an endpoint that behaves as ordered, and is so
-- slow that all have arrived before it answers.
local function ask_at_once(repository, order)
  local seconds, answers = SLOW_SECONDS, nil
  return gateway_bed.await("all requests to come at once", function()
    bed.stub:reset()
    order.delay, order.times = { before = seconds }, "forever"
    bed.stub:plan(order)
    local request = bed:request(("/v2/%s/%d/manifests/latest"):format(repository, seconds * 1000))
    answers = load.run(server.port, REQUESTS, function() return request end)
    seconds = 2 * seconds
    return came_all(answers, seconds / 4) and had_both(answers) and answers
  end)
end

describe("1,000 cold requests at once with one credential", function()
  it("cost one token request, whose token all get, in both workers", function()
    local answers = ask_at_once("one/token", {})
    assert.same({ [200] = REQUESTS }, load.count(answers))
    assert.equal(1, #bed.stub:requests())
    local tokens, different = {}, 0
    for _, answer in ipairs(answers) do
      local authorization = gateway_bed.read_echo(answer).headers.authorization
      if not tokens[authorization] then different = different + 1 end
      tokens[authorization] = true
    end
    assert.equal(1, different)
  end)

  for _, row in ipairs {
    { what = "an endpoint that fails", order = { status = 500 }, status = 502 },
    { what = "a refusal", order = { status = 403 }, status = 403 },
    { what = "a limit", order = { status = 429, headers = { { "Retry-After", "7" } } }, status = 429 },
  } do
    it("cost one token request that ends with " .. row.what .. ", which is reported to all, in both workers", function()
      local answers = ask_at_once("one/failure-" .. row.status, row.order)
      assert.same({ [row.status] = REQUESTS }, load.count(answers))
      assert.equal(1, #bed.stub:requests())
      for _, answer in ipairs(answers) do
        assert.equal(row.status == 429 and "7" or nil, answer.headers["retry-after"])
      end
    end)
  end
end)

-- Half of them users, half of them ID tokens.
local function make_credentials()
  local users, id_tokens, credentials = {}, {}, {}
  for i = 1, CREDENTIALS, 2 do
    users["user" .. i] = "secret"
    credentials[i] = "Basic " .. mime.b64("user" .. i .. ":secret")
    id_tokens[#id_tokens + 1] = "id-token-" .. i
    credentials[i + 1] = "Bearer id-token-" .. i
  end
  bed.stub:set { users = users, id_tokens = id_tokens }
  return credentials
end

-- Returns the times at which the endpoint received the token requests of each worker.
local function list_times(answers, credentials)
  local worker_of, times = {}, {}
  for i, answer in ipairs(answers) do worker_of[credentials[i]] = gateway_probe.read_worker(answer) end
  for _, token_request in ipairs(bed.stub:requests()) do
    local worker = worker_of[stub_client.header(token_request, "Authorization")]
    times[worker] = times[worker] or {}
    table.insert(times[worker], token_request.time)
  end
  return times
end

-- Returns the greatest number of token requests that overlapped. Each takes at least this long.
local function count_overlapping(times, seconds)
  local most, first = 0, 1
  for last, time in ipairs(times) do
    while times[first] <= time - seconds do first = first + 1 end
    most = math.max(most, last - first + 1)
  end
  return most
end

describe("many credentials at once", function()
  -- Checks that all are served, that at most this many token requests were in progress in a worker, and, in the one
  -- that had most of them, at least half as many.
  local function assert_served(credentials, repository, most)
    bed.stub:plan { delay = { before = QUICK_SECONDS }, times = "forever" }
    local answers = load.run(server.port, CREDENTIALS, function(i)
      return bed:request("/v2/" .. repository .. "/manifests/latest", "GET", { Authorization = credentials[i] })
    end)
    assert.same({ [200] = CREDENTIALS }, load.count(answers))
    assert.equal(CREDENTIALS, #bed.stub:requests())
    -- on a busy machine one worker may accept nearly all connections
    for _, times in pairs(list_times(answers, credentials)) do
      local overlapping = count_overlapping(times, QUICK_SECONDS)
      assert.is_true(overlapping <= most, overlapping .. " token requests at once")
      if #times >= CREDENTIALS / 2 then
        assert.is_true(overlapping >= most / 2, "only " .. overlapping .. " token requests at once")
      end
    end
  end

  it("are all served: unknown ones by half of max_inflight a worker, and by all of it once they had a token", function()
    local credentials = make_credentials()
    assert_served(credentials, "many/unknown", MAX_INFLIGHT / 2)
    bed.stub:reset()
    make_credentials()
    assert_served(credentials, "many/known", MAX_INFLIGHT)
  end)
end)

-- nginx drops a timer that is one too many, with a line in its log, but does not report that to Lua.
describe("a worker that had no timers left", function()
  local LOCATIONS = [[
    location = /timers {
      content_by_lua_block {
        for _ = 1, tonumber(ngx.var.arg_count) do ngx.timer.at(0, function() ngx.sleep(1) end) end
      }
    }
    # makes it look as if another process were asking for all tokens that there are; "1:" is init
    location = /lock {
      content_by_lua_block {
        local dict = ngx.shared.icptoken
        local store = require "icptoken.gateway.store".new(dict, print)
        for _, name in ipairs(dict:get_keys(0)) do
          if #name == 32 then
            dict:delete(name)
            ngx.print(tostring(store:lock(name, "1:1", 60)))
          end
        end
      }
    }
    location = /unlock {
      content_by_lua_block {
        local dict = ngx.shared.icptoken
        for _, name in ipairs(dict:get_keys(0)) do
          if #name == 33 and name:sub(1, 1) == "l" then dict:delete(name) end
        end
      }
    }
  ]]

  local function start(timers, options)
    return bed:start { workers = 1, gateway = options, locations = LOCATIONS,
      servers = ("lua_max_running_timers %d;"):format(timers) }
  end

  local function request(name) return bed:request("/v2/timers/" .. name .. "/manifests/latest") end

  local function await_answer(narrow, name)
    gateway_bed.await("an answer", function() return load.request(narrow.port, request(name)).status == 200 end)
  end

  for _, row in ipairs { { "the same token", "image1" }, { "another token", "other" } } do
    it("makes token requests once it has, for " .. row[1], function()
      local narrow = start(4, "timeout = 1")
      load.request(narrow.port, { target = "/timers?count=4" })
      load.run(narrow.port, 2 * MAX_INFLIGHT, function(i) return request("image" .. i) end)
      await_answer(narrow, row[2])
    end)
  end

  it("polls again for the result of another worker", function()
    local narrow = start(1, "timeout = 6, max_inflight = 1")
    await_answer(narrow, "watched")
    assert.equal("true", load.request(narrow.port, { target = "/lock" }).body)
    -- the only timer is that of a runner, so that of the poller is dropped
    bed.stub:plan { delay = { before = 1.5 }, times = 2 }
    local sent = {}
    for i, name in ipairs { "slow1", "watched", "slow2" } do
      sent[i] = load.send(narrow.port, request(name))
      if i == 1 then gateway_bed.await("a token request", function() return #bed.stub:requests() == 2 end) end
    end
    local statuses = {}
    for i, connection in ipairs(sent) do statuses[i] = load.receive(connection).status end
    assert.same({ 200, 504, 200 }, statuses)
    assert.is_truthy(narrow:log():find("lua_max_running_timers are not enough", 1, true))
    load.request(narrow.port, { target = "/unlock" })
    await_answer(narrow, "watched")
  end)
end)

-- thread_pool and lua_worker_thread_vm_pool_size, one of which is too small.
for what, narrow in pairs {
  ["too few threads"] = { gateway = 'thread_pool = "narrow"', main = "thread_pool narrow threads=1;" },
  ["too few Lua states"] = { servers = "lua_worker_thread_vm_pool_size 1;" },
} do
  describe(what, function()
    local TOKEN_REQUESTS = 6

    local function request(name) return bed:request("/v2/narrow/" .. name .. "/manifests/latest") end

    -- The credential has had a token, so it is known to be right and may be used for several requests at once.
    local function start(options)
      local one = bed:start { workers = 1, gateway = (narrow.gateway and narrow.gateway .. ", " or "") .. options,
        main = narrow.main, servers = narrow.servers }
      assert.equal(200, load.request(one.port, request "first").status)
      bed.stub:reset()
      return one
    end

    local function ask_all(one)
      return load.run(one.port, TOKEN_REQUESTS, function(i) return request("image" .. i) end)
    end

    local function await_line(one)
      gateway_bed.await("the line", function()
        return one:log():match "%[warn%][^\n]* lua_worker_thread_vm_pool_size must each be at least the sum"
      end)
    end

    it("are requested one after the other", function()
      local one = start "timeout = 60"
      bed.stub:plan { delay = { before = QUICK_SECONDS }, times = "forever" }
      assert.same({ [200] = TOKEN_REQUESTS }, load.count(ask_all(one)))
      assert.equal(TOKEN_REQUESTS, #bed.stub:requests())
    end)

    it("delay no request beyond its deadline, and cause a line in the log", function()
      local one = start "timeout = 2"
      bed.stub:plan { raw = "", ["end"] = "hold", times = TOKEN_REQUESTS }
      local answers = ask_all(one)
      local counts = load.count(answers)
      assert.equal(TOKEN_REQUESTS, (counts[503] or 0) + (counts[504] or 0))
      -- all waited at the same time: one after the other would have taken six times as long
      local least, most = math.huge, 0
      for _, answer in ipairs(answers) do
        least, most = math.min(least, answer.seconds), math.max(most, answer.seconds)
      end
      assert.is_true(most < 3 * math.max(least, 1), ("%.2f s and %.2f s"):format(least, most))
      bed.stub:reset()
      gateway_bed.await("an answer", function() return load.request(one.port, request "after").status == 200 end)
      await_line(one)
    end)

    it("do not count as a failure of the endpoint", function()
      local timeout, one, counts = 2
      repeat -- on a busy machine the first answer may arrive after its deadline, too, which counts as an outage
        timeout = 2 * timeout
        one = start("timeout = " .. timeout)
        -- one answer comes in time, however much later than the first request the second one arrives
        bed.stub:plan { delay = { before = 0.75 * timeout }, times = "forever" }
        counts = load.count(ask_all(one))
      until counts[200] or timeout > 30
      assert.equal(1, counts[200])
      assert.equal(TOKEN_REQUESTS, (counts[200] or 0) + (counts[503] or 0) + (counts[504] or 0))
      await_line(one)
      assert.is_nil(one:log():find(" fail: ", 1, true))
    end)
  end)
end

describe("an endpoint that is too slow for all requests", function()
  local CROWD, BUSY = 500, 8

  local function keep_busy()
    local busy = {}
    for i = 1, BUSY do
      busy[i] = assert(testkit.spawn { "sh", "-c", "while :; do :; done", death_signal = "KILL" })
    end
    finally(function()
      for _, pid in ipairs(busy) do
        testkit.kill(pid, "KILL")
        testkit.waitpid(pid)
      end
    end)
  end

  for where, crowd in pairs { [""] = CROWD / 5, [", on a busy machine #deep"] = CROWD } do
    it("causes no line about threads and Lua states if there are enough" .. where, function()
      if crowd == CROWD then keep_busy() end
      -- it is logged after a wait of a tenth of the timeout, and on a busy machine a thread takes a while to wake up
      local one = bed:start { workers = 1, gateway = "timeout = 20, max_inflight = 4",
        servers = "lua_worker_thread_vm_pool_size 8;" }
      bed.stub:plan { delay = { before = 2 }, times = "forever" }
      local answers = load.run(one.port, crowd, function(i)
        return bed:request("/v2/overload/image" .. i .. "/manifests/latest")
      end)
      local counts = load.count(answers)
      assert.is_true(counts[200] < crowd)
      assert.equal(crowd, counts[200] + (counts[503] or 0) + (counts[504] or 0))
      assert.is_nil(one:log():find("lua_worker_thread_vm_pool_size", 1, true))
    end)
  end
end)
