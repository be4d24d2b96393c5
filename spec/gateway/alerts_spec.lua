-- The alerts and the dashboard of examples/monitoring/ at work: a real Prometheus scrapes a real gateway, the fake ICP
-- (or the gateway's configuration) is broken until an alert fires, and repaired until it stops.

local cjson = require "cjson"
local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local pause = require "support.pause"
local prometheus = require "support.prometheus"
local redis = require "support.redis"
local registry_bed = require "support.registry_bed"
local testkit = require "testkit"

local HANG_SECONDS = 600
local POLL_SECONDS = 0.2

-- A separate server, as in the example.
local METRICS = [[
  server {
    listen 127.0.0.1:@PORTMETRICS@;
    location = /metrics { content_by_lua_block { gateway:scrape() } }
  }
]]

describe("an alert", function()
  local bed, gate, prom
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)
  after_each(function()
    if prom then prom:stop() end
    if gate then gate:stop() end
    prom, gate = nil, nil
  end)

  -- Starts a gateway, and a Prometheus that scrapes it. options: those of support.gateway.
  local function start(options)
    options.servers = METRICS .. (options.servers or "")
    options.locations = gateway_probe.LOCATIONS
    gate = bed:start(options)
    prom = prometheus.start(gate.ports.PORTMETRICS)
  end

  -- Repeats act, if there is one, until Prometheus says that an alert has this state; nil for inactive.
  local function await(alert, state, act)
    local deadline = testkit.monotonic() + HANG_SECONDS
    repeat
      if act then act() end
      local states = prom:read_alerts()
      if states[alert] == state then return end
      load.sleep(POLL_SECONDS)
    until testkit.monotonic() > deadline
    error(("%s is not %s\n%s"):format(alert, state or "inactive", gate:log()), 2)
  end

  local number = 0

  -- A request whose token is not cached.
  local function make_new(headers)
    number = number + 1
    return bed:request(("/v2/app%d/manifests/1"):format(number), "GET", headers)
  end

  local function request_new(count, headers)
    load.run(gate.port, count, function() return make_new(headers) end, 10)
  end

  -- Keeps this many requests for new tokens waiting while body runs.
  local function keep_waiting(count, body)
    local is_over = false
    local tasks = { function()
      local ok, problem = pcall(body)
      is_over = true
      assert(ok, problem)
    end }
    for _ = 1, count do
      tasks[#tasks + 1] = function()
        while not is_over do load.perform(gate.port, make_new()) end
      end
    end
    load.together(unpack(tasks))
  end

  -- Returns whether an expression uses metrics that only a gateway with the option `fleet` has.
  local function uses_fleet(expression)
    return expression:find "icptoken_redis_" ~= nil or expression:find "icptoken_fleet_" ~= nil
  end

  -- Every expression of the dashboard, with its panel's title and all values of its variables: those of the fleet, or
  -- the others.
  local function list_expressions(is_of_fleet)
    local expressions = {}
    local function add(title, expression)
      local text = expression:gsub("%$__rate_interval", "1m"):gsub("%$%l+", ".*")
      if uses_fleet(text) == is_of_fleet then
        expressions[#expressions + 1] = { panel = title, text = text }
      end
    end
    local dashboard = cjson.decode(files.read(prometheus.DIRECTORY .. "icptoken-dashboard.json"))
    for _, annotation in ipairs(dashboard.annotations.list) do add(annotation.name, annotation.expr) end
    for _, panel in ipairs(dashboard.panels) do
      for _, target in ipairs(panel.targets or {}) do add(panel.title, target.expr) end
    end
    return expressions
  end

  -- The selectors of the rules, such as icptoken_requests_total{result="stale"}.
  local function list_selectors()
    local selectors = {}
    local rules = files.read(prometheus.DIRECTORY .. "icptoken.rules.yml")
    for name, last in rules:gmatch "%f[%w_:](icptoken_[%l_]+)%f[^%w_:]()" do
      if not uses_fleet(name) then
        selectors[#selectors + 1] = name .. (rules:match("^%b{}", last) or "")
      end
    end
    return selectors
  end

  local function has_data(expression)
    for _, series in ipairs(prom:query(expression)) do
      if series.value[2] ~= "NaN" then return true end
    end
    return false
  end

  -- Requests tokens until an expression returns a series.
  local function await_series(expression)
    gateway_bed.await("data for " .. expression, function()
      request_new(1)
      return has_data(expression)
    end)
  end

  local function await_data(is_of_fleet)
    for _, expression in ipairs(list_expressions(is_of_fleet)) do
      gateway_bed.await(("data for '%s': %s"):format(expression.panel, expression.text), function()
        return has_data(expression.text)
      end)
    end
  end

  it("fires while the endpoint fails, and the dashboard shows it", function()
    start { gateway = [[name = "gate"]] }
    await_series [[icptoken_requests_total{result="fresh"} > 2]]
    assert.is_nil(prom:read_alerts().IcptokenEndpointFailingFast)
    local known = bed:request "/v2/known/manifests/1"
    load.request(gate.port, known)
    gateway_probe.age_tokens(gate.port, 3000)
    bed.stub:plan { status = 500, times = "forever" }
    await("IcptokenEndpointFailingFast", "firing", function()
      request_new(2)
      load.request(gate.port, known)
    end)
    await_data(false)
    local selectors = list_selectors()
    assert.is_true(#selectors > 20)
    for _, selector in ipairs(selectors) do
      -- after a scrape that took too long on a busy machine nothing has data
      gateway_bed.await("data for " .. selector, function() return has_data(selector) end)
    end
    for _, alert in ipairs(prom:list_alerts()) do
      -- a scrape that took too long on a busy machine has no gateway
      assert.equal(alert.labels.alertname ~= "IcptokenDown" and "gate" or nil, alert.labels.gateway)
      for _, text in pairs(alert.annotations) do assert.is_nil(text:find "<error" or text:find "no value", text) end
    end
    bed.stub:reset()
    await("IcptokenEndpointFailingFast", nil, function() request_new(2) end)
  end)

  it("fires while the endpoint fails now and then #deep", function()
    start { gateway = [[name = "gate"]] }
    await("IcptokenEndpointFailingSlowly", "firing", function()
      bed.stub:plan { status = 500 }
      request_new(10)
    end)
    await("IcptokenEndpointFailingSlowly", nil, function() request_new(100) end)
  end)

  it("fires while tokens are stale #deep", function()
    start { gateway = [[name = "gate"]] }
    local known = bed:request "/v2/known/manifests/1"
    load.request(gate.port, known)
    gateway_probe.age_tokens(gate.port, 3000)
    bed.stub:plan { status = 500, times = "forever" }
    await("IcptokenTokensStale", "firing", function() load.request(gate.port, known) end)
    assert.is_nil(prom:read_alerts().IcptokenStaleTokensExpiring)
    bed.stub:reset()
    await("IcptokenTokensStale", nil, function() load.request(gate.port, known) end)
  end)

  it("fires while stale tokens are about to expire #deep", function()
    start { gateway = [[name = "gate"]] }
    local known = bed:request "/v2/known/manifests/1"
    load.request(gate.port, known)
    bed.stub:plan { status = 500, times = "forever" }
    await("IcptokenStaleTokensExpiring", "firing", function()
      gateway_probe.age_tokens(gate.port, 200)
      load.request(gate.port, known)
    end)
    bed.stub:reset()
    await("IcptokenStaleTokensExpiring", nil, function() load.request(gate.port, known) end)
  end)

  it("fires while the registry rejects new tokens #deep", function()
    start { gateway = [[name = "gate"]] }
    local rejected = { ["X-Test-Status"] = "401",
      ["X-Test-Challenge"] = [[Bearer realm="https://icp/token",service="other",error="invalid_token"]] }
    await("IcptokenTokensRejected", "firing", function() request_new(10, rejected) end)
    await("IcptokenTokensRejected", nil, function() request_new(2) end)
  end)

  it("fires while credentials are refused #deep", function()
    start { gateway = [[name = "gate"]] }
    await("IcptokenCredentialsRefused", "firing", function()
      number = number + 1
      request_new(1, { Authorization = registry_bed.to_basic("user" .. number, "guess") })
      request_new(1, { Authorization = registry_bed.to_basic("user" .. number, "another guess") })
    end)
    await("IcptokenCredentialsRefused", nil, function() request_new(1) end)
  end)

  it("fires while the queue is full #deep", function()
    start { gateway = [[name = "gate", max_inflight = 1, max_queue = 10, timeout = 300]], workers = 1 }
    bed.stub:plan { ["end"] = "hold", raw = "", times = "forever" }
    keep_waiting(11, function()
      await("IcptokenQueueSaturated", "firing")
      bed.stub:reset()
      -- the request that is held gets no answer: its client disconnects with the others
      gate:reload()
    end)
    await("IcptokenQueueSaturated", nil, function() request_new(1) end)
  end)

  it("fires while the cluster is too slow for the requests #deep", function()
    start { gateway = [[name = "gate", max_inflight = 1, timeout = 1]], workers = 1 }
    bed.stub:plan { delay = { before = 0.3 }, times = "forever" }
    keep_waiting(20, function() await("IcptokenQueueSaturated", "firing") end)
    bed.stub:reset()
    await("IcptokenQueueSaturated", nil, function() request_new(1) end)
  end)

  for resource, options in pairs {
    lua_state = { gateway = [[name = "gate"]], workers = 1, servers = "lua_worker_thread_vm_pool_size 2;" },
    thread = { gateway = [[name = "gate", thread_pool = "small"]], workers = 1, main = "thread_pool small threads=1;" },
  } do
    it(("fires while there are too few (%s) #deep"):format(resource), function()
      start(options)
      bed.stub:plan { delay = { before = 1.2 }, times = "forever" }
      keep_waiting(8, function() await("IcptokenThreadsShort", "firing") end)
      for _, alert in ipairs(prom:list_alerts()) do
        if alert.labels.alertname == "IcptokenThreadsShort" then assert.equal(resource, alert.labels.resource) end
      end
      bed.stub:reset()
      await("IcptokenThreadsShort", nil, function() request_new(1) end)
    end)
  end

  it("fires while the dict evicts tokens #deep", function()
    start { gateway = [[name = "gate"]], dict = "100k" }
    await("IcptokenDictEvicting", "firing", function() request_new(50) end)
    await("IcptokenDictEvicting", nil)
  end)

  it("fires while nginx does not answer #deep", function()
    start { gateway = [[name = "gate"]] }
    await("IcptokenDown", nil)
    local workers = gateway_bed.await_workers(gate, 2)
    for _, pid in ipairs(workers) do pause(pid) end
    finally(function()
      for _, pid in ipairs(workers) do testkit.kill(pid, "CONT") end
    end)
    await("IcptokenDown", "firing")
    for _, pid in ipairs(workers) do testkit.kill(pid, "CONT") end
    await("IcptokenDown", nil)
  end)

  it("fires while the gateway is not started #deep", function()
    start { gateway = [[name = "gate"]] }
    await("IcptokenDown", nil)
    gate:reload((gate.configuration:gsub("init_worker_by_lua_block %b{}", "")))
    await("IcptokenNotStarted", "firing", function() request_new(1) end)
    gate:reload(gate.configuration)
    await("IcptokenNotStarted", nil, function() request_new(1) end)
  end)

  it("fires while a function of the options raises errors #deep", function()
    start { gateway = [[name = "gate", credential = function()
      if ngx.var.http_x_fault then error "out of order" end
      return { username = "admin", password = "pass" }
    end]] }
    await("IcptokenInternalErrors", "firing", function() request_new(1, { ["X-Fault"] = "yes" }) end)
    await("IcptokenInternalErrors", nil, function() request_new(1) end)
  end)

  it("fires before a certificate expires #deep", function()
    local ca = os.tmpname()
    finally(function() os.remove(ca) end)
    local good = files.read(bed.stub.ca)
    local function add_certificate(days)
      files.write(ca, good)
      os.execute(("openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=old -days %d 2>/dev/null >>%s")
        :format(days, ca))
    end
    files.write(ca, good)
    start { gateway = ([[name = "gate", cacert = %q]]):format(ca) }
    await_series [[(icptoken_certificate_expiry_timestamp_seconds{certificate="cacert"} - time()) / 86400 > 21]]
    assert.is_nil(prom:read_alerts().IcptokenCertificateExpiring)
    add_certificate(20)
    await("IcptokenCertificateExpiring", "firing")
    assert.is_nil(prom:read_alerts().IcptokenCertificateUrgent)
    add_certificate(2)
    await("IcptokenCertificateUrgent", "firing")
    files.write(ca, good)
    await("IcptokenCertificateExpiring", nil)
    await("IcptokenCertificateUrgent", nil)
  end)

  it("fires while the Redis of the fleet does not work #deep", function()
    local server, secret = redis.start(), os.tmpname()
    finally(function()
      server:stop()
      os.remove(secret)
    end)
    os.execute(("openssl rand -base64 32 >%s && chmod 600 %s"):format(secret, secret))
    server:kill()
    start { gateway = ([[name = "gate", fleet = { redis = "redis://127.0.0.1:%d", secret_file = %q }]])
      :format(server.port, secret) }
    await("IcptokenFleetBreakerOpen", "firing", function() request_new(1) end)
    await_data(true)
    server:launch()
    await("IcptokenFleetBreakerOpen", nil, function() request_new(1) end)
  end)
end)
