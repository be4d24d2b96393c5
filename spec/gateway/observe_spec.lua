-- How gateway:observe handles a registry's 401: clients receive the gateway's challenge, and a token that the registry
-- rejects as invalid is replaced, once.

local gateway = require "support.gateway"
local gateway_bed = require "support.gateway_bed"
local icptoken = require "icptoken"
local load = require "support.load"
local nginx = require "support.nginx"
local registry_server = require "support.registry"
local stub_client = require "stub.client"

local BASIC = 'Basic realm="IBM Cloud Private"'
local BEARER = 'Bearer realm="https://gate.example/login",service="token-service",scope="repository:a:pull"'
local CHOOSE_BEARER = [[challenge = "bearer", realm = "https://gate.example/login"]]
local INVALID = 'Bearer realm="https://icp.example/t",service="s",error="invalid_token"'
local INSUFFICIENT = 'Bearer realm="https://icp.example/t",service="s",scope="x",error="insufficient_scope"'

-- Locations for a spec: one forgets that a token was just dropped, the other says for how long that is remembered.
local DROPS = [[
  location = /drops {
    content_by_lua_block {
      local dict = ngx.shared.icptoken
      for _, name in ipairs(dict:get_keys(0)) do
        if #name == 33 and name:sub(1, 1) == "d" then
          ngx.print(dict:ttl(name))
          dict:delete(name)
        end
      end
    }
  }
]]

-- A request that the fake registry answers with 401 and this challenge.
local function make_refused(bed, challenge, target)
  return bed:request(target or "/v2/a/manifests/1", "GET",
    { ["X-Test-Status"] = "401", ["X-Test-Challenge"] = challenge })
end

local function read_metric(gate, name)
  return tonumber(load.request(gate.port, { target = "/metrics" }).body:match(name .. "{[^\n]*} (%d+)"))
end

-- A registry that answers with 401 and the challenges that the request contains, each in a header of its own.
local REFUSING = [[
  server {
    listen 127.0.0.1:@PORT@;
    location / {
      content_by_lua_block {
        local challenges = ngx.req.get_headers()["x-challenges"] or ""
        ngx.req.socket(true):send("HTTP/1.1 401 Unauthorized\r\n"
          .. challenges:gsub("([^|]*)|", "WWW-Authenticate: %1\r\n")
          .. "X-Registry: kept\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbody\n")
      }
    }
  }
]]

