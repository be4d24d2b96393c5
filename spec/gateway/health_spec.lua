-- gateway:ready() and gateway:live(), for load balancers and supervisors.

local cjson = require "cjson"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local nginx = require "support.nginx"
local support = require "support.gateway"

local LOCATIONS = [[
  location = /ready { content_by_lua_block { gateway:ready() } }
  location = /live { content_by_lua_block { gateway:live() } }
  location = /status { content_by_lua_block { gateway:status() } }
]]

describe("the health of a gateway", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function start(gateway, change)
    local http = support.configure { stub = bed.stub, upstream = bed.upstream, gateway = bed:write_options(gateway),
      locations = LOCATIONS }
    local one = nginx.start { http = change and change(http) or http, main = "thread_pool icptoken threads=16;" }
    bed.gateways[#bed.gateways + 1] = one
    return one
  end

  -- Returns the status, and the reason or nil.
  local function ask(one, method)
    local answer = load.request(one.port, { target = "/ready", method = method })
    assert.equal("application/json", answer.headers["content-type"])
    assert.equal("no-store", answer.headers["cache-control"])
    if method == "HEAD" then return answer.status end
    local body = cjson.decode(answer.body)
    assert.equal(answer.status == 200 and "ready" or "not_ready", body.status)
    return answer.status, body.reason
  end

  local function await_ready(one)
    gateway_bed.await("readiness", function() return ask(one) == 200 end)
  end

  local function fail_all()
    bed.stub:plan { status = 500, times = "forever" }
  end

  -- Makes requests for new keys until the endpoint counts as failing.
  local function make_it_fail(one)
    fail_all()
    local count = 0
    gateway_bed.await("the failure", function()
      count = count + 1
      load.request(one.port, bed:request(("/v2/failing%d/manifests/1"):format(count)))
      return load.request(one.port, { target = "/metrics" }).body:find 'icptoken_endpoint_up{[^}]*="token"} 0\n'
    end)
  end

  it("is good once the endpoint has answered, without any request of a client", function()
    local one = start ""
    await_ready(one)
    assert.equal(200, ask(one, "HEAD"))
    -- the endpoint received only requests without a credential
    for _, request in ipairs(bed.stub:requests()) do
      for _, header in ipairs(request.headers) do assert.is_true(header[1]:lower() ~= "authorization") end
    end
    local metrics = load.request(one.port, { target = "/metrics" }).body
    assert.matches('icptoken_fetches_total{[^}]*code="ok"} 0\n', metrics)
    one:stop()
  end)

  it("is good if the endpoint refuses requests without a credential", function()
    bed.stub:plan { status = 401, times = "forever" }
    local one = start ""
    await_ready(one)
    one:stop()
  end)

  it("is bad while the endpoint has not answered, and there are few probes", function()
    fail_all()
    local one = start ""
    gateway_bed.await("a probe", function() return select(2, ask(one)) == "endpoint_failing" end)
    local began_at = load.read_time()
    for _ = 1, 100 do assert.equal(503, (ask(one))) end
    -- one in 5 s
    assert.is_true(#bed.stub:requests() <= 2 + (load.read_time() - began_at) / 5)
    assert.equal(200, load.request(one.port, { target = "/live" }).status)
    bed.stub:reset()
    await_ready(one)
    one:stop()
  end)

  it("can be queried without an effect on the recent changes of the status page", function()
    fail_all()
    local one = start ""
    gateway_bed.await("a probe", function() return select(2, ask(one)) == "endpoint_failing" end)
    local answer = load.request(one.port, { target = "/status", headers = { Accept = "application/json" } })
    local kinds = {}
    for i, change in ipairs(cjson.decode(answer.body).changes) do kinds[i] = change.kind end
    assert.equal("endpoint_failing started", table.concat(kinds, " "))
    one:stop()
  end)

  it("stays good while the endpoint fails and there are tokens, also over a reload", function()
    local one = start ""
    assert.equal(200, load.request(one.port, bed:request "/v2/a/manifests/1").status)
    assert.equal(200, (ask(one)))
    make_it_fail(one)
    assert.equal(200, (ask(one)))
    local workers = gateway_bed.await_workers(one, 2)
    one:reload()
    gateway_bed.await("new workers", function()
      local now = one:workers()
      return #now == 2 and now[1] ~= workers[1] and now[1] ~= workers[2]
    end)
    await_ready(one)
    one:stop()
  end)

  it("becomes bad when the last token has expired meanwhile, and good when the endpoint works again", function()
    local one = start ""
    bed.stub:set { expires_in = 4 }
    assert.equal(200, load.request(one.port, bed:request "/v2/a/manifests/1").status)
    make_it_fail(one)
    gateway_bed.await("the expiry", function() return select(2, ask(one)) == "endpoint_failing" end)
    bed.stub:reset()
    await_ready(one)
    one:stop()
  end)

  it("is bad if the gateway was not started, or has no threads", function()
    local one = start("", function(http) return (http:gsub("init_worker_by_lua_block { gateway:start%(%) }", "")) end)
    assert.same({ 503, "not_started" }, { ask(one) })
    one:stop()
    local other = start [[thread_pool = "missing"]]
    assert.same({ 503, "not_started" }, { ask(other) })
    local live = load.request(other.port, { target = "/live" })
    assert.same({ 200, "live" }, { live.status, cjson.decode(live.body).status })
    other:stop()
  end)
end)
