-- How the gateway refuses a request after each failure: status, registry's code, headers, body; and what it remembers.

local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local gateway = require "support.gateway"
local load = require "support.load"
local nginx = require "support.nginx"
local socket = require "socket"

-- Each: what the endpoint does (an order of the stub), the status, the registry's code, the gateway's, Retry-After.
local FAILURES = {
  { { status = 401 }, 401, "UNAUTHORIZED", "unauthorized" },
  { { status = 401, headers = { { "Retry-After", "9" } } }, 401, "UNAUTHORIZED", "unauthorized" },
  { { status = 403 }, 403, "DENIED", "forbidden" },
  { { status = 429 }, 429, "TOOMANYREQUESTS", "rate_limited" },
  { { status = 429, headers = { { "Retry-After", "7" } } }, 429, "TOOMANYREQUESTS", "rate_limited", "7" },
  { { status = 500 }, 502, "UNAVAILABLE", "server_error" },
  { { status = 503 }, 502, "UNAVAILABLE", "server_error" },
  { { status = 503, headers = { { "Retry-After", "5" } } }, 503, "UNAVAILABLE", "server_error", "5" },
  { { status = 503, headers = { { "Retry-After", "soon" } } }, 502, "UNAVAILABLE", "server_error" },
  { { status = 404 }, 502, "UNAVAILABLE", "not_found" },
  { { status = 404, headers = { { "Retry-After", "5" } } }, 502, "UNAVAILABLE", "not_found" },
  { { status = 400 }, 502, "UNAVAILABLE", "http_status" },
  { { status = 204 }, 502, "UNAVAILABLE", "http_status" },
  { { redirect = "https://login.example/" }, 502, "UNAVAILABLE", "redirect" },
  { { body = "<html>garbage</html>" }, 502, "UNAVAILABLE", "invalid_response" },
  { { body = "{}" }, 502, "UNAVAILABLE", "invalid_response" },
  { { token = "" }, 502, "UNAVAILABLE", "invalid_response" },
  { { token = "a b" }, 502, "UNAVAILABLE", "invalid_response" },
  { { token = "a\r\nX-Injected: b" }, 502, "UNAVAILABLE", "invalid_response" },
  { { token = "a\0b" }, 502, "UNAVAILABLE", "invalid_response" },
  { { token = "\195\169" }, 502, "UNAVAILABLE", "invalid_response" },
  { { raw = "garbage\r\n\r\n" }, 502, "UNAVAILABLE", "network" },
  -- twice, as libcurl repeats a request if a kept connection breaks
  { { ["end"] = "reset", raw = "", times = 2 }, 502, "UNAVAILABLE", "network" },
  { { cut = 40 }, 502, "UNAVAILABLE", "network" },
  { { body = ("x"):rep(2 ^ 21) }, 502, "UNAVAILABLE", "too_large" },
  { { expires_in = 60, claims = { iat = 1, exp = 2 } }, 502, "UNAVAILABLE", "expired" },
}

