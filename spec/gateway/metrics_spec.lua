-- gateway:metrics: text that Prometheus reads, with the counts of all workers, and with nothing of a request in it.

local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local testkit = require "testkit"

local LABELS = { gateway = true, result = true, code = true, le = true }

-- A sample's value, by its name and labels as they stand.
local function read_samples(text)
  local samples = {}
  for line in text:gmatch "[^\n]+" do
    local name, value = line:match "^([^# ].*) (%S+)$"
    if name then samples[name] = assert(tonumber(value), line) end
  end
  return samples
end

local function read_labels(text)
  local labels = {}
  local rest = text:gsub('([%a_][%w_]*)="([^"\\\n]*)",?', function(name, value)
    assert.is_nil(labels[name])
    labels[name] = value
    return ""
  end)
  assert.equal("", rest)
  return labels
end

-- What https://prometheus.io/docs/instrumenting/exposition_formats/ asks of the text format.
local function check_format(text)
  assert.equal("\n", text:sub(-1))
  local kinds, helped, seen, family = {}, {}, {}, nil
  for line in text:gmatch "([^\n]*)\n" do
    local word, name, rest = line:match "^# (%u+) ([%a_:][%w_:]*) (.+)$"
    if word == "HELP" then
      assert.is_nil(helped[name], line)
      helped[name] = true
    elseif word then
      assert.equal("TYPE", word)
      assert.is_true(helped[name] and not kinds[name], line)
      assert.is_true(rest == "counter" or rest == "gauge" or rest == "histogram", line)
      kinds[name], family = rest, name
    else
      local sample, labels, value = line:match "^([%a_:][%w_:]*){(.*)} (%S+)$"
      assert.is_truthy(sample, line)
      assert.is_number(tonumber(value), line)
      assert.is_nil(seen[sample .. labels], line)
      seen[sample .. labels] = true
      for label in pairs(read_labels(labels)) do assert.is_true(LABELS[label], line) end
      local suffix = sample:sub(#family + 1)
      assert.equal(family, sample:sub(1, #family), line)
      assert.equal(kinds[family] == "histogram", suffix ~= "", line)
      assert.equal(kinds[family] == "counter", family:find "_total$" ~= nil, line)
    end
  end
end

-- Buckets that add up, in order, and end with all.
local function check_histogram(text, name)
  local last_bound, last_count = -math.huge, 0
  for bound, count in text:gmatch(name .. '_bucket{[^}]*le="([^"]+)"} (%d+)') do
    bound, count = bound == "+Inf" and math.huge or tonumber(bound), tonumber(count)
    assert.is_true(bound > last_bound and count >= last_count)
    last_bound, last_count = bound, count
  end
  assert.equal(math.huge, last_bound)
  assert.equal(last_count, tonumber(text:match(name .. "_count{[^}]*} (%d+)")))
  assert.is_true(tonumber(text:match(name .. "_sum{[^}]*} (%S+)")) >= 0)
  return last_count
end

describe("the metrics", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function read(gate)
    local answer = load.request(gate.port, { target = "/metrics" })
    return assert(answer.body, answer.problem)
  end

  -- What has been added to each of these samples since; all others must stand where they stood.
  local function count_changes(gate, before)
    local changes = {}
    for name, value in pairs(read_samples(read(gate))) do
      local change = value - before[name]
      if change ~= 0 and not name:find "_seconds" and not name:find "_free_bytes" then
        changes[name:gsub('gateway="[^"]*",?', "")] = change
      end
    end
    return changes
  end

  local function ask_each(gate, count, make)
    return load.count(load.run(gate.port, count, make, 10))
  end

  it("are valid, whatever happened", function()
    local gate = bed:start()
    check_format(read(gate))
    ask_each(gate, 10, function(i) return bed:request(("/v2/a%d/manifests/1"):format(i)) end)
    bed.stub:plan({ status = 500 }, { delay = { before = 0.3 } }, { status = 401 })
    ask_each(gate, 3, function(i) return bed:request(("/v2/b%d/manifests/1"):format(i)) end)
    local text = read(gate)
    check_format(text)
    assert.equal(13, check_histogram(text, "icptoken_fetch_seconds"))
    assert.equal(13, check_histogram(text, "icptoken_wait_seconds"))
    gate:stop()
  end)

  it("are right over two workers", function()
    local gate = bed:start()
    local workers, before = gateway_bed.await_workers(gate, 2), read_samples(read(gate))
    finally(function()
      for _, pid in ipairs(workers) do testkit.kill(pid, "CONT") end
      gate:stop()
    end)
    for turn, stopped in ipairs(workers) do
      -- the other worker serves all of them
      testkit.kill(stopped, "STOP")
      ask_each(gate, 10, function(i) return bed:request(("/v2/a%d-%d/manifests/1"):format(turn, i)) end)
      ask_each(gate, 30, function(i) return bed:request(("/v2/a%d-%d/manifests/1"):format(turn, i % 10 + 1)) end)
      ask_each(gate, 5, function() return { target = "/v2/" } end)
      ask_each(gate, 4, function() return bed:request "/v2/A" end)
      ask_each(gate, 3, function() return bed:request("/v2/", "OPTIONS") end)
      bed.stub:plan({ status = 403 }, { status = 500 })
      load.run(gate.port, 2, function(i) return bed:request(("/v2/b%d-%d/manifests/1"):format(turn, i)) end, 1)
      testkit.kill(stopped, "CONT")
    end
    assert.same({
      ['icptoken_requests_total{result="fresh"}'] = 20, ['icptoken_requests_total{result="cached"}'] = 60,
      ['icptoken_requests_total{result="no_credential"}'] = 10, ['icptoken_requests_total{result="name_invalid"}'] = 8,
      ['icptoken_requests_total{result="method_not_allowed"}'] = 6, ['icptoken_requests_total{result="forbidden"}'] = 2,
      ['icptoken_requests_total{result="server_error"}'] = 2, ['icptoken_fetches_total{code="ok"}'] = 20,
      ['icptoken_fetches_total{code="forbidden"}'] = 2, ['icptoken_fetches_total{code="server_error"}'] = 2,
    }, count_changes(gate, before))
  end)

  it("count one question for many requests", function()
    local gate = bed:start()
    local before = read_samples(read(gate))
    bed.stub:plan { delay = { before = 0.2 } }
    assert.same({ [200] = 100 }, load.count(load.run(gate.port, 100, function() return bed:request "/v2/" end)))
    local changes = count_changes(gate, before)
    assert.equal(1, changes['icptoken_fetches_total{code="ok"}'])
    assert.equal(100, changes['icptoken_requests_total{result="fresh"}']
      + (changes['icptoken_requests_total{result="cached"}'] or 0))
    gate:stop()
  end)

  it("have no sample that comes with a request, and name nobody", function()
    bed.stub:set { users = { ["joe-the-user"] = "pass" } }
    local gate = bed:start { gateway = [[name = "gate"]] }
    local before = read(gate)
    for i, authorization in ipairs { bed.credential, "Basic am9lLXRoZS11c2VyOnBhc3M=", "Bearer x", "" } do
      for _, target in ipairs { "/v2/private-name%d/manifests/1", "/v2/private-name%d//1", "/v2/_catalog?%d" } do
        load.request(gate.port, bed:request(target:format(i), "GET", { Authorization = authorization }))
      end
    end
    local after = read(gate)
    local samples = read_samples(after)
    for name in pairs(read_samples(before)) do
      assert.is_number(samples[name], name)
      samples[name] = nil
    end
    assert.same({}, samples)
    for _, words in ipairs { "joe", "am9l", "private", "token-service", "eyJ", "admin" } do
      assert.is_nil(after:find(words, 1, true))
    end
    gate:stop()
  end)

  it("outlive a worker, and forget what it had under way", function()
    local gate = bed:start { gateway = "max_inflight = 1", workers = 1 }
    local function gauge(name)
      return tonumber(load.perform(gate.port, { target = "/metrics" }).body:match(name .. "{[^}]*} (%d+)"))
    end
    ask_each(gate, 10, function(i) return bed:request(("/v2/a%d/manifests/1"):format(i)) end)
    bed.stub:plan { ["end"] = "hold", raw = "", times = "forever" }
    local lost = {}
    local function wait_for(i)
      return function() lost[i] = load.perform(gate.port, bed:request(("/v2/held%d/manifests/1"):format(i))) end
    end
    load.together(wait_for(1), wait_for(2), function()
      gateway_bed.await("a question and a queue", function()
        return gauge "icptoken_inflight" == 1 and gauge "icptoken_queued" == 1
      end)
      local worker = gateway_bed.await_workers(gate, 1)[1]
      testkit.kill(worker, "KILL")
      gateway_bed.await("its successor", function()
        local pid = gate:workers()[1]
        return pid and pid ~= worker and load.perform(gate.port, { target = "/elsewhere" }).status
      end)
    end)
    assert.is_truthy(lost[1].problem and lost[2].problem)
    local samples = read_samples(read(gate))
    local host = ("localhost:%d"):format(bed.stub.port)
    assert.equal(10, samples[('icptoken_requests_total{gateway="%s",result="fresh"}'):format(host)])
    assert.equal(10, samples[('icptoken_fetches_total{gateway="%s",code="ok"}'):format(host)])
    assert.equal(0, samples[('icptoken_inflight{gateway="%s"}'):format(host)])
    assert.equal(0, samples[('icptoken_queued{gateway="%s"}'):format(host)])
    bed.stub:reset()
    ask_each(gate, 5, function(i) return bed:request(("/v2/b%d/manifests/1"):format(i)) end)
    assert.equal(15, read_samples(read(gate))[('icptoken_fetches_total{gateway="%s",code="ok"}'):format(host)])
    gate:stop()
  end)

  it("say when renewals wait, and what they serve meanwhile", function()
    -- has the token's renewal due
    local gate = bed:start { gateway = [[name = "gate"]], locations = [[location = /age {
      content_by_lua_block {
        local dict, now = ngx.shared.icptoken, require("icptoken.gateway.clock").now()
        local store = require("icptoken.gateway.store").new(dict, print)
        for _, name in ipairs(dict:get_keys(0)) do
          if #name == 32 then store:put_token(name, store:get_token(name), now - 1, now + 3600) end
        end
      }
    }]] }
    local function paused()
      return read_samples(read(gate))['icptoken_endpoint_paused{gateway="gate"}']
    end
    load.request(gate.port, bed:request "/v2/")
    assert.equal(0, paused())
    load.request(gate.port, { target = "/age" })
    bed.stub:plan { status = 500, times = "forever" }
    -- the third key that fails in a row is the renewal's
    for i = 1, 2 do load.request(gate.port, bed:request("/v2/failing/image" .. i .. "/manifests/latest")) end
    load.request(gate.port, bed:request "/v2/")
    gateway_bed.await("the pause", function() return paused() == 1 end)
    load.request(gate.port, bed:request "/v2/")
    assert.equal(1, read_samples(read(gate))['icptoken_requests_total{gateway="gate",result="stale"}'])
    bed.stub:reset()
    gateway_bed.await("its end", function()
      assert.equal(200, load.request(gate.port, bed:request "/v2/").status)
      return paused() == 0
    end)
    gate:stop()
  end)

  it("are of all gateways that are passed, each under its name", function()
    local gate = bed:start { gateway = ([=[name = (function()
      other = require("icptoken.gateway").new { name = [[a "quoted" \ name]], host = "mycluster.icp", port = %d }
      return "one"
    end)()]=]):format(bed.stub.port), locations = [[location = /both {
      content_by_lua_block { ngx.print(gateway:metrics(other)) }
    }]] }
    load.request(gate.port, bed:request "/v2/")
    local text = load.request(gate.port, { target = "/both" }).body
    local samples = read_samples(text)
    assert.equal(1, samples['icptoken_fetches_total{gateway="one",code="ok"}'])
    assert.equal(0, samples[ [[icptoken_fetches_total{gateway="a \"quoted\" \\ name",code="ok"}]] ])
    check_format((text:gsub([[a \"quoted\" \\ name]], "other")))
    gate:stop()
  end)

  it("are not of two with one name, which Prometheus would refuse", function()
    local gate = bed:start { locations = [[location = /twice {
      content_by_lua_block { ngx.print(tostring(select(2, pcall(gateway.metrics, gateway, gateway)))) }
    }]] }
    local text = load.request(gate.port, { target = "/twice" }).body
    assert.matches(("two are called 'localhost:%d'; give them the option 'name'"):format(bed.stub.port), text, 1, true)
    gate:stop()
  end)

  it("know the dict", function()
    local gate = bed:start { gateway = [[name = "gate"]], dict = "8m" }
    local samples = read_samples(read(gate))
    assert.equal(8 * 2 ^ 20, samples['icptoken_dict_bytes{gateway="gate"}'])
    local free = samples['icptoken_dict_free_bytes{gateway="gate"}']
    assert.is_true(free > 0 and free < 8 * 2 ^ 20)
    ask_each(gate, 100, function(i) return bed:request(("/v2/a%d/manifests/1"):format(i)) end)
    assert.is_true(read_samples(read(gate))['icptoken_dict_free_bytes{gateway="gate"}'] < free)
    gate:stop()
  end)
end)
