-- gateway:metrics and gateway:scrape: text that Prometheus reads, with the counts of all workers, and without any data
-- of a request.

local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local pause = require "support.pause"
local shell = require "support.shell"
local testkit = require "testkit"

local LABELS = { gateway = true, result = true, code = true, le = true, class = true, worker = true, resource = true,
  endpoint = true, certificate = true, reason = true, age = true, version = true, nginx = true, ngx_lua = true }
-- Prometheus's own linter; and the parsers of its client for Python, which check more of each format.
local PROMTOOL = "promtool check metrics"
local PARSE = [[/usr/bin/python3 -c '
import sys
from prometheus_client.%s import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
  assert family.documentation, family.name
']]
local PARSE_TEXT, PARSE_OPENMETRICS = PARSE:format "parser", PARSE:format "openmetrics.parser"

local CONTENT_TYPES = { text = "text/plain; version=0.0.4; charset=utf-8",
  openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8" }

-- The values of samples, by name and labels as written.
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

-- Fails, with its output, if a program does not accept a text without complaint.
local function check_with(program, text)
  local path = os.tmpname()
  files.write(path, text)
  local output = shell.run(("%s <%s 2>&1; echo $?"):format(program, path))
  os.remove(path)
  assert.equal("0\n", output)
end

-- Checks the rules of https://prometheus.io/docs/instrumenting/exposition_formats/ for the text format.
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

-- Checks that buckets are cumulative, in order, and end with the total.
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
  local bed, scraped
  setup(function()
    bed = gateway_bed.open()
    scraped = bed:start { gateway = [[name = "a \"quoted\" \\ name"]],
      locations = "location = /scrape { content_by_lua_block { gateway:scrape() } }" }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function read(gate)
    local answer = load.request(gate.port, { target = "/metrics" })
    return assert(answer.body, answer.problem)
  end

  -- Checks how much these samples have increased since; all others must be unchanged.
  local function count_changes(gate, before)
    local changes = {}
    for name, value in pairs(read_samples(read(gate))) do
      local change = value - (before[name] or 0)
      if change ~= 0 and not name:find "_seconds" and not name:find "_free_bytes" and not name:find "_started"
        and not name:find "_endpoint_up" then
        changes[name:gsub('gateway="[^"]*",?', "")] = change
      end
    end
    return changes
  end

  local function ask_each(gate, count, make)
    return load.count(load.run(gate.port, count, make, 10))
  end

  it("are valid after all kinds of events", function()
    local gate = bed:start()
    check_format(read(gate))
    ask_each(gate, 10, function(i) return bed:request(("/v2/a%d/manifests/1"):format(i)) end)
    bed.stub:plan({ status = 500 }, { delay = { before = 0.3 } }, { status = 401 })
    ask_each(gate, 3, function(i) return bed:request(("/v2/b%d/manifests/1"):format(i)) end)
    local text = read(gate)
    check_format(text)
    for _, program in ipairs { PROMTOOL, PARSE_TEXT } do check_with(program, text) end
    assert.equal(13, check_histogram(text, "icptoken_fetch_seconds"))
    assert.equal(13, check_histogram(text, "icptoken_wait_seconds"))
    gate:stop()
  end)

  -- The garbage of a scrape says how much text was made. (Without LuaJIT's compiler, which allocates memory, too.)
  it("are made again only where their numbers have changed", function()
    local gate = bed:start { workers = 1, locations = [[
      location = /scrape {
        content_by_lua_block {
          jit.off()
          collectgarbage "stop"
          local before = collectgarbage "count"
          gateway:scrape()
          local kilobytes = collectgarbage "count" - before
          collectgarbage "restart"
          ngx.print("# kilobytes ", kilobytes, "\n")
        }
      }]] }
    local function scrape()
      local text = load.request(gate.port, { target = "/scrape" }).body
      return text, tonumber(text:match "# kilobytes ([%d.]+)\n$")
    end
    local function ask()
      assert.equal(200, load.request(gate.port, bed:request "/v2/default/app/manifests/1").status)
    end
    local _, first = scrape()
    ask()
    scrape()
    ask()
    local text, kilobytes = scrape()
    for _, result in ipairs { "fresh", "cached" } do
      assert.matches('icptoken_requests_total{[^}]*result="' .. result .. '"} 1\n', text)
    end
    assert.is_true(first > 2 * #text / 1024, first)
    assert.is_true(kilobytes < #text / 1024, kilobytes)
    gate:stop()
  end)

  for _, case in ipairs {
    { nil, "text" }, { "", "text" }, { "*/*", "text" }, { "text/plain", "text" },
    { "application/openmetrics-text", "openmetrics" }, { "Application/OpenMetrics-Text; Version=1.0.0", "openmetrics" },
    { "application/openmetrics-text;version=2.0.0", "text" }, { "application/openmetrics-text;q=0", "text" },
    { "application/openmetrics-text;version=2.0.0,application/openmetrics-text;version=0.0.1;q=0.1", "openmetrics" },
    { "text/plain;q=0.5,application/openmetrics-text;q=0.4", "text" },
    { "text/plain;q=0.4,*/*;q=0.9,application/openmetrics-text;q=0.4", "openmetrics" },
    -- the Accept headers of Prometheus 2.42 and 3.5
    { "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
      .. "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "openmetrics" },
    { "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;"
      .. "version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,"
      .. "*/*;q=0.2", "openmetrics" },
    { ("application/openmetrics-text,"):rep(1000), "text" },
  } do
    local accept, format = case[1], case[2]

    it(("are sent as %s if a scrape accepts %s"):format(format, (accept or "nothing"):sub(1, 90)), function()
      local answer = load.request(scraped.port, { target = "/scrape", headers = { Accept = accept } })
      assert.equal(200, answer.status)
      assert.equal(CONTENT_TYPES[format], answer.headers["content-type"])
      assert.equal(format == "openmetrics", answer.body:find "\n# EOF\n$" ~= nil)
    end)
  end

  it("are the same in both formats, and valid", function()
    ask_each(scraped, 10, function(i) return bed:request(("/v2/a%d/manifests/1"):format(i)) end)
    local text = load.request(scraped.port, { target = "/scrape" }).body
    local other = load.request(scraped.port, { target = "/scrape",
      headers = { Accept = "application/openmetrics-text" } }).body
    check_format((text:gsub([[a \"quoted\" \\ name]], "other")))
    for _, program in ipairs { PROMTOOL, PARSE_TEXT } do check_with(program, text) end
    check_with(PARSE_OPENMETRICS, other)
    local samples = read_samples(text)
    for name in pairs(read_samples(other)) do
      assert.is_number(samples[name], name)
      samples[name] = nil
    end
    assert.same({}, samples)
  end)

  it("are correct over two workers", function()
    local gate = bed:start()
    local workers, before = gateway_bed.await_workers(gate, 2), read_samples(read(gate))
    finally(function()
      for _, pid in ipairs(workers) do testkit.kill(pid, "CONT") end
      gate:stop()
    end)
    for turn, stopped in ipairs(workers) do
      -- the other worker serves all of them
      pause(stopped)
      ask_each(gate, 10, function(i) return bed:request(("/v2/a%d-%d/manifests/1"):format(turn, i)) end)
      ask_each(gate, 30, function(i) return bed:request(("/v2/a%d-%d/manifests/1"):format(turn, i % 10 + 1)) end)
      ask_each(gate, 5, function() return { target = "/v2/" } end)
      ask_each(gate, 4, function() return bed:request "/v2/A" end)
      ask_each(gate, 3, function() return bed:request("/v2/", "OPTIONS") end)
      bed.stub:plan({ status = 403 }, { status = 500 })
      load.run(gate.port, 2, function(i) return bed:request(("/v2/b%d-%d/manifests/1"):format(turn, i)) end, 1)
      testkit.kill(stopped, "CONT")
    end
    local changes = count_changes(gate, before)
    -- a key's class depends on whether its credential has had a token when it is queued
    for result, count in pairs { ok = 20, refused = 2, failed = 2 } do
      local known, unknown = ('icptoken_fetch_results_total{class="known",result="%s"}'):format(result),
        ('icptoken_fetch_results_total{class="unknown",result="%s"}'):format(result)
      assert.equal(count, (changes[known] or 0) + (changes[unknown] or 0))
      changes[known], changes[unknown] = nil, nil
    end
    assert.same({
      ['icptoken_endpoint_results_total{endpoint="token",result="ok"}'] = 22,
      ['icptoken_endpoint_results_total{endpoint="token",result="failed"}'] = 2,
      ['icptoken_requests_total{result="fresh"}'] = 20, ['icptoken_requests_total{result="cached"}'] = 60,
      ['icptoken_requests_total{result="no_credential"}'] = 10, ['icptoken_requests_total{result="name_invalid"}'] = 8,
      ['icptoken_requests_total{result="method_not_allowed"}'] = 6, ['icptoken_requests_total{result="forbidden"}'] = 2,
      ['icptoken_requests_total{result="server_error"}'] = 2, ['icptoken_fetches_total{code="ok"}'] = 20,
      ['icptoken_fetches_total{code="forbidden"}'] = 2, ['icptoken_fetches_total{code="server_error"}'] = 2,
    }, changes)
  end)

  it("count one token request for many requests", function()
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

  it("get no new sample from a request, and name no user", function()
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
    -- unknown before the first connection
    samples['icptoken_certificate_expiry_timestamp_seconds{gateway="gate",certificate="endpoint"}'] = nil
    assert.same({}, samples)
    for _, words in ipairs { "joe", "am9l", "private", "token-service", "eyJ", "admin" } do
      assert.is_nil(after:find(words, 1, true))
    end
    gate:stop()
  end)

  it("survive a worker, except for what it had in progress", function()
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
      gateway_bed.await("a token request and a queue", function()
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

  it("show that renewals are paused, and which tokens are served meanwhile", function()
    -- makes the token due for renewal
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
    -- the third key that fails in a row is that of the renewal
    for i = 1, 2 do load.request(gate.port, bed:request("/v2/failing/image" .. i .. "/manifests/latest")) end
    load.request(gate.port, bed:request "/v2/")
    gateway_bed.await("the pause", function() return paused() == 1 end)
    local function count_stale()
      return read_samples(read(gate))['icptoken_requests_total{gateway="gate",result="stale"}']
    end
    -- on a busy machine a pause may be over before the request; then a renewal fails, and another pause begins
    gateway_bed.await("a stale token", function()
      assert.equal(200, load.request(gate.port, bed:request "/v2/").status)
      return count_stale() == 1
    end)
    bed.stub:reset()
    gateway_bed.await("its completion", function()
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

  it("are refused for two gateways with the same name, as Prometheus would refuse them", function()
    local gate = bed:start { locations = [[location = /twice {
      content_by_lua_block { ngx.print(tostring(select(2, pcall(gateway.metrics, gateway, gateway)))) }
    }]] }
    local text = load.request(gate.port, { target = "/twice" }).body
    assert.matches(("two gateways are called 'localhost:%d'; set the option 'name'"):format(bed.stub.port), text, 1,
      true)
    gate:stop()
  end)

  -- Creates a certificate that expires in this many days. Returns it in PEM, and its expiry.
  local function make_certificate(days)
    local path = os.tmpname()
    os.execute(("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s.key -out %s "
      .. "-days %d -subj /CN=x 2>/dev/null"):format(path, path, days))
    local process = assert(io.popen(("date -u +%%s -d \"$(openssl x509 -enddate -noout -in %s | cut -d= -f2)\"")
      :format(path)))
    local expiry, pem = tonumber(process:read "*l"), files.read(path)
    process:close()
    os.remove(path)
    os.remove(path .. ".key")
    return pem, expiry
  end

  it("show when certificates expire, also after a file has changed", function()
    local path = os.tmpname()
    local soon, soon_at = make_certificate(3)
    -- times after 2049 have another form
    local late, late_at = make_certificate(20000)
    files.write(path, files.read(bed.stub.ca) .. late .. soon)
    local gate = bed:start { gateway = ([[name = "gate", cacert = %q]]):format(path) }
    local function read_expiry(certificate)
      return read_samples(read(gate))[('icptoken_certificate_expiry_timestamp_seconds{gateway="gate",certificate="%s"}')
        :format(certificate)]
    end
    assert.equal(soon_at, read_expiry "cacert")
    assert.is_nil(read_expiry "cert")
    assert.is_nil(read_expiry "endpoint")
    load.request(gate.port, bed:request "/v2/")
    local process = assert(io.popen(("date -u +%%s -d \"$(openssl x509 -enddate -noout -in %s | cut -d= -f2)\"")
      :format(bed.stub.server_cert)))
    assert.equal(tonumber(process:read "*l"), read_expiry "endpoint")
    process:close()
    files.write(path, late)
    assert.equal(late_at, read_expiry "cacert")
    files.write(path, "no certificate")
    assert.is_nil(read_expiry "cacert")
    os.remove(path)
    assert.is_nil(read_expiry "cacert")
    os.execute("mkfifo " .. path)
    -- reading a pipe would wait for a writer
    assert.is_nil(read_expiry "cacert")
    os.remove(path)
    gate:stop()
  end)

  it("show limits, versions, and how many workers have started", function()
    local gate = bed:start { gateway = [[name = "gate", max_inflight = 3, max_queue = 50]], workers = 2 }
    gateway_bed.await("the workers", function()
      return read_samples(read(gate))['icptoken_workers_started{gateway="gate"}'] == 2
    end)
    local samples = read_samples(read(gate))
    for name, value in pairs { workers = 2, inflight_limit = 6, queue_limit = 100, inflight = 0, queued = 0 } do
      assert.equal(value, samples[('icptoken_%s{gateway="gate"}'):format(name)], name)
    end
    assert.is_number(samples['icptoken_worker_queued{gateway="gate",worker="1"}'])
    assert.matches('icptoken_build_info{gateway="gate",version="' .. require("icptoken")._VERSION:gsub("%p", "%%%0")
      .. '",nginx="1%.%d+%.%d+",ngx_lua="0%.10%.%d+"} 1\n', read(gate))
    gate:stop()
  end)

  it("show how old tokens are, which ones the registry rejects, and how long stale ones are still valid", function()
    local gate = bed:start { gateway = [[name = "gate"]], workers = 1 }
    local function get(name)
      return read_samples(read(gate))[name]
    end
    local AGE = 'icptoken_oldest_token_age_seconds{gateway="gate"}'
    assert.equal(0, get(AGE))
    local began_at = testkit.monotonic()
    gateway_bed.await("a token that is a second old", function()
      assert.equal(200, load.request(gate.port, bed:request "/v2/a/manifests/1").status)
      return get(AGE) >= 1
    end)
    -- the moment when a token was stored is known in whole seconds
    assert.is_true(get(AGE) <= testkit.monotonic() - began_at + 1)
    -- the registry rejects it
    local rejected = bed:request("/v2/a/manifests/1", "GET", { ["X-Test-Status"] = "401",
      ["X-Test-Challenge"] = 'Bearer realm="https://icp.example/t",service="s",error="invalid_token"' })
    load.request(gate.port, rejected)
    assert.equal(1, get 'icptoken_rejected_total{gateway="gate",reason="invalid_token",age="new"}')
    assert.equal(1, get 'icptoken_dropped_total{gateway="gate"}')
    -- the renewal of a token fails
    bed.stub:set { expires_in = 4 }
    load.request(gate.port, bed:request "/v2/b/manifests/1")
    bed.stub:plan { status = 500, times = "forever" }
    local expired = 0
    gateway_bed.await("a stale token", function()
      load.request(gate.port, bed:request "/v2/b/manifests/1")
      local count = get 'icptoken_stale_remaining_seconds_count{gateway="gate"}'
      local refused = get 'icptoken_requests_total{gateway="gate",result="server_error"}'
      -- on a busy machine it may have expired before it was requested again: then there is another one
      if count == 0 and refused > expired then
        expired = refused
        bed.stub:reset()
        bed.stub:set { expires_in = 4 }
        load.request(gate.port, bed:request "/v2/b/manifests/1")
        bed.stub:plan { status = 500, times = "forever" }
      end
      return count > 0
    end)
    assert.equal(get 'icptoken_requests_total{gateway="gate",result="stale"}',
      get 'icptoken_stale_remaining_seconds_bucket{gateway="gate",le="5.0"}')
    assert.is_true(get 'icptoken_fetch_results_total{gateway="gate",class="renewal",result="failed"}' >= 1)
    gate:stop()
  end)

  -- The cells of a new row are 0, and so is the number of the first minute after a machine's start.
  it("show how old tokens are in the first minutes after the machine's start", function()
    testkit.setenv("LD_PRELOAD", "build/clock_shift.so")
    local ok, gate = pcall(bed.start, bed, { gateway = [[name = "gate"]], workers = 1, locations = [[
      location = /uptime {
        content_by_lua_block {
          local ffi, clock = require "ffi", require "icptoken.gateway.clock"
          ffi.cdef "void clock_shift_set(const double *, bool);"
          shift = (shift or 0) + tonumber(ngx.var.arg_seconds) - clock.now()
          ffi.C.clock_shift_set(ffi.new("double[3]", 0, 0, shift), false)
        }
      }]] })
    testkit.unsetenv "LD_PRELOAD"
    assert(ok, gate)
    local function set_uptime(seconds)
      assert.equal(200, load.request(gate.port, { target = "/uptime?seconds=" .. seconds }).status)
    end
    local function get_age()
      return read_samples(read(gate))['icptoken_oldest_token_age_seconds{gateway="gate"}']
    end
    set_uptime(30)
    assert.equal(0, get_age())
    local began_at = testkit.monotonic()
    for _ = 1, 2 do load.request(gate.port, bed:request "/v2/a/manifests/1") end
    -- the moment when a token was stored is known in whole seconds
    assert.is_true(get_age() <= testkit.monotonic() - began_at + 1)
    began_at = testkit.monotonic()
    set_uptime(90)
    assert.is_true(get_age() <= 60 + testkit.monotonic() - began_at)
    gate:stop()
  end)

  it("show the size of the dict", function()
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