describe("a registry's 401", function()
  local bed, registry, basic_gate, bearer_gate

  setup(function()
    bed = gateway_bed.open()
    registry = nginx.start { http = REFUSING, workers = 1 }
    basic_gate = bed:start { workers = 1, upstream = registry }
    bearer_gate = bed:start { workers = 1, upstream = registry, gateway = CHOOSE_BEARER }
  end)
  teardown(function()
    gateway_bed.close(bed)
    if registry then registry:stop() end
  end)

  -- the registry's challenges, each followed by |, and the error that the gateway keeps
  for _, case in ipairs {
    { "" }, { "|" }, { "||" }, { 'Basic realm="registry"|' }, { "Negotiate|" }, { 'garbage "|' }, { "Bearer|" },
    { 'Bearer realm="https://icp.example/t",service="s"|' },
    { 'Bearer realm="https://icp.example/t",service="s",error="invalid_request"|' },
    { INVALID .. "|", ',error="invalid_token"' }, { "bEaReR error=invalid_token|", ',error="invalid_token"' },
    { 'Basic realm="registry"|' .. INVALID .. "|", ',error="invalid_token"' },
    { INVALID .. '|Basic realm="registry"|Negotiate|', ',error="invalid_token"' },
    { 'Basic realm="registry"|Negotiate abc=|Digest a=b|' },
  } do
    local challenges, remains = case[1], case[2] or ""

    it(("with %s has the gateway's challenge"):format(challenges == "" and "no challenge" or challenges), function()
      for gate, own in pairs { [basic_gate] = BASIC, [bearer_gate] = BEARER .. remains } do
        for method, body in pairs { GET = "body\n", HEAD = "" } do
          local answer = load.request(gate.port,
            bed:request("/v2/a/manifests/1", method, { ["X-Challenges"] = challenges }))
          assert.equal(401, answer.status, answer.problem)
          assert.equal(own, answer.headers["www-authenticate"])
          assert.same({ "kept", body }, { answer.headers["x-registry"], answer.body })
        end
      end
    end)
  end

  for _, kind in ipairs { "basic", "bearer" } do
    local status = kind == "basic" and 403 or 401
    local own = kind == "bearer" and BEARER .. ',error="insufficient_scope"' or nil

    it(("with several challenges that require more access is a denial, a %d, with challenge = %s"):format(status, kind),
      function()
        local gate = kind == "basic" and basic_gate or bearer_gate
        for _, method in ipairs { "GET", "HEAD" } do
          local answer = load.request(gate.port, bed:request("/v2/a/manifests/1", method,
            { ["X-Challenges"] = ('Basic realm="registry"|%s|Negotiate|'):format(INSUFFICIENT) }))
          assert.equal(status, answer.status)
          assert.equal(own, answer.headers["www-authenticate"])
          assert.equal("application/json", answer.headers["content-type"])
          assert.equal("kept", answer.headers["x-registry"])
          if method == "GET" then
            assert.same({ "DENIED", "forbidden", "requested access to the resource is denied" },
              { gateway_bed.read_error(answer) })
          end
        end
      end)

    it(("is the same denial if the token endpoint denies it, too, with challenge = %s"):format(kind), function()
      local gate = kind == "basic" and basic_gate or bearer_gate
      bed.stub:plan({ status = 403 })
      for _, method in ipairs { "HEAD", "GET" } do
        local answer = load.request(gate.port, bed:request("/v2/denied/manifests/1", method))
        assert.equal(status, answer.status)
        assert.equal(own and (own:gsub("repository:a", "repository:denied")), answer.headers["www-authenticate"])
        if method == "GET" then assert.equal("DENIED", (gateway_bed.read_error(answer))) end
      end
      bed.stub:reset()
    end)
  end

  it("keeps the registry's body if filter() is missing, and the log says so", function()
    local old = gateway.configure { stub = bed.stub, upstream = registry }
    local one = nginx.start { http = old:gsub("body_filter_by_lua_block { gateway:filter%(%) }", ""), workers = 1,
      main = "thread_pool icptoken threads=16;" }
    finally(function() one:stop() end)
    for _ = 1, 3 do
      local answer = load.request(one.port, bed:request("/v2/a/manifests/1", "GET",
        { ["X-Challenges"] = INSUFFICIENT .. "|" }))
      assert.same({ 403, "body\n" }, { answer.status, answer.body })
    end
    gateway_bed.await("the line", function()
      return one:log():find("add \"body_filter_by_lua_block { gateway:filter() }\"", 1, true)
    end)
    assert.is_nil(basic_gate:log():find("body_filter_by_lua_block", 1, true))
  end)

  it("does not use up nginx's timers, which token requests need, if filter() is missing", function()
    local conf = gateway.configure { stub = bed.stub, upstream = bed.upstream }
    conf = conf:gsub("body_filter_by_lua_block { gateway:filter%(%) }", "")
    local one = nginx.start { http = "lua_max_pending_timers 100;\n" .. conf, workers = 1,
      main = "thread_pool icptoken threads=16;" }
    finally(function() one:stop() end)
    local denial = make_refused(bed, INSUFFICIENT)
    local function make(i) return i % 10 > 0 and denial or bed:request("/v2/new" .. i .. "/manifests/1") end
    for i, answer in ipairs(load.run(one.port, 3000, make, 20, true)) do
      assert.equal(i % 10 > 0 and 403 or 200, answer.status)
    end
    assert.is_nil(one:log():find("cannot start a timer", 1, true))
  end)

  -- Hooks in the server also apply to the location of an error_page. Each: the error_page, and
  -- the status that it makes of 401.
  for page, status in pairs { ["401 /page"] = 401, ["401 =403 /page"] = 403, ["401 = @named"] = 200,
    ["401 =200 /page"] = 200 } do
    it("has the gateway's challenge also after an error_page: " .. page, function()
      local one = bed:start { workers = 1, upstream = registry, gateway = CHOOSE_BEARER, servers = ([[
        server {
          listen 127.0.0.1:@PORTPAGE@;
          header_filter_by_lua_block { gateway:observe() }
          body_filter_by_lua_block { gateway:filter() }
          location /v2/ {
            set $icptoken_authorization "";
            set $icptoken_key "";
            access_by_lua_block { gateway:authorize() }
            proxy_set_header Authorization $icptoken_authorization;
            proxy_intercept_errors on;
            error_page %s;
            proxy_pass http://registry;
          }
          location = /page { internal; content_by_lua_block { ngx.print("page") } }
          location @named { content_by_lua_block { ngx.print("page") } }
        }
      ]]):format(page) }
      finally(function() one:stop() end)
      local function refuse(challenge)
        return load.request(one.ports.PORTPAGE, bed:request("/v2/a/manifests/1", "GET",
          { ["X-Challenges"] = challenge .. "|" }))
      end
      bed.stub:reset()
      local answer = refuse(INVALID)
      assert.same({ status, BEARER .. ',error="invalid_token"', "page" },
        { answer.status, answer.headers["www-authenticate"], answer.body })
      refuse(INVALID)
      assert.equal(2, #bed.stub:requests()) -- the first token was dropped
      answer = refuse(INSUFFICIENT)
      assert.same({ 401, BEARER .. ',error="insufficient_scope"', "DENIED" },
        { answer.status, answer.headers["www-authenticate"], (gateway_bed.read_error(answer)) })
    end)
  end

  it("has the gateway's challenge also if the function 'scope' fails", function()
    local gate = bed:start { workers = 1, gateway = CHOOSE_BEARER .. [[, scope = function()
      if ngx.get_phase() == "header_filter" then error("hush") end
      return "repository:a:pull"
    end]] }
    local answer = load.request(gate.port, make_refused(bed, INVALID))
    assert.equal(401, answer.status)
    assert.equal('Bearer realm="https://gate.example/login",service="token-service",error="invalid_token"',
      answer.headers["www-authenticate"])
    gate:stop()
  end)

  it("is the only answer that is changed", function()
    local gate = bed:start { workers = 1 }
    for _, status in ipairs { "200", "202", "400", "403", "404", "416", "429", "500", "503" } do
      local answer = load.request(gate.port, bed:request("/v2/a/manifests/1", "GET",
        { ["X-Test-Status"] = status, ["X-Test-Challenge"] = INVALID }))
      assert.equal(tonumber(status), answer.status)
      assert.equal(INVALID, answer.headers["www-authenticate"])
    end
    gate:stop()
  end)
end)

describe("a token that the registry", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { locations = DROPS }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  -- Sends this many requests for a key, each of which is refused, and returns the number of token requests.
  local function count_questions(times, challenge, target)
    local answers = load.run(gate.port, times, function() return make_refused(bed, challenge, target) end, 1)
    return #bed.stub:requests(), load.count(answers)
  end

  it("rejects as invalid is replaced at the next request, by one token request", function()
    local dropped = read_metric(gate, "icptoken_dropped_total")
    local target = "/v2/replaced/manifests/1"
    assert.equal(401, load.request(gate.port, make_refused(bed, INVALID, target)).status)
    assert.equal(1, #bed.stub:requests())
    for _ = 1, 10 do assert.equal(200, load.request(gate.port, bed:request(target)).status) end
    assert.equal(2, #bed.stub:requests())
    assert.equal(dropped + 1, read_metric(gate, "icptoken_dropped_total"))
    assert.matches("key %x%x%x%x%x%x%x%x: the registry rejected its token as invalid; the next request fetches "
      .. "another. If this repeats, compare the clocks of registry and cluster, option 'service'", gate:log())
  end)

  it("rejects as invalid although it is new causes one line in the log, which says what to compare", function()
    local fresh = bed:start()
    for i = 1, 5 do
      for _ = 1, 3 do load.request(fresh.port, make_refused(bed, INVALID, ("/v2/new%d/manifests/1"):format(i))) end
    end
    local line = fresh:log():match "%[error%] [^\n]*"
    for _, words in ipairs { "'service'", "auth.token.service", "rootcertbundle", "clock",
      "$icptoken_authorization" } do
      assert.matches(words, line, 1, true)
    end
    assert.equal(1, select(2, fresh:log():gsub("%[error%]", "")))
    fresh:stop()
  end)

  it("rejects as invalid repeatedly is dropped once in 10 seconds", function()
    local target = "/v2/again/manifests/1"
    load.request(gate.port, { target = "/drops" })
    assert.same({ 2, { [401] = 20 } }, { count_questions(20, INVALID, target) })
    local seconds = tonumber(load.request(gate.port, { target = "/drops" }).body:match "^[%d.]+$")
    assert.is_true(seconds and seconds > 0 and seconds <= 10)
    -- as if the 10 seconds were over
    assert.equal(3, (count_questions(20, INVALID, target)))
  end)

  it("rejects as insufficient is dropped once in 10 seconds, so that a new right takes effect at once", function()
    local dropped = read_metric(gate, "icptoken_dropped_total")
    local target = "/v2/insufficient/manifests/1"
    load.request(gate.port, { target = "/drops" })
    assert.same({ 2, { [403] = 20 } }, { count_questions(20, INSUFFICIENT, target) })
    assert.equal(dropped + 1, read_metric(gate, "icptoken_dropped_total"))
    local seconds = tonumber(load.request(gate.port, { target = "/drops" }).body:match "^[%d.]+$")
    assert.is_true(seconds and seconds > 0 and seconds <= 10)
    assert.equal(403, load.request(gate.port, make_refused(bed, INSUFFICIENT, target)).status)
    assert.equal(200, load.request(gate.port, bed:request(target)).status)
    assert.equal(3, #bed.stub:requests())
    assert.matches("key %x%x%x%x%x%x%x%x: the registry requires more access than its token grants; the next "
      .. "request fetches another", gate:log())
  end)

  it("rejects for another reason is kept", function()
    for i, challenge in ipairs { "", 'Basic realm="x"', 'Bearer realm="a",error="invalid_request"', "Bearer",
      'Bearer realm="error=\\"invalid_token\\""', 'Digest error="invalid_token"', "garbage" } do
      bed.stub:reset()
      assert.equal(1, (count_questions(5, challenge, ("/v2/kept%d/manifests/1"):format(i))), challenge)
    end
  end)

  it("rejects as invalid is dropped for its key only", function()
    local target = "/v2/%s/manifests/1"
    for _, name in ipairs { "one", "other" } do load.request(gate.port, bed:request(target:format(name))) end
    count_questions(2, INVALID, target:format "one")
    bed.stub:reset()
    load.request(gate.port, bed:request(target:format "other"))
    assert.same({}, bed.stub:requests())
  end)
end)

-- A registry that holds an answer until it is told to continue.
local HOLDING = [[
  lua_shared_dict held 1m;
  server {
    listen 127.0.0.1:@PORT@;
    location / {
      content_by_lua_block {
        local headers = ngx.req.get_headers()
        if headers["x-held"] then
          ngx.shared.held:set("here", true)
          repeat ngx.sleep(0.01) until ngx.shared.held:get "go"
        end
        ngx.status = tonumber(headers["x-test-status"]) or 200
        ngx.header["WWW-Authenticate"] = headers["x-test-challenge"]
        ngx.print(require "cjson".encode { headers = headers })
      }
    }
    location = /here { content_by_lua_block { ngx.print(tostring(ngx.shared.held:get "here")) } }
    location = /go { content_by_lua_block { ngx.shared.held:set("go", true) } }
  }
]]

describe("a late refusal", function()
  local bed, gate, registry

  setup(function()
    bed = gateway_bed.open()
    registry = nginx.start { http = HOLDING, workers = 1 }
    gate = bed:start { upstream = registry, locations = DROPS }
  end)
  teardown(function()
    gateway_bed.close(bed)
    if registry then registry:stop() end
  end)

  it("does not drop a token that was stored since", function()
    local late, renewed
    local function perform(request) return load.perform(gate.port, request) end
    load.together(function()
      local request = make_refused(bed, INVALID)
      request.headers["X-Held"] = "yes"
      late = perform(request)
    end, function()
      gateway_bed.await("the request", function()
        return load.perform(registry.port, { target = "/here" }).body == "true"
      end)
      perform(make_refused(bed, INVALID))
      renewed = perform(bed:request "/v2/a/manifests/1")
      perform { target = "/drops" }
      load.perform(registry.port, { target = "/go" })
    end)
    assert.equal(401, late.status)
    assert.equal(2, #bed.stub:requests())
    local after = perform(bed:request "/v2/a/manifests/1")
    assert.equal(gateway_bed.read_claims(renewed).jti, gateway_bed.read_claims(after).jti)
    assert.not_equal(gateway_bed.read_claims(late).jti, gateway_bed.read_claims(after).jti)
    assert.equal(2, #bed.stub:requests())
  end)
end)

describe("a real registry", function()
  local bed, gate, registry, next_stub
  local NAMES = { "a", "b", "c/d", "e/f/g", "h" }

  setup(function()
    bed = gateway_bed.open()
    next_stub = stub_client.start { new_key = true }
    registry = registry_server.start { realm = "https://icp.example/t", service = "token-service",
      certificate = next_stub.token_signing_cert }
    gate = bed:start { upstream = { port = tonumber(registry.address:match "%d+$") } }
  end)
  teardown(function()
    gateway_bed.close(bed)
    if registry then registry.stop() end
    if next_stub then next_stub:stop() end
  end)
  before_each(function() bed.stub:reset() end)

  local function ask(name)
    return load.request(gate.port, bed:request(("/v2/%s/tags/list"):format(name)))
  end

  -- The answer of the endpoint once it signs with the key that the registry knows.
  local function make_good(name)
    return assert(icptoken.fetch { host = "localhost", port = next_stub.port, cacert = next_stub.ca,
      id_token = next_stub.id_token, service = "token-service", scope = ("repository:%s:pull"):format(name) }).token
  end

  it("with another key costs each key one refused request and one token request", function()
    for _, name in ipairs(NAMES) do
      local answer = ask(name)
      assert.equal(401, answer.status)
      assert.equal(BASIC, answer.headers["www-authenticate"])
    end
    for _, name in ipairs(NAMES) do bed.stub:plan { token = make_good(name) } end
    for _ = 1, 5 do
      for _, name in ipairs(NAMES) do assert.equal(404, ask(name).status) end
    end
    assert.equal(2 * #NAMES, #bed.stub:requests())
  end)

  it("that always requires more access costs one token request", function()
    bed.stub:plan { token = make_good "elsewhere", times = "forever" }
    for _ = 1, 10 do
      local answer = ask "more"
      assert.equal(403, answer.status)
      assert.is_nil(answer.headers["www-authenticate"])
      assert.same({ "DENIED", "forbidden", "requested access to the resource is denied" },
        { gateway_bed.read_error(answer) })
    end
    assert.equal(2, #bed.stub:requests())
  end)
end)