-- Each: options in Lua (%d is a port of the stub's), the port, the gateway's code.
local UNREACHABLE = {
  { "port = %d", "closed", "connect" },
  { 'host = "' .. ("x"):rep(64) .. '.icp"', nil, "resolve" },
  { 'proxy = "http://127.0.0.1:%d"', "closed", "proxy" },
  { "port = %d", "unknown_ca", "tls" },
  { "port = %d", "wrong_host", "tls" },
  { "port = %d", "expired", "tls" },
  { "port = %d", "http", "network" },
  { 'path = "/nowhere"', nil, "not_found" },
}

-- A port at which nothing listens, and which no other process gets, until the row is over.
local function reserve_port()
  local reserved = assert(socket.tcp4())
  assert(reserved:bind("127.0.0.1", 0))
  finally(function() reserved:close() end)
  return (select(2, reserved:getsockname()))
end

local BASIC = 'Basic realm="IBM Cloud Private"'

local function assert_answer(answer, status, code, detail, retry_after)
  assert.equal(status, answer.status, answer.problem or answer.body)
  local got_code, got_detail, message = gateway_bed.read_error(answer)
  assert.same({ code, detail }, { got_code, got_detail })
  assert.is_true(#message > 0)
  local headers = answer.headers
  assert.equal("application/json", headers["content-type"])
  assert.equal("registry/2.0", headers["docker-distribution-api-version"])
  assert.equal("no-store", headers["cache-control"])
  assert.equal(tostring(#answer.body), headers["content-length"])
  assert.equal(retry_after, headers["retry-after"])
  assert.equal(status == 401 and BASIC or nil, headers["www-authenticate"])
  assert.is_nil(headers["x-injected"])
end

describe("the gateway's answer", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { gateway = ("port = %d"):format(bed.stub.ports.h1) }
  end)
  teardown(function() gateway_bed.close(bed) end)
  -- some failures are remembered, for a key or for the credential
  before_each(function()
    bed.stub:reset()
    load.request(gate.port, { target = "/empty" })
  end)

  local serial = 0
  local function make_request(method, more)
    serial = serial + 1
    local request = bed:request(("/v2/a%d/%s"):format(serial, method == "POST" and "blobs/uploads/" or "manifests/1"),
      method)
    for name, value in pairs(more or {}) do request[name] = value end
    return request
  end

  for i, case in ipairs(FAILURES) do
    local order, status, code, detail, retry_after = case[1], case[2], case[3], case[4], case[5]

    it(("to %s of the endpoint is %d (row %d)"):format(detail, status, i), function()
      bed.stub:plan(order)
      local answer = load.request(gate.port, make_request())
      assert_answer(answer, status, code, detail, retry_after)
      assert.is_true(#bed.stub:requests() <= (order.times or 1))
    end)
  end

  it("has a number of seconds in Retry-After, or none", function()
    for _, value in ipairs { "99999999999999999999", "1e5", "-5", "0x10", "2.5", "", "5, 6",
      "Wed, 21 Oct 9999 07:28:00 GMT", "Wed, 21 Oct 1970 07:28:00 GMT" } do
      for _, status in ipairs { 429, 503 } do
        bed.stub:plan { status = status, headers = { { "Retry-After", value } } }
        local retry_after = load.request(gate.port, make_request()).headers["retry-after"]
        assert.is_true(retry_after == nil or retry_after:find "^%d+$" ~= nil, retry_after)
      end
    end
  end)

  it("does not repeat what the endpoint says, nor where it is", function()
    bed.stub:plan({ status = 400, body = '{"errors":[{"code":"HUSH","message":"hush"}]}' },
      { redirect = "https://hush.example/" })
    for _ = 1, 2 do
      local answer = load.request(gate.port, make_request())
      for _, words in ipairs { "hush", "HUSH", "localhost", tostring(bed.stub.ports.h1) } do
        assert.is_nil(answer.body:find(words, 1, true))
      end
    end
  end)

  for i, case in ipairs(UNREACHABLE) do
    local options, port, detail = case[1], case[2], case[3]

    it(("to %s on the way to the endpoint is 502 (row %d)"):format(detail, i), function()
      local number = port == "closed" and reserve_port() or bed.stub.ports[port or "https"]
      local other = bed:start { workers = 1, gateway = options:format(number) }
      assert_answer(load.request(other.port, make_request()), 502, "UNAVAILABLE", detail)
      other:stop()
    end)
  end

  describe("to HEAD", function()
    for _, case in ipairs { { 401, "UNAUTHORIZED", "unauthorized" }, { 500, "UNAVAILABLE", "server_error" } } do
      it("is the one to GET without its body: " .. case[3], function()
        bed.stub:plan({ status = case[1] })
        if case[1] ~= 401 then bed.stub:plan { status = case[1] } end
        local kept, get, head, after = {}, nil, nil, nil
        load.together(function()
          get = load.perform(gate.port, make_request "GET", kept)
          head = load.perform(gate.port, make_request "HEAD", kept)
          load.perform(gate.port, { target = "/empty" }, kept)
          -- bytes of a body would come before this
          after = load.perform(gate.port, make_request "GET", kept)
        end)
        assert.equal(get.status, head.status)
        get.headers.date, head.headers.date = nil, nil
        assert.same(get.headers, head.headers)
        assert.equal(200, after.status, after.problem)
      end)
    end
  end)

  describe("to an upload", function()
    local function make_chunks(target)
      return ("POST %s HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n")
        :format(target, bed.credential, ("400\r\n" .. ("x"):rep(1024) .. "\r\n"):rep(200))
    end

    -- the kind of body, and how to make the request
    for _, case in ipairs {
      { "a short body", function() return make_request("POST", { body = "short" }) end },
      { "a megabyte", function() return make_request("POST", { body = ("x"):rep(2 ^ 20) }) end },
      { "chunks", function()
        return { method = "POST", raw = make_chunks(make_request "POST".target) }
      end },
    } do
      it("leaves the connection in use, with " .. case[1], function()
        bed.stub:plan { status = 403 }
        local kept, connection, refused, after = {}, nil, nil, nil
        load.together(function()
          refused = load.perform(gate.port, case[2](), kept)
          connection = kept.connection
          after = load.perform(gate.port, make_request(), kept)
          assert.equal(connection, kept.connection)
        end)
        assert.is_truthy(connection)
        assert_answer(refused, 403, "DENIED", "forbidden")
        assert.equal(200, after.status, after.problem)
      end)
    end

    it("leaves the connection in use if no token is requested", function()
      local kept, answers = {}, {}
      load.together(function()
        for i, change in ipairs {
          { target = "/v2/A/blobs/uploads/", body = "x" }, { headers = {}, body = ("x"):rep(2 ^ 18) },
          { method = "MKCOL", body = "x" }, { method = "GET" },
        } do
          answers[i] = load.perform(gate.port, make_request("POST", change), kept)
        end
      end)
      assert.same({ [404] = 1, [401] = 1, [405] = 1, [200] = 1 }, load.count(answers))
    end)
  end)

  it("to malformed chunks is 400", function()
    local answer = load.request(gate.port, { method = "PUT", raw = "PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: a\r\n"
      .. "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" })
    assert.equal(400, answer.status)
    assert.is_nil(gate:log():find("runtime error", 1, true))
  end)

  it("without a credential does not say that a credential was refused", function()
    local answer = load.request(gate.port, make_request("GET", { headers = {} }))
    assert_answer(answer, 401, "UNAUTHORIZED", "no_credential")
  end)
end)

describe("a failure", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { gateway = "error_ttl = 0.5" }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function ask(port, target)
    return load.request(port, bed:request(target))
  end

  for _, status in ipairs { 401, 403 } do
    it(("of %d is remembered for error_ttl, by all workers"):format(status), function()
      local patient = bed:start { gateway = "error_ttl = 60" }
      bed.stub:plan { status = status }
      local answers = load.run(patient.port, 40, function() return bed:request "/v2/a/manifests/1" end, 10)
      assert.same({ [status] = 40 }, load.count(answers))
      assert.equal(1, #bed.stub:requests())
      -- 401 is for the credential, 403 for that key only
      local other = bed:request("/v2/b/manifests/1")
      assert.equal(status == 401 and 401 or 200, load.request(patient.port, other).status)
      other.headers.Authorization = "Basic YWRtaW46YWRtaW4="
      assert.equal(200, load.request(patient.port, other).status)
      patient:stop()
    end)

    it(("of %d costs one attempt per %s, however many are requested at once"):format(status,
      status == 401 and "credential" or "key"), function()
      local patient = bed:start { gateway = "error_ttl = 60" }
      finally(function() patient:stop() end)
      local images = status == 401 and 30 or 1
      bed.stub:plan { status = status, times = "forever", delay = { before = 0.1 } }
      local answers = load.run(patient.port, 60, function(i)
        return bed:request(("/v2/image%d/manifests/1"):format(i % images))
      end)
      assert.same({ [status] = 60 }, load.count(answers))
      assert.equal(1, #bed.stub:requests())
    end)

    it(("of %d is forgotten after error_ttl"):format(status), function()
      load.request(gate.port, { target = "/empty" })
      bed.stub:plan { status = status }
      local target = ("/v2/a%d/manifests/1"):format(status)
      assert.equal(status, ask(gate.port, target).status)
      gateway_bed.await("a second token request", function() return ask(gate.port, target).status == 200 end)
      local requests = bed.stub:requests()
      assert.equal(2, #requests)
      assert.is_true(requests[2].time - requests[1].time > 0.4)
    end)
  end

  it("of one scope does not affect the credential's other scopes", function()
    for _, status in ipairs { 403, 429, 404, 400 } do
      load.request(gate.port, { target = "/empty" })
      bed.stub:reset()
      bed.stub:plan { status = status, delay = { before = 0.1 } }
      local answers = load.run(gate.port, 20, function(i) return bed:request(("/v2/many%d/manifests/1"):format(i)) end)
      assert.equal(19, load.count(answers)[200])
      assert.equal(20, #bed.stub:requests())
    end
  end)

  it("of a password that has changed costs one attempt, if the last success is long ago", function()
    local patient = bed:start { gateway = "error_ttl = 60", locations = [[
      location = /later {
        content_by_lua_block {
          -- as a minute later: only the mark in the record of a credential that had a token is different
          local dict = ngx.shared.icptoken
          for _, name in ipairs(dict:get_keys(0)) do
            if name:sub(1, 1) == "k" then
              local value = dict:get(name)
              dict:set(name, value:sub(1, 8) .. ("\0"):rep(8) .. value:sub(17))
            end
          end
        }
      }
    ]] }
    finally(function() patient:stop() end)
    bed.stub:set { users = { joe = "old" } }
    local function make(i)
      return bed:request(("/v2/image%d/manifests/1"):format(i), "GET", { Authorization = "Basic am9lOm9sZA==" })
    end
    assert.equal(200, load.request(patient.port, make(0)).status)
    bed.stub:reset()
    bed.stub:set { users = { joe = "new" } }
    load.request(patient.port, { target = "/later" })
    assert.same({ [401] = 30 }, load.count(load.run(patient.port, 30, make)))
    assert.equal(1, #bed.stub:requests())
    assert.equal(200, load.request(patient.port, make(0)).status) -- its token is valid until the end of the spec
  end)

  for _, order in ipairs {
    { status = 429, headers = { { "Retry-After", "60" } } }, { status = 500 },
    { status = 503, headers = { { "Retry-After", "60" } } }, { status = 404 }, { status = 400 }, { body = "garbage" },
    { redirect = "https://login.example/" }, { expires_in = 60, claims = { iat = 1, exp = 2 } },
  } do
    local what = order.status or order.body or order.redirect or "a token that had expired"
    it(("of %s is not remembered"):format(what), function()
      bed.stub:plan(order)
      local target = ("/v2/a%s/manifests/1"):format(tostring(what):gsub("[^a-z0-9]", ""))
      assert.is_true(ask(gate.port, target).status >= 400)
      assert.equal(200, ask(gate.port, target).status)
      assert.equal(2, #bed.stub:requests())
    end)
  end
end)

describe("a gateway", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function read_gauge(gate, name)
    local answer = load.perform(gate.port, { target = "/metrics" })
    return tonumber(answer.body:match(name .. "{[^\n]*} (%d+)"))
  end

  it("whose endpoint hangs answers with 504 at its timeout, and with 503 if the queue is full", function()
    local gate = bed:start { workers = 1, gateway = "timeout = 8, max_inflight = 1, max_queue = 1" }
    bed.stub:plan { ["end"] = "hold", raw = "", times = "forever" }
    local waiting, full = {}, nil
    load.together(function() waiting[1] = load.perform(gate.port, bed:request "/v2/a/manifests/1") end, function()
      gateway_bed.await("a token request", function() return read_gauge(gate, "icptoken_inflight") == 1 end)
      waiting[2] = load.perform(gate.port, bed:request "/v2/b/manifests/1")
    end, function()
      gateway_bed.await("a queue", function() return read_gauge(gate, "icptoken_queued") == 1 end)
      full = load.perform(gate.port, bed:request "/v2/c/manifests/1")
    end)
    assert_answer(waiting[1], 504, "UNAVAILABLE", "timeout")
    assert_answer(waiting[2], 504, "UNAVAILABLE", "timeout")
    assert_answer(full, 503, "UNAVAILABLE", "queue_full", "1")
    assert.is_true(waiting[1].seconds > 4 and full.seconds < waiting[1].seconds)
    gate:stop()
  end)

  it("that was not started answers with 503, and says so in one line", function()
    local http = gateway.configure { gateway = bed:write_options(), upstream = bed.upstream }
    local gate = nginx.start { http = http:gsub("gateway:start%(%)", "", 1), main = "thread_pool icptoken threads=1;" }
    finally(function() gate:stop() end)
    for _ = 1, 10 do
      assert_answer(load.request(gate.port, bed:request "/v2/"), 503, "UNAVAILABLE", "not_started", "1")
    end
    assert.same({}, bed.stub:requests())
    assert.equal(1, select(2, gate:log():gsub("%[emerg%][^\n]*icptoken: the gateway '[^']+' was not started: ", "")))
    assert.matches("init_worker_by_lua_block { gateway:start() }", gate:log(), 1, true)
  end)

  it("that was not started is named by the log, and so is another one of the same cluster", function()
    local both = ([[(function()
      second = require("icptoken.gateway").new(%s)
      return %s
    end)()]]):format(bed:write_options [[name = "second"]], bed:write_options [[name = "first"]])
    local http = gateway.configure { gateway = both, upstream = bed.upstream, locations = [[
      location /v2/second/ {
        set $icptoken_authorization "";
        set $icptoken_key "";
        access_by_lua_block { second:authorize() }
        proxy_pass http://registry;
      }]] }
    local gate = nginx.start { http = http:gsub("gateway:start%(%)", "", 1), main = "thread_pool icptoken threads=1;" }
    finally(function() gate:stop() end)
    for _ = 1, 3 do
      load.request(gate.port, bed:request "/v2/")
      load.request(gate.port, bed:request "/v2/second/manifests/1")
    end
    for _, name in ipairs { "first", "second" } do
      assert.equal(1, select(2, gate:log():gsub(("icptoken: the gateway '%s' was not started: "):format(name), "")))
    end
  end)

  it("whose workers cannot read the CA file says so at once, in one line", function()
    for option, path in pairs { cacert = "/nonexistent/ca.crt", cert = "/nonexistent/client.crt",
      pinned_public_key = "/nonexistent/key.pub" } do
      local gate = bed:start { gateway = ("%s = %q"):format(option, path) }
      gateway_bed.await("the line", function() return gate:log():find("[emerg]", 1, true) end)
      assert.matches(("icptoken: option '%s': nginx's workers cannot read the file, so token requests will fail: %s: "
        .. "No such file or directory (check the path in the option), context"):format(option, path), gate:log(), 1,
        true)
      assert.equal(1, select(2, gate:log():gsub("%[emerg%]", "")))
      gate:stop()
    end
  end)

  it("whose workers may not read the CA file says which user they are", function()
    local path = os.tmpname()
    finally(function() os.remove(path) end)
    files.write(path, files.read(bed.stub.ca))
    assert(os.execute("chmod 000 " .. path))
    local gate = bed:start { gateway = ("cacert = %q"):format(path), user = "nobody nogroup" }
    gateway_bed.await("the line", function() return gate:log():find("[emerg]", 1, true) end)
    assert.matches(('%s: Permission denied (the workers run as the user that the directive "user" in nginx.conf '
      .. "names)"):format(path), gate:log(), 1, true)
    gate:stop()
  end)

  it("whose threads are too few says so in one line while the cluster hangs #deep", function()
    local gate = bed:start { workers = 1, gateway = 'thread_pool = "few"', main = "thread_pool few threads=2;" }
    assert.equal(200, load.request(gate.port, bed:request "/v2/known/manifests/1").status)
    bed.stub:plan { raw = "", ["end"] = "hold", times = "forever" }
    local answers = load.run(gate.port, 8, function(i) return bed:request(("/v2/few%d/manifests/1"):format(i)) end, 8)
    assert.same({ [504] = 8 }, load.count(answers))
    assert.equal(1, select(2, gate:log():gsub("token requests are waiting for a worker thread: thread_pool 'few'", "")))
    gate:stop()
    bed.stub:reset()
  end)

  it("without its thread pool says so in one line, and answers with 503", function()
    local gate = bed:start { workers = 1, gateway = 'thread_pool = "missing"' }
    gateway_bed.await("the line", function() return gate:log():find("[emerg]", 1, true) end)
    for i = 1, 20 do
      local answer = load.request(gate.port, bed:request(("/v2/a%d/manifests/1"):format(i)))
      assert_answer(answer, 503, "UNAVAILABLE", "not_started", "1")
    end
    assert.equal(200, load.request(gate.port, { target = "/elsewhere" }).status)
    local lines = select(2, gate:log():gsub("%[emerg%]", ""))
    assert.equal(1, lines)
    assert.matches("thread_pool missing threads=16;", gate:log(), 1, true)
    assert.is_nil(gate:log():find("[error]", 1, true))
    assert.same({}, bed.stub:requests())
    gate:stop()
  end)
end)

describe("a refusal whose client has gone", function()
  local REQUESTS = 200
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { workers = 1, servers = [[
      log_format statuses "$request $status";
      server {
        listen 127.0.0.1:@PORTLOGGED@ backlog=4096;
        access_log @DIR@/access.log statuses;
        location /v2/ {
          set $icptoken_authorization "";
          set $icptoken_key "";
          access_by_lua_block { gateway:authorize() }
          proxy_pass http://registry;
        }
        location = /login { content_by_lua_block { gateway:login() } }
      }
    ]] }
  end)
  teardown(function() gateway_bed.close(bed) end)

  -- Sends requests, and resets each connection at once.
  local function send_and_reset(method, target)
    for _ = 1, REQUESTS do
      local connection = assert(socket.connect("127.0.0.1", gate.ports.PORTLOGGED))
      connection:setoption("linger", { on = true, timeout = 0 })
      connection:send(("%s %s HTTP/1.1\r\nHost: a\r\n\r\n"):format(method, target))
      connection:close()
    end
  end

  for _, method in ipairs { "HEAD", "GET", "POST" } do
    for target, status in pairs { ["/v2/a/manifests/1"] = 401, ["/login"] = method == "GET" and 401 or 405 } do
      it(("is never logged as a success: %s %s"):format(method, target), function()
        send_and_reset(method, target)
        local control = { method = method, target = target }
        assert.equal(status, load.request(gate.ports.PORTLOGGED, control).status)
        local request, lines = ("%s %s HTTP/1.1 "):format(method, target), {}
        gateway_bed.await("the control's line", function()
          lines = {}
          for line in files.read(gate.dir .. "/access.log"):gmatch "([^\n]+)\n" do
            -- Lines of the specs before can still be added.
            if line:sub(1, #request) == request then lines[line] = true end
          end
          return lines[request .. status]
        end)
        for line in pairs(lines) do
          local logged = tonumber(line:match "%d+$")
          assert.is_true(logged == status or logged == 499 or logged == 400, line)
        end
      end)
    end
  end
end)

describe("an endpoint that flaps", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)

  it("does not count as working because of a credential that it did not receive", function()
    local gate = bed:start { gateway = ("port = %d"):format(reserve_port()) }
    for i = 1, 3 do
      assert.equal(502, load.request(gate.port, bed:request(("/v2/a%d/manifests/1"):format(i))).status)
      local answer = load.request(gate.port, bed:request("/v2/", "GET", { Authorization = "Bearer Bearer" }))
      assert.equal(401, answer.status)
    end
    assert.equal(1, select(2, gate:log():gsub("icptoken: ", "")))
    gate:stop()
  end)

  it("causes one line for each state in ten seconds", function()
    local gate = bed:start()
    for i = 1, 20 do
      if i % 2 == 1 then bed.stub:plan { status = 400 } end
      load.request(gate.port, bed:request(("/v2/a%d/manifests/1"):format(i)))
    end
    assert.equal(1, select(2, gate:log():gsub("icptoken: requests to https://localhost:%d+ fail: ", "")))
    assert.equal(1, select(2, gate:log():gsub("icptoken: requests to https://localhost:%d+ succeed again ", "")))
    assert.equal(2, select(2, gate:log():gsub("icptoken: ", "")))
  end)
end)

describe("the challenge", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)

  local function challenge(gate, target, authorization)
    local answer = load.request(gate.port, bed:request(target, "GET", { Authorization = authorization or false }))
    assert.equal(401, answer.status)
    return answer.headers["www-authenticate"]
  end

  it("is Basic with the realm, whatever its characters", function()
    local gate = bed:start { workers = 1, gateway = [[realm = 'a "b" \\ c\r\nX-Injected: d']] }
    assert.equal([[Basic realm="a \"b\" \\ cX-Injected: d"]], challenge(gate, "/v2/"))
    assert.equal([[Basic realm="a \"b\" \\ cX-Injected: d"]], challenge(gate, "/v2/a/manifests/1", "Bearer a"))
    gate:stop()
  end)

  it("is Bearer with the scopes of the request, if that is chosen", function()
    local gate = bed:start { workers = 1, gateway = [[challenge = "bearer", realm = "https://gate.example/login"]] }
    local head = 'Bearer realm="https://gate.example/login",service="token-service"'
    assert.equal(head, challenge(gate, "/v2/"))
    assert.equal(head .. ',error="invalid_token"', challenge(gate, "/v2/", "Bearer a"))
    assert.equal(head .. ',scope="repository:a:pull"', challenge(gate, "/v2/a/manifests/1"))
    assert.equal(head .. ',scope="repository:a:pull",error="invalid_token"',
      challenge(gate, "/v2/a/manifests/1", "Bearer a"))
    assert.equal(head .. ',scope="repository:a:pull"', challenge(gate, "/v2/a/blobs/uploads/?from=b"))
    gate:stop()
  end)
end)
