-- An answer that is cut off, after any of its bytes, never returns a token, and does not affect the next fetch.

local cases = require "support.cases"
local icptoken = require "icptoken"
local stub_client = require "stub.client"
local timing = require "support.timing"

local PATH = "/image-manager/api/v1/auth/token"
local under_valgrind = os.getenv "ICPTOKEN_VALGRIND"

local HOLD_STEP = 37
local HOLD_SECONDS = under_valgrind and 2 or 0.1

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

-- Answers of about a hundred bytes: a token, or a refusal with a status of its own.
local function make_order(framing, status)
  local order = { framing = framing, date = false, headers = { { "Content-Type", false } } }
  if status then
    order.status, order.body = status, '{"message":"no"}'
  else
    order.token, order.expires_in, order.issued_at = "abc", 60, false
  end
  return order
end

local function with(order, changes)
  local all = {}
  for name, value in pairs(order) do all[name] = value end
  for name, value in pairs(changes) do all[name] = value end
  return all
end

-- Truncates at some positions, and in the rows with a tag at every one.
local function describe_steps(what, define)
  describe(what:format "some of its bytes", function() define(9) end)
  if not under_valgrind then describe(what:format "each of its bytes" .. " #deep", function() define(1) end) end
end

local function new_client(listener)
  if listener == "http" then
    return icptoken.new(cases.options(stub, { host = false, port = false,
      url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH) }))
  end
  return icptoken.new(cases.options(stub))
end

-- libcurl accepts a chunked answer that lacks only its last CRLF as complete.
local function may_be_whole(framing, cut, length)
  return framing == "chunked" and cut >= length - 2
end

local function check_failed(code, cut, token, message, got, details)
  assert.is_nil(token, "a token after " .. cut .. " bytes")
  assert.equal(code, got, ("after %d bytes: %s"):format(cut, message))
  cases.check_failure(code, { stub.id_token }, token, message, got, details)
  assert.is_true(details.retryable)
  assert.equal(1, details.attempts)
end

local function check_well(client, cut)
  local token, message = client:fetch()
  assert.is_nil(message, ("after one that was cut off after %d bytes"):format(cut))
  assert.equal("abc", token.token)
end

-- Truncates the answer after 0, step, … bytes, each time on a new connection, and then sends a complete answer.
local function sweep(listener, framing, ending, step, code, request)
  local order = make_order(framing)
  local length = stub:render(order).length
  local client = new_client(listener)
  for cut = 0, length - 1, step do
    stub:plan(with(order, { cut = cut, ["end"] = ending }), with(order, { keep_alive = false }))
    local token, message, got, details = client:fetch(request)
    if token and may_be_whole(framing, cut, length) then
      assert.equal("abc", token.token)
    else
      check_failed(code, cut, token, message, got, details)
    end
    check_well(client, cut)
  end
  client:close()
end

describe("the stub's answer", function()
  it("is usable before it is truncated", function()
    for _, framing in ipairs { "length", "chunked", "close" } do
      stub:plan(make_order(framing))
      local client = new_client "https"
      check_well(client, 0)
      client:close()
    end
  end)

  it("is truncated to a body that is never valid JSON by itself", function()
    local order = make_order "close"
    local rendered = stub:render(order)
    assert.is_true(rendered.head > 0 and rendered.length - rendered.head > 20)
  end)
end)

describe_steps("an answer cut off after %s is a network failure", function(step)
  for _, framing in ipairs { "length", "chunked", "close" } do
    for _, ending in ipairs { "close", "abort", "reset" } do
      it(("with framing %s and end %s"):format(framing, ending), function()
        sweep("https", framing, ending, step, "network")
      end)
    end

    it(("with framing %s over plain http"):format(framing), function()
      sweep("http", framing, "close", step, "network")
    end)
  end
end)

-- libcurl itself repeats a request if a kept connection is closed before a complete status line.
describe_steps("an answer cut off after %s on a kept connection returns no token", function(step)
  for _, framing in ipairs { "length", "chunked", "close" } do
    it("with framing " .. framing, function()
      local order, kept = make_order(framing), make_order "length"
      local length = stub:render(order).length
      local client = new_client "https"
      for cut = 0, length - 3, step do
        stub:reset()
        stub:plan(kept, with(order, { token = "cut", cut = cut, ["end"] = "close" }), kept, kept)
        check_well(client, cut)
        local token, message, code, details = client:fetch()
        if #stub:requests() == 2 then
          check_failed("network", cut, token, message, code, details)
        else
          assert.equal("abc", token.token)
        end
        check_well(client, cut)
      end
      client:close()
    end)
  end
end)

describe("an answer that stops after a byte, with the connection open, is a timeout", function()
  for _, framing in ipairs { "length", "chunked", "close" } do
    it("with framing " .. framing, function()
      timing.try(function(scale) -- an order is left over if the limit passed before its request was received
        stub:reset()
        sweep("https", framing, "hold", HOLD_STEP, "timeout", { timeout = HOLD_SECONDS * scale })
      end)
    end)
  end
end)

-- The status of a refusal that was truncated in its body is reported.
local function check_refused(status, cut, token, message, got, details)
  local codes = { [401] = "unauthorized", [503] = "server_error" }
  assert.equal(codes[status], got, ("after %d bytes: %s"):format(cut, message))
  cases.check_failure(codes[status], { stub.id_token }, token, message, got, details)
  assert.equal(status, details.status)
  assert.equal(status == 503, details.retryable)
end

describe_steps("a refusal cut off after %s is a network failure in its head, and a refusal after it", function(step)
  for _, framing in ipairs { "length", "chunked", "close" } do
    for _, ending in ipairs { "close", "abort", "reset" } do
      for _, status in ipairs { 401, 503 } do
        it(("with framing %s, end %s, status %d"):format(framing, ending, status), function()
          local order = make_order(framing, status)
          local rendered = stub:render(order)
          local cuts = { rendered.head - 2, rendered.head - 1, rendered.head, rendered.head + 1 }
          for cut = 0, rendered.length - 1, step do cuts[#cuts + 1] = cut end
          for _, cut in ipairs(cuts) do
            -- a client remembers a refused credential; and a reset may overtake the data that was sent before it
            local client = new_client "https"
            stub:plan(with(order, { cut = cut, ["end"] = ending }))
            local token, message, code, details = client:fetch()
            if cut < rendered.head or (ending == "reset" and code == "network") then
              check_failed("network", cut, token, message, code, details)
            else
              check_refused(status, cut, token, message, code, details)
            end
            client:close()
          end
        end)
      end
    end
  end

  it("and is retried if its status is transient", function()
    local order = make_order("length", 503)
    local head = stub:render(order).head
    stub:plan(with(order, { cut = head + 1, ["end"] = "close" }), make_order "length")
    assert.equal("abc", assert(icptoken.fetch(cases.options(stub, { retries = 1 }))).token)
    assert.equal(2, #stub:requests())
  end)
end)

describe("an answer whose parts come one after the other", function()
  for _, framing in ipairs { "length", "chunked", "close" } do
    it(("is read byte by byte with framing %s"):format(framing), function()
      stub:plan(with(make_order(framing), { delay = { drip = 0.001 } }))
      local client = new_client "https"
      check_well(client, 0)
      client:close()
    end)
  end
end)
