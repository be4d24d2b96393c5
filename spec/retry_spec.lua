-- Which failures are retried, how often, and after how long a wait; and which never are.

local cases = require "support.cases"
local icptoken = require "icptoken"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"

local under_valgrind = os.getenv "ICPTOKEN_VALGRIND"

-- Waits are measured between requests as the stub receives them, so they include the time for an answer and for the
-- next request. For that, the time of a fetch without a wait is allowed, and NOISE.
local NOISE = 0.05
local FIRST_WAIT = 0.25

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function fetch(changes)
  return icptoken.fetch(cases.options(stub, changes))
end

local function fail(code, changes)
  return cases.check_failure(code, { stub.id_token }, fetch(changes))
end

local function refuse_always(order)
  order.times = "forever"
  stub:plan(order)
end

-- The seconds between the requests (or, for kind "connect", the connections) that the stub received.
local function read_gaps(kind)
  local gaps, before = {}, nil
  for _, entry in ipairs(stub:log()) do
    if entry.type == (kind or "request") then
      if before then gaps[#gaps + 1] = entry.time - before end
      before = entry.time
    end
  end
  return gaps
end


local DATE = 1511933061

local function retry_after(value)
  return { { "Retry-After", value } }
end

local function format_date(epoch)
  return os.date("!%a, %d %b %Y %H:%M:%S GMT", epoch)
end

-- Fetches, and checks the waits (in seconds) between the requests or connections that the stub received. Returns them.
-- A busy machine may lengthen each of them, and the fetch that they are compared with, so of each the shortest counts.
local function check_waits(seconds, orders, changes, kind)
  local too_short
  local shortest, overhead = {}, math.huge
  timing.try(function()
    stub:reset()
    stub:plan((unpack or table.unpack)(orders)) -- luacheck: ignore 143
    fetch(changes)
    local gaps = read_gaps(kind)
    assert.equal(#seconds, #gaps)
    stub:reset()
    local started = testkit.monotonic()
    assert(fetch())
    overhead = math.min(overhead, testkit.monotonic() - started)
    for i, gap in ipairs(gaps) do
      if gap < seconds[i] * 0.9 - 0.001 then
        too_short = ("waited only %.3f s of %g s"):format(gap, seconds[i])
        return
      end
      shortest[i] = math.min(shortest[i] or math.huge, gap)
    end
    for i, gap in ipairs(shortest) do
      assert.is_true(gap <= seconds[i] * 1.1 + overhead + NOISE, ("waited %.3f s instead of %g s"):format(gap,
        seconds[i]))
    end
  end)
  assert.is_nil(too_short)
  return shortest
end

-- Each: what, and the order for the first attempt.
local RETRIED = {
  { "status 408", { status = 408 } }, { "status 500", { status = 500 } }, { "status 502", { status = 502 } },
  { "status 503", { status = 503 } }, { "status 504", { status = 504 } },
  { "status 429 with Retry-After", { status = 429, headers = retry_after "0" } },
  { "an empty answer", { status = 200, body = "" } },
  { "an empty answer in chunks", { status = 200, body = "", framing = "chunked" } },
  { "an answer cut short in its status line", { cut = 7, ["end"] = "close" } },
  { "an answer cut short in its head", { cut = 60, ["end"] = "close" } },
  { "an answer cut short in its body", { cut = 150, ["end"] = "close" } },
  { "an answer cut short without a length", { cut = 150, framing = "close" } },
  { "an answer cut short in its chunks", { cut = 200, framing = "chunked" } },
  { "an answer cut short below TLS", { cut = 150, ["end"] = "abort" } },
  { "no answer at all", { raw = "", ["end"] = "close" } },
  { "a reset before the answer", { raw = "", ["end"] = "reset" } },
  { "a reset in the answer", { cut = 150, ["end"] = "reset" } },
  { "a refusal for now, cut short", { status = 503, body = ("x"):rep(100), cut = 150, ["end"] = "close" } },
}

-- Each: what, and how the first connection ends in its TLS handshake.
local HANDSHAKES = { { "is closed", "close" }, { "breaks off", "abort" }, { "is reset", "reset" } }

describe("a fetch is retried after #short", function()
  it("any transient failure", function()
    local client = icptoken.new(cases.options(stub, { retries = 1, parallel = #RETRIED, timeout = 300 }))
    local requests = {}
    for n, case in ipairs(RETRIED) do
      local order = { together = #RETRIED }
      for name, value in pairs(case[2]) do order[name] = value end
      stub:plan(order)
      requests[n] = {}
    end
    local tokens, errors = client:fetch_all(requests)
    client:close()
    assert.is_nil(errors)
    for n = 1, #RETRIED do assert.is_string(tokens[n].token) end
    assert.equal(2 * #RETRIED, #stub:requests())
  end)

  for _, case in ipairs(RETRIED) do
    it(case[1] .. " #deep", function()
      stub:plan(case[2])
      local token, message = fetch { retries = 1 }
      assert.is_nil(message)
      assert.is_string(token.token)
      assert.equal(2, #stub:requests())
    end)
  end

  for _, case in ipairs(HANDSHAKES) do
    it("a connection that " .. case[1] .. " in its handshake", function()
      stub:plan { at = "connect", ["end"] = case[2] }
      assert(fetch { retries = 1 })
      assert.equal(2, stub:accepted().https)
      assert.equal(1, #stub:requests())
    end)
  end

  it("a connection that is refused", function()
    local _, details = fail("connect", { port = stub.ports.refuse, retries = 1 })
    assert.equal(2, details.attempts)
  end)

  it("a name that is not found", function()
    local _, details = fail("resolve", { host = ("x"):rep(64) .. ".icp", retries = 1 })
    assert.equal(2, details.attempts)
  end)

  it("a reset stream of HTTP/2", function()
    stub:plan { ["end"] = "reset" }
    assert(fetch { http_version = "2", retries = 1 })
    assert.equal(2, #stub:requests())
  end)
end)

-- Each: what, the code, and the order for the first attempt.
local FINAL = {
  { "status 400", "http_status", { status = 400 } }, { "status 401", "unauthorized", { status = 401 } },
  { "status 403", "forbidden", { status = 403 } }, { "status 404", "not_found", { status = 404 } },
  { "status 405", "http_status", { status = 405 } }, { "status 409", "http_status", { status = 409 } },
  { "status 418", "http_status", { status = 418 } }, { "status 501", "server_error", { status = 501 } },
  { "status 505", "server_error", { status = 505 } }, { "status 201", "http_status", { status = 201 } },
  { "status 204", "http_status", { status = 204 } }, { "status 304", "http_status", { status = 304 } },
  { "status 429 without Retry-After", "rate_limited", { status = 429 } },
  { "status 429 with an invalid Retry-After", "rate_limited",
    { status = 429, headers = retry_after "soon" } },
  { "status 403 with Retry-After", "forbidden", { status = 403, headers = retry_after "0" } },
  { "a redirect", "redirect", { redirect = "/elsewhere" } },
  { "a web page", "invalid_response", { status = 200, body = "<html>" } },
  { "an answer without a token", "invalid_response", { status = 200, body = "{}" } },
  { "an answer with a wrong token", "invalid_response", { status = 200, body = '{"token":"a b"}' } },
  { "an answer with a wrong expires_in", "invalid_response", { status = 200, body = '{"token":"a","expires_in":-1}' } },
  { "an answer with a Retry-After", "invalid_response", { status = 200, body = "[]", headers = retry_after "0" } },
  { "a token that has expired", "expired", { claims = { iat = 1000, exp = 2000 } } },
  { "an answer that is too large", "too_large", { endless = "headers" } },
}

describe("a fetch is not retried after", function()
  for _, case in ipairs(FINAL) do
    local what, code, order = case[1], case[2], case[3]

    it(what, function()
      stub:plan(order)
      local _, details = fail(code, { retries = 2 })
      assert.equal(1, details.attempts)
      assert.equal(1, #stub:requests())
    end)
  end

  for _, listener in ipairs { "unknown_ca", "wrong_host", "expired", "tls11" } do
    it("a certificate or protocol that is refused: " .. listener, function()
      local _, details = fail("tls", { port = stub.ports[listener], retries = 2 })
      assert.equal(1, details.attempts)
      assert.equal(1, stub:accepted()[listener])
    end)
  end

  it("an invalid credential", function()
    local _, details = fail("invalid_credential", { id_token = "a b", retries = 2 })
    assert.equal(0, details.attempts)
    assert.same({}, stub:log())
  end)

  it("a token was received", function()
    assert(fetch { retries = 2 })
    assert.equal(1, #stub:requests())
  end)
end)

describe("the number of attempts", function()
  for retries = 0, 2 do
    it(("is at most %d with retries = %d, and is in the details"):format(retries + 1, retries), function()
      refuse_always { status = 503 }
      local _, details = fail("server_error", { retries = retries })
      assert.equal(retries + 1, details.attempts)
      assert.equal(retries + 1, #stub:requests())
      if math.type then assert.equal("integer", math.type(details.attempts)) end
    end)
  end

  it("is at most 3 by default", function()
    refuse_always { status = 503 }
    local _, details = fail("server_error", { retries = false })
    assert.equal(3, details.attempts)
    assert.equal(3, #stub:requests())
  end)

  it("is that of the request if it has the option, and for it alone", function()
    refuse_always { status = 503 }
    local client = icptoken.new(cases.options(stub, { retries = 0 }))
    for _, request in ipairs { { retries = 1 }, {}, { retries = 0 } } do
      local _, details = cases.check_failure("server_error", {}, client:fetch(request))
      assert.equal((request.retries or 0) + 1, details.attempts)
    end
    client:close()
    assert.equal(4, #stub:requests())
  end)

  it("counts connections that failed", function()
    stub:plan { at = "connect", ["end"] = "reset", times = 2 }
    local _, details = fail("network", { retries = 1 })
    assert.equal(2, details.attempts)
    assert.equal(2, stub:accepted().https)
  end)

  it("begins again with each fetch", function()
    local client = icptoken.new(cases.options(stub, { retries = 1 }))
    stub:plan({ status = 503 }, {}, { status = 401 })
    assert(client:fetch())
    local _, details = cases.check_failure("unauthorized", {}, client:fetch())
    client:close()
    assert.equal(1, details.attempts)
  end)
end)

describe("the last attempt", function()
  it("is the one that a failure describes", function()
    stub:plan({ status = 503, body = '{"message":"first"}', headers = retry_after "0" }, { status = 403 })
    local message, details = fail("forbidden", { retries = 2 })
    assert.equal(403, details.status)
    assert.equal(2, details.attempts)
    assert.is_nil(details.errors)
    assert.is_nil(details.retry_after)
    assert.not_matches("first", message, 1, true)
  end)

  it("is reported as a network failure after a refusal", function()
    stub:plan({ status = 503 }, { cut = 60, ["end"] = "close" })
    local message, details = fail("network", { retries = 1 })
    assert.not_equal(503, details.status)
    assert.matches("cut off", message, 1, true)
  end)
end)

describe("each attempt", function()
  it("sends the same request", function()
    stub:plan({ status = 503 }, { raw = "", ["end"] = "reset" })
    assert(fetch { service = "s", scope = "a b", retries = 2 })
    local requests = stub:requests()
    assert.equal(3, #requests)
    for _, request in ipairs(requests) do
      assert.equal(requests[1].target, request.target)
      assert.same(requests[1].headers, request.headers)
    end
  end)

  it("after a refusal uses the same connection", function()
    stub:plan { status = 503, body = "busy" }
    assert(fetch { retries = 1 })
    assert.equal(1, stub:accepted().https)
  end)
end)

describe("the wait before another attempt", function()
  it("is 0.25 s and doubles", function()
    check_waits({ FIRST_WAIT, FIRST_WAIT * 2 }, { { status = 503, times = "forever" } }, { retries = 2 })
  end)

  it("is the same after a connection that failed", function()
    check_waits({ FIRST_WAIT, FIRST_WAIT * 2 }, { { at = "connect", ["end"] = "reset", times = 2 } }, { retries = 2 },
      "connect")
  end)

  it("is that of Retry-After in seconds", function()
    local gaps = check_waits({ 1 }, { { status = 429, headers = retry_after "1" } }, { retries = 1 })
    assert.is_true(gaps[1] >= 0.99)
  end)

  it("is that of Retry-After as a date", function()
    stub:plan { status = 503, headers = retry_after(format_date(DATE + 1)), date = format_date(DATE) }
    assert(fetch { retries = 1 })
    assert.is_true(read_gaps()[1] >= 0.99)
  end)

  for _, value in ipairs { "0", "soon", "", "-5", format_date(0), "Sun, 99 Nov 1994 08:49:37 GMT" } do
    it(("is the usual one when Retry-After is %q"):format(value), function()
      check_waits({ FIRST_WAIT }, { { status = 503, headers = retry_after(value) } }, { retries = 1 })
    end)
  end
end)

-- Each: what, Retry-After and its seconds. A date counts from the Date that the server sends.
local LATE = {
  { "seconds", "60", 60 }, { "many seconds", "86400", 86400 },
  { "a date", "Thu, 30 Nov 2017 05:25:21 GMT", 60, date = "Thu, 30 Nov 2017 05:24:21 GMT" },
  { "a date of the old form", "Thursday, 30-Nov-17 05:25:21 GMT", 60, date = "Thu, 30 Nov 2017 05:24:21 GMT" },
  { "seconds since 1970", "1512019521", 60, date = "Thu, 30 Nov 2017 05:24:21 GMT" },
  { "a year", "31536000", 31536000 },
  { "seconds since 1970 of a far future", "99999999999", 31536000, date = "Thu, 30 Nov 2017 05:24:21 GMT" },
  { "an asctime date of 2040", "Sun Jan  1 00:02:00 2040", 120, date = "Sun, 01 Jan 2040 00:00:00 GMT" },
  { "a date of the old form in 2040", "Sunday, 01-Jan-40 00:02:00 GMT", 120, date = "Sun Jan  1 00:00:00 2040" },
  { "a date with two digits of a year near the server's", "Friday, 01-Jan-00 00:02:00 GMT", 120,
    date = "Fri, 01 Jan 2100 00:00:00 GMT" },
}

describe("a Retry-After that exceeds the time left", function()
  for _, status in ipairs { 429, 503 } do
    for _, case in ipairs(LATE) do
      local what, value, seconds = case[1], case[2], case[3]

      it(("returns a %d at once, and is in the details: %s"):format(status, what), function()
        stub:plan { status = status, headers = retry_after(value), date = case.date }
        local _, details = fail(status == 429 and "rate_limited" or "server_error", { retries = 2, timeout = 50 })
        assert.equal(seconds, details.retry_after)
        if math.type then assert.equal("integer", math.type(details.retry_after)) end
        assert.is_true(details.retryable)
        assert.equal(1, details.attempts)
        assert.equal(1, #stub:requests())
      end)
    end
  end

  it("is relative to this machine's clock if there is no Date", function()
    stub:plan { status = 503, headers = retry_after(format_date(os.time() + 3600)), date = false }
    local _, details = fail("server_error", { retries = 2 })
    assert.is_true(details.retry_after > 3000 and details.retry_after <= 3600)
  end)

  it("in seconds since 1970 is relative to this machine's clock if there is no Date", function()
    stub:plan { status = 503, headers = retry_after(("%d"):format(os.time() + 3600)), date = false }
    local _, details = fail("server_error", { retries = 2 })
    assert.is_true(details.retry_after > 3000 and details.retry_after <= 3600)
  end)

  it("in seconds since 1970 that has passed causes no wait", function()
    stub:plan { status = 503, headers = retry_after "1512019461", date = "Thu, 30 Nov 2017 05:24:22 GMT" }
    assert(fetch { retries = 1 })
  end)

  it("is compared with the time that is left, not with the timeout", function()
    timing.try(function(scale)
      stub:reset()
      stub:plan({ status = 503, headers = retry_after "1" },
        { status = 503, headers = retry_after(("%d"):format(scale + 1)) })
      local _, details = fail("server_error", { timeout = 1.9 + scale, retries = 5 })
      assert.equal(2, details.attempts)
      assert.equal(scale + 1, details.retry_after)
    end)
  end)
end)

describe("the timeout", function()
  if under_valgrind then
    it("is not measured under valgrind", function() pending "valgrind is too slow" end)
    return
  end

  -- Attempts begin at 0, 0.25, 0.75, 1.75, 3.75 … s. In twice the time there is one more, with more time to spare.
  it("limits all attempts and waits together", function()
    local attempts = 2
    timing.try(function(scale)
      attempts = attempts + 1
      stub:reset()
      refuse_always { status = 503 }
      local started = testkit.monotonic()
      local _, details = fail("server_error", { timeout = 1.2 * scale, retries = 100 })
      assert.is_true(testkit.monotonic() - started <= 1.2 * scale)
      assert.equal(attempts, details.attempts)
    end)
  end)

  it("ends a later attempt", function()
    timing.try(function(scale)
      local limit = 0.5 * scale
      stub:reset()
      stub:plan({ status = 503 }, { ["end"] = "hold", raw = "" })
      local started = testkit.monotonic()
      local _, details = fail("timeout", { timeout = limit, retries = 100 })
      local elapsed = testkit.monotonic() - started
      assert.is_true(elapsed >= limit - 0.01 and elapsed <= limit * 1.1 + NOISE, ("took %.3f s"):format(elapsed))
      assert.equal(2, details.attempts)
    end)
  end)

  it("of a request applies to that request only", function()
    timing.try(function(scale)
      local client = icptoken.new(cases.options(stub))
      stub:reset()
      stub:plan({ ["end"] = "hold", raw = "" }, { delay = { before = 0.2 * scale } })
      cases.check_failure("timeout", {}, client:fetch { timeout = 0.1 * scale })
      assert(client:fetch())
      client:close()
    end)
  end)
end)
