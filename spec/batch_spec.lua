-- client:fetch_all: many tokens at once. How many requests are in progress, over which connections, the order of the
-- results, how a failure affects the other requests, and how a call ends.

local cases = require "support.cases"
local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"

local under_valgrind = os.getenv "ICPTOKEN_VALGRIND"
local slow = under_valgrind or os.getenv "ICPTOKEN_SANITIZED"
local PATH = "/image-manager/api/v1/auth/token"

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function open(changes)
  return icptoken.new(cases.options(stub, changes))
end

-- A client over plain http, which avoids hundreds of handshakes.
local function open_plain(changes)
  local all = { host = false, port = false, cacert = false,
    url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH) }
  for name, value in pairs(changes or {}) do all[name] = value end
  return open(all)
end

local function name_repository(n)
  return ("team/app-%d"):format(n)
end

local function make_requests(count)
  local requests = {}
  for n = 1, count do
    requests[n] = { service = "token-service", scope = "repository:" .. name_repository(n) .. ":pull" }
  end
  return requests
end

-- The token grants the access that request number n asked for.
local function assert_own_token(n, token)
  local claims = assert(icptoken.decode(token.token)).claims
  assert.equal("token-service", claims.aud)
  assert.equal(1, #claims.access)
  assert.equal(name_repository(n), claims.access[1].name)
end

local function assert_own_tokens(count, tokens, errors)
  assert.is_nil(errors)
  assert.equal(count, #tokens)
  for n = 1, count do assert_own_token(n, tokens[n]) end
end

-- The entry of a request that failed, checked as the results of a failed call are.
local function check_error(code, tokens, errors, n)
  assert.is_false(tokens[n])
  local details = errors[n]
  assert.is_table(details)
  cases.check_failure(code, { stub.id_token, stub.password }, nil, details.message, details.code, details)
  return details
end

local function count_failed(count, tokens, errors)
  local failed = {}
  for n = 1, count do
    assert.equal(tokens[n] == false, errors ~= nil and errors[n] ~= nil)
    if tokens[n] == false then failed[#failed + 1] = n end
  end
  return #failed, failed[1]
end

-- The greatest number of requests that waited for an answer at the same time.
local function count_in_flight(requests)
  local most = 0
  for _, request in ipairs(requests) do most = math.max(most, request.waiting) end
  return most
end

-- How much longer requests that are in progress together wait, so that one too many would be noticed.
local TO_BE_SEEN = 0.03

-- The number of requests, and the tag of the row.
local SIZES = { { 100, "" }, { under_valgrind and 200 or 1000, " #deep" } }

for _, size in ipairs(SIZES) do
  local many, tag = size[1], size[2]

  describe(("%d requests%s"):format(many, tag), function()
    local function fetch_many(client, parallel)
      stub:plan { together = parallel, delay = { before = TO_BE_SEEN }, times = 3 * parallel }
      assert_own_tokens(many, client:fetch_all(make_requests(many)))
      local requests = stub:requests()
      assert.equal(many, #requests)
      assert.equal(parallel, count_in_flight(requests))
      assert.equal(many, client:stats().requests)
      assert.equal(many, client:stats().attempts)
      client:close()
    end

    it("go over kept connections, 16 of them", function()
      fetch_many(open_plain { timeout = 300 }, 16)
      assert.equal(16, stub:accepted().http)
    end)

    it("go over kept connections of TLS", function()
      fetch_many(open { parallel = 5, timeout = 300 }, 5)
      assert.equal(5, stub:accepted().https)
    end)

    it("are streams of one connection with HTTP/2", function()
      fetch_many(open { http_version = "2", timeout = 300 }, 16)
      assert.equal(1, stub:accepted().https)
      assert.equal("2", stub:last().version)
    end)
  end)
end

describe("as many requests as parallel says", function()
  -- all of them must have come before the first is answered
  local function assert_together(client, count, parallel)
    local together = math.min(count, parallel)
    stub:plan { together = together, delay = { before = TO_BE_SEEN }, times = together }
    assert_own_tokens(count, client:fetch_all(make_requests(count)))
    client:close()
    local requests = stub:requests()
    assert.equal(count, #requests)
    assert.equal(together, count_in_flight(requests))
  end

  it("are in progress together", function() assert_together(open_plain { parallel = 4 }, 9, 4) end)
  it("are in progress together as streams", function()
    assert_together(open { parallel = 4, http_version = "2" }, 9, 4)
  end)
  it("are all of them if it is greater", function() assert_together(open_plain { parallel = 256 }, 5, 256) end)
  it("are 16 by default", function() assert_together(open_plain(), 20, 16) end)

  it("are one at a time with parallel = 1, over one connection", function()
    local client = open { parallel = 1 }
    assert_own_tokens(10, client:fetch_all(make_requests(10)))
    client:close()
    assert.equal(1, count_in_flight(stub:requests()))
    assert.equal(1, stub:accepted().https)
    for n, request in ipairs(stub:requests()) do
      assert.equal("repository:" .. name_repository(n) .. ":pull", request.query.scope[1])
    end
  end)

  it("are 256 at most", function()
    local client = open_plain { parallel = 256, timeout = 300 }
    assert_together(client, 260, 256)
    assert.equal(256, stub:accepted().http)
  end)

  it("are streams of few connections with parallel = 256", function()
    local client = open { parallel = 256, http_version = "2", timeout = 300 }
    assert_own_tokens(300, client:fetch_all(make_requests(300)))
    client:close()
    local accepted = stub:accepted().https
    assert.equal(1, accepted)
  end)
end)

describe("a list", function()
  it("of nothing returns nothing, and sends nothing", function()
    local client = open()
    local tokens, errors = client:fetch_all {}
    assert.same({}, tokens)
    assert.is_nil(errors)
    assert.equal(0, #stub:requests())
    client:close()
  end)

  it("of one returns one", function()
    local client = open()
    assert_own_tokens(1, client:fetch_all(make_requests(1)))
    client:close()
  end)

  it("may contain requests that leave everything to the client", function()
    local client = open { service = "token-service", scope = "repository:" .. name_repository(1) .. ":pull" }
    local tokens, errors = client:fetch_all { {}, { scope = "repository:" .. name_repository(2) .. ":pull" } }
    assert_own_tokens(2, tokens, errors)
    client:close()
  end)

  it("accepts the result of icptoken.challenge", function()
    local client = open()
    local challenge = assert(icptoken.challenge([[Bearer realm="https://elsewhere.invalid/t",]]
      .. [[service="token-service",scope="repository:team/app-1:pull",error="invalid_token"]]))
    assert_own_tokens(1, client:fetch_all { challenge })
    client:close()
  end)

  it("returns token tables like those of fetch", function()
    local client = open()
    local token = client:fetch_all(make_requests(1))[1]
    assert.is_nil(getmetatable(token))
    assert.equal(1800, token.expires_in)
    for _, name in ipairs { "received_at", "expires_at", "refresh_at" } do assert.is_number(token[name]) end
    client:close()
  end)

  it("is not changed", function()
    local client = open { parallel = 2 }
    local requests = { { scope = { "a:b:c", "a:b:c" } }, { scope = "d:e:f", account = "me" } }
    assert(client:fetch_all(requests))
    assert.same({ { scope = { "a:b:c", "a:b:c" } }, { scope = "d:e:f", account = "me" } }, requests)
    client:close()
  end)

  it("neither reads the cache nor fills it", function()
    local client = open()
    local request = make_requests(1)[1]
    local kept = assert(client:token(request))
    local tokens = client:fetch_all { request, request }
    assert.are_not.equal(kept.token, tokens[1].token)
    assert.are_not.equal(tokens[1].token, tokens[2].token)
    assert.equal(kept, (client:token(request)))
    local other = make_requests(2)[2]
    client:fetch_all { other }
    assert.equal("fresh", (select(3, client:token(other))))
    client:close()
  end)
end)

describe("a wrong list", function()
  local client

  before_each(function() client = open() end)
  after_each(function() client:close() end)

  local function assert_refused(requests, ...)
    local ok, message = pcall(client.fetch_all, client, requests)
    assert.is_false(ok)
    assert.is_string(message)
    for _, words in ipairs { ... } do assert.matches(words, message, 1, true) end
    assert.equal(0, #stub:requests())
    assert_own_tokens(1, client:fetch_all(make_requests(1)))
    stub:reset()
  end

  it("raises an error if it is not a table", function()
    for _, value in ipairs { "repository:a:pull", 1, true } do
      assert.is_false((pcall(client.fetch_all, client, value)))
    end
    assert.is_false((pcall(client.fetch_all, client)))
  end)

  -- each: what, the third request, what the message names
  for _, case in ipairs {
    { "an unknown option", { scop = "a" }, "'scop'" }, { "a string", "repository:a:pull" },
    { "a wrong type", { scope = 1 }, "'scope'" }, { "a control character", { service = "a\n" }, "'service'" },
    { "an option of the client", { host = "a" }, "'host'" }, { "a timeout of its own", { timeout = 1 }, "'timeout'" },
    { "a credential of its own", { id_token = "a" }, "'id_token'" }, { "false", false },
  } do
    it("raises with the number of the request that is " .. case[1], function()
      assert_refused({ {}, {}, case[2], {} }, "request 3", case[3])
    end)
  end

  it("raises with the number of the first wrong one, even if that is the last", function()
    local requests = make_requests(50)
    requests[50].scop = "a"
    assert_refused(requests, "request 50")
    requests[20].scop = "a"
    assert_refused(requests, "request 20")
  end)

  it("raises an error if it has a gap", function()
    assert_refused({ {}, nil, {} }, "request 2")
    assert_refused({ [1] = {}, [2] = {}, [2 ^ 30] = {} }, "request 3")
  end)

  it("raises an error if it is a single request", function()
    assert_refused(make_requests(1)[1])
  end)
end)

describe("a request that fails", function()
  -- each: what, the order for one request, its code, more options
  for _, case in ipairs {
    { "with 403", { status = 403, body = '{"errors":[{"code":"DENIED","message":"not you"}]}' }, "forbidden" },
    { "with 401", { status = 401 }, "unauthorized" },
    { "with 404", { status = 404 }, "not_found" },
    { "with 429", { status = 429, headers = { { "Retry-After", "60" } } }, "rate_limited" },
    { "with 500", { status = 500 }, "server_error" },
    { "with a redirect", { redirect = "https://elsewhere.invalid/" }, "redirect" },
    { "with garbage", { status = 200, body = "<html>" }, "invalid_response" },
    { "with an answer cut short", { cut = 300 }, "network" },
    { "with an ended token", { claims = { iat_in = -100, exp_in = -50 } }, "expired" },
    { "with too much", { endless = "body", bytes = 4e6 }, "too_large" },
  } do
    it(case[1] .. " fails alone", function()
      -- one by one, so that it is the fourth
      local client = open_plain { parallel = 1 }
      stub:plan({ times = 3 }, case[2])
      local tokens, errors = client:fetch_all(make_requests(8))
      local details = check_error(case[3], tokens, errors, 4)
      assert.equal(1, details.attempts)
      assert.equal(stub.ports.http, tonumber(details.url:match ":(%d+)/"))
      assert.equal(1, (count_failed(8, tokens, errors)))
      for n = 1, 8 do
        if n ~= 4 then assert_own_token(n, tokens[n]) end
      end
      assert.equal(1, client:stats().failures[case[3]])
      client:close()
    end)
  end

  it("fails alone among others in progress", function()
    local client = open { parallel = 8 }
    stub:plan({ delay = { before = 0.1 }, times = 3 },
      { status = 403, body = '{"errors":[{"code":"DENIED","message":"not you"}]}' })
    local tokens, errors = client:fetch_all(make_requests(40))
    local count, n = count_failed(40, tokens, errors)
    assert.equal(1, count)
    local details = check_error("forbidden", tokens, errors, n)
    assert.same({ { code = "DENIED", message = "not you" } }, details.errors)
    assert.equal(403, details.status)
    for i, token in ipairs(tokens) do
      if token then assert_own_token(i, token) end
    end
    client:close()
  end)

  it("fails alone as a stream", function()
    local client = open { parallel = 8, http_version = "2" }
    stub:plan({ times = 5 }, { ["end"] = "reset" }, { times = 5 }, { status = 403 })
    local tokens, errors = client:fetch_all(make_requests(40))
    local codes = {}
    for n in pairs(errors) do codes[errors[n].code] = (codes[errors[n].code] or 0) + 1 end
    assert.equal(2, (count_failed(40, tokens, errors)))
    assert.same({ network = 1, forbidden = 1 }, codes)
    assert.equal(1, stub:accepted().https)
    client:close()
  end)

  it("has its error at its own index if all fail", function()
    local client = open_plain()
    stub:plan { status = 403, times = "forever" }
    local tokens, errors = client:fetch_all(make_requests(30))
    assert.equal(30, (count_failed(30, tokens, errors)))
    for n = 1, 30 do check_error("forbidden", tokens, errors, n) end
    assert.equal(30, client:stats().failures.forbidden)
    client:close()
  end)

  it("cannot connect, like all the others", function()
    local client = open { port = stub.ports.refuse }
    local tokens, errors = client:fetch_all(make_requests(5))
    for n = 1, 5 do check_error("connect", tokens, errors, n) end
    client:close()
  end)

  it("does not accept a certificate, like all the others", function()
    local client = open { port = stub.ports.unknown_ca, retries = 2 }
    local tokens, errors = client:fetch_all(make_requests(5))
    for n = 1, 5 do assert.equal(1, check_error("tls", tokens, errors, n).attempts) end
    client:close()
  end)
end)

describe("retries", function()
  it("are counted for each request", function()
    local client = open_plain { retries = 2, parallel = 8 }
    stub:plan { status = 503, times = 6 }
    assert_own_tokens(20, client:fetch_all(make_requests(20)))
    assert.equal(26, client:stats().attempts)
    assert.equal(26, #stub:requests())
    client:close()
  end)

  it("end for each request", function()
    local client = open_plain { retries = 1 }
    stub:plan { status = 503, times = "forever" }
    local tokens, errors = client:fetch_all(make_requests(6))
    for n = 1, 6 do
      local details = check_error("server_error", tokens, errors, n)
      assert.equal(2, details.attempts)
      assert.is_true(details.retryable)
    end
    assert.equal(12, #stub:requests())
    assert.equal(12, client:stats().attempts)
    client:close()
  end)

  it("of one do not delay the others", function()
    timing.try(function(scale) -- the machine is to serve eleven requests in this time
      stub:reset()
      local client = open_plain { retries = 1, parallel = 2, timeout = 300 }
      stub:plan({ status = 503, headers = { { "Retry-After", ("%d"):format(scale) } } })
      assert_own_tokens(12, client:fetch_all(make_requests(12)))
      client:close()
      local requests = stub:requests()
      assert.equal(13, #requests)
      assert.equal(requests[1].target, requests[13].target)
      assert.is_true(requests[13].time - requests[1].time >= 0.95 * scale)
    end)
  end)

  it("continue after connections are reset in the middle", function()
    local client = open_plain { retries = 3, parallel = 8 }
    stub:plan({ times = 10 }, { raw = "", ["end"] = "reset", times = 5 }, { times = 5 },
      { cut = 200, ["end"] = "reset", times = 3 })
    assert_own_tokens(60, client:fetch_all(make_requests(60)))
    client:close()
  end)

  it("continue after the streams of a connection are reset", function()
    local client = open { retries = 3, parallel = 8, http_version = "2" }
    stub:plan({ times = 10 }, { ["end"] = "reset", times = 5 })
    assert_own_tokens(60, client:fetch_all(make_requests(60)))
    client:close()
  end)

  it("are none with retries = 0: a reset connection fails its request", function()
    local client = open_plain { parallel = 8 }
    stub:plan { raw = "", ["end"] = "reset", times = 4 } -- all on new connections
    local tokens, errors = client:fetch_all(make_requests(30))
    assert.equal(4, (count_failed(30, tokens, errors)))
    for n in pairs(errors) do check_error("network", tokens, errors, n) end
    client:close()
  end)
end)

describe("the time limit", function()
  it("bounds each request", function()
    timing.try(function(scale)
      local limit = 0.25 * scale
      stub:reset()
      local client = open_plain { timeout = limit, parallel = 4 }
      stub:plan({ times = 4 }, { delay = { before = 600 }, times = 3 })
      local tokens, errors = client:fetch_all(make_requests(40))
      client:close()
      assert.equal(3, (count_failed(40, tokens, errors)))
      for n in pairs(errors) do
        check_error("timeout", tokens, errors, n)
        assert.matches(("%g s"):format(limit), errors[n].message, 1, true)
      end
    end)
  end)

  it("does not apply to all of them together", function()
    timing.try(function(scale)
      stub:reset()
      local client = open_plain { timeout = 0.5 * scale, parallel = 2 }
      stub:plan { delay = { before = 0.15 * scale }, times = "forever" }
      assert_own_tokens(8, client:fetch_all(make_requests(8))) -- takes 0.6 s at least
      client:close()
    end)
  end)

  it("bounds streams, and keeps their connection", function()
    timing.try(function(scale)
      stub:reset()
      local client = open { timeout = 0.5 * scale, parallel = 4, http_version = "2" }
      stub:plan({ times = 4 }, { delay = { before = 600 }, times = 3 })
      local tokens, errors = client:fetch_all(make_requests(40))
      client:close()
      assert.equal(3, (count_failed(40, tokens, errors)))
      for n in pairs(errors) do check_error("timeout", tokens, errors, n) end
      assert.equal(1, stub:accepted().https)
    end)
  end)

  it("does not go on over a connection of streams that has swallowed them all", function()
    timing.try(function(scale)
      stub:reset()
      local client = open { timeout = 0.5 * scale, parallel = 4, retries = 0, http_version = "2" }
      assert(client:fetch())
      stub:plan { delay = { before = 600 }, times = 4 }
      local tokens, errors = client:fetch_all(make_requests(12))
      assert(client:fetch()) -- over the connection that replaced it
      client:close()
      assert.equal(4, (count_failed(12, tokens, errors)))
      for n in pairs(errors) do
        assert.is_true(errors[n].code == "timeout" or errors[n].code == "network", errors[n].code)
      end
      assert.equal(2, stub:accepted().https)
    end)
  end)

  it("of one stream after another does not close the connection that replaces theirs", function()
    local STREAMS = 100 -- so many that they neither start nor time out at once
    timing.try(function(scale)
      stub:reset()
      local client = open { timeout = scale, parallel = STREAMS, retries = 0, http_version = "2" }
      assert(client:fetch())
      stub:plan { delay = { before = 600 }, times = STREAMS }
      local tokens, errors = client:fetch_all(make_requests(2 * STREAMS))
      client:close()
      assert.equal(STREAMS, (count_failed(2 * STREAMS, tokens, errors)))
      for n = 1, STREAMS do assert.is_table(errors[n], n) end
      assert.equal(2, stub:accepted().https)
    end)
  end)

  it("starts for each request when the request begins", function()
    local client = open_plain { timeout = 0.2, parallel = 1 }
    stub:plan { delay = { before = 600 }, times = "forever" }
    local before = testkit.monotonic()
    local tokens, errors = client:fetch_all(make_requests(3))
    local seconds = testkit.monotonic() - before
    assert.equal(3, (count_failed(3, tokens, errors)))
    assert.is_true(seconds >= 0.59, seconds)
    client:close()
  end)
end)

describe("a failure of the whole", function()
  it("is a credential that cannot be read", function()
    local client = open { id_token = false, id_token_file = "/nonexistent/id_token" }
    local message = cases.check_failure("invalid_credential", {}, client:fetch_all(make_requests(3)))
    assert.matches("/nonexistent/id_token", message, 1, true)
    assert.equal(0, #stub:requests())
    client:close()
  end)

  it("is a credential that cannot be sent", function()
    local client = open { id_token = "two words" }
    cases.check_failure("invalid_credential", { "two words" }, client:fetch_all(make_requests(3)))
    assert.equal(0, #stub:requests())
    client:close()
  end)

  it("is a client that was closed", function()
    local client = open()
    client:close()
    cases.check_failure("closed", {}, client:fetch_all(make_requests(3)))
    cases.check_failure("closed", {}, client:fetch_all {})
  end)
end)

describe("a client after fetch_all", function()
  it("works as before, with every method", function()
    for _, version in ipairs { "1.1", "2" } do
      local client = open { http_version = version }
      assert(client:fetch())
      for _ = 1, 3 do
        assert_own_tokens(20, client:fetch_all(make_requests(20)))
        assert(client:fetch { scope = "a:b:c" })
        assert(client:token { scope = "a:b:c" })
      end
      client:close()
    end
  end)

  it("reuses its connections", function()
    local client = open { parallel = 4 }
    assert(client:fetch())
    for _ = 1, 5 do assert_own_tokens(12, client:fetch_all(make_requests(12))) end
    assert(client:fetch())
    assert.is_true(stub:accepted().https <= 8, stub:accepted().https .. " connections")
    client:close()
  end)

  it("leaves no socket when it is closed", function()
    for _, version in ipairs { "1.1", "2" } do
      local before = #testkit.open_sockets()
      local client = open { parallel = 32, http_version = version }
      stub:plan({ times = 50 }, { raw = "", ["end"] = "reset", times = 5 })
      client:fetch_all(make_requests(100))
      client:close()
      assert.equal(before, #testkit.open_sockets())
      stub:reset()
    end
  end)

  it("opens its sockets close-on-exec", function()
    local client = open { parallel = 8 }
    local known, found = {}, 0
    -- libcurl's own wake-up pair is there before any connection
    for _, socket in ipairs(testkit.open_sockets()) do known[socket.fd] = true end
    assert_own_tokens(20, client:fetch_all(make_requests(20)))
    for _, socket in ipairs(testkit.open_sockets()) do
      if not known[socket.fd] then
        found = found + 1
        assert.is_true(socket.cloexec)
      end
    end
    assert.is_true(found > 1)
    client:close()
  end)
end)

describe("the memory of libcurl", function()
  -- The most blocks that were in use at once; a hook looks each time the client waits.
  local function measure_peak(client, requests)
    local jit = rawget(_G, "jit")
    local most, seen = 0, 0
    if jit then jit.off() end
    debug.sethook(function()
      local _, bytes = testkit.curl_outstanding()
      most, seen = math.max(most, bytes), seen + 1
    end, "c")
    local ok, tokens, errors = pcall(client.fetch_all, client, requests)
    debug.sethook()
    if jit then jit.on() end
    assert.is_true(ok, tokens)
    assert.is_nil(errors)
    assert.is_true(seen > 10, "the hook had no turn")
    return most
  end

  -- Each handle of libcurl takes some kilobytes, so a few hundred that are not freed would far exceed the limit.
  for _, size in ipairs(SIZES) do
    for _, version in ipairs { "1.1", "2" } do
      it(("grows with requests in progress, not with %d requests, HTTP/%s%s"):format(3 * size[1], version, size[2]),
        function()
          local client = open { parallel = 8, http_version = version }
          stub:plan { token = "abc.def-123", times = "forever" }
          measure_peak(client, make_requests(20))
          local _, before = testkit.curl_outstanding()
          local few = measure_peak(client, make_requests(40)) - before
          local many = measure_peak(client, make_requests(3 * size[1])) - before
          assert.is_true(many < few * 1.5 + 2 ^ 19, ("%d bytes at most, then %d"):format(few, many))
          local _, after = testkit.curl_outstanding()
          assert.is_true(after < before + 65536, ("%d bytes before, %d after"):format(before, after))
          client:close()
        end)
    end
  end

  it("is freed when the client is closed", function()
    local function work()
      local client = open { parallel = 8 }
      client:fetch_all(make_requests(30))
      client:close()
    end
    work()
    local blocks = testkit.curl_outstanding()
    for _ = 1, 3 do work() end
    assert.equal(blocks, (testkit.curl_outstanding()))
  end)
end)

it("of the process does not grow from one fetch_all to the next #deep", function()
  if slow then return pending "sanitizers and valgrind hold freed memory back" end
  local client = open { parallel = 16 }
  stub:plan { token = "abc.def-123", times = "forever" }
  local function work(times)
    for _ = 1, times do client:fetch_all(make_requests(200)) end
    collectgarbage()
    collectgarbage()
    return testkit.resident()
  end
  local before = work(5)
  local after = work(10)
  assert.is_true(after - before < 2 ^ 20, ("grew by %d bytes"):format(after - before))
  client:close()
end)

describe("in its process a client", function()
  local function script(body)
    return ([[
      local icptoken = require "icptoken"
      local client = icptoken.new { host = "localhost", port = %d, cacert = %q, id_token_file = %q, retries = 0,
        timeout = 600, http_version = %q, service = "token-service" }
      local requests = {}
      for n = 1, 40 do requests[n] = { scope = "repository:team/app-" .. n .. ":pull" } end
    ]]):format(stub.port, stub.ca, stub.id_token_file, "%s") .. body
  end

  local function await_requests(count)
    timing.wait_for("the requests", function() return #stub:requests() >= count end)
  end

  for _, version in ipairs { "1.1", "2" } do
    it("ends all requests at Ctrl-C, and works afterwards, with HTTP/" .. version, function()
      stub:plan({ times = 10 }, { delay = { before = 600 }, times = 16 })
      local child = interpreter.start { code = script([[
        local before = #requests
        local ok, message = pcall(client.fetch_all, client, requests)
        print(ok, message)
        local tokens, errors = client:fetch_all(requests)
        print("again: " .. #tokens .. " " .. tostring(errors))
        print(type(assert(client:fetch()).token))
      ]]):format(version) }
      await_requests(26)
      testkit.kill(child.pid, "INT")
      await_requests(27) -- the second fetch_all is sent while the stub still holds the first
      local how, status, output = child.wait()
      assert.matches("false.*interrupted!", output)
      assert.matches("again: 40 nil", output, 1, true)
      assert.equal("exited", how)
      assert.equal(0, status)
    end)
  end

  local in_child = interpreter.fork

  it("serves parent and child after a fork, each on connections of its own", function()
    for _, version in ipairs { "1.1", "2" } do
      local client = open { parallel = 4, http_version = version }
      assert_own_tokens(12, client:fetch_all(make_requests(12)))
      local parents = {}
      for _, request in ipairs(stub:requests()) do parents[request.connection] = true end
      stub:reset()
      assert.equal(0, in_child(function()
        local tokens, errors = client:fetch_all(make_requests(12))
        client:close()
        return #tokens == 12 and errors == nil
      end))
      local childs = stub:requests()
      assert.equal(12, #childs)
      for _, request in ipairs(childs) do assert.is_nil(parents[request.connection]) end
      assert_own_tokens(12, client:fetch_all(make_requests(12)))
      client:close()
      stub:reset()
    end
  end)

  it("calls fetch_all in a coroutine", function()
    local client = open()
    local routine = coroutine.wrap(function()
      coroutine.yield(client:fetch_all(make_requests(5)))
      return client:fetch_all(make_requests(5))
    end)
    assert_own_tokens(5, routine())
    assert_own_tokens(5, routine())
    client:close()
  end)

  it("refuses to be used from within its own fetch_all", function()
    local client = open()
    local problem
    debug.sethook(function()
      if problem then return end
      problem = "none"
      local _, message = pcall(client.fetch_all, client, make_requests(1))
      problem = message
    end, "c")
    local ok = pcall(client.fetch_all, client, make_requests(5))
    debug.sethook()
    assert.is_true(ok)
    if type(problem) == "string" then -- the hook may have come before the call
      assert.matches("in the middle of a call", problem, 1, true)
    end
    assert_own_tokens(5, client:fetch_all(make_requests(5)))
    client:close()
  end)
end)
