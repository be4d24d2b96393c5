-- Option hedge_after: a request that stays unanswered gets another one beside it, and the first good answer counts.

local cases = require "support.cases"
local icptoken = require "icptoken"
local stub_client = require "support.stub"
local testkit = require "testkit"

-- Takes the request and stays silent.
local HANG = { raw = "", ["end"] = "hold" }
local HEDGE_AFTER = 0.2
-- Longer than any machine needs for what is to succeed; and what one waits for that is to fail.
local LONG, SHORT = 100, 3

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function with_hedge(changes)
  local all = { hedge_after = HEDGE_AFTER, timeout = LONG, retries = 0 }
  for name, value in pairs(changes or {}) do all[name] = value end
  return cases.options(stub, all)
end

local function hang(times)
  stub:plan { raw = HANG.raw, ["end"] = HANG["end"], times = times }
end

local function list_connections()
  local connections = {}
  for i, request in ipairs(stub:requests()) do connections[i] = request.connection end
  return connections
end

describe("a request that hangs", function()
  it("gets another one beside it, on a connection of its own, whose answer counts", function()
    hang(1)
    assert(icptoken.fetch(with_hedge()))
    local connections = list_connections()
    assert.equal(2, #connections)
    assert.are_not.equal(connections[1], connections[2])
  end)

  it("gets none by default", function()
    hang(1)
    local _, _, code, details = icptoken.fetch(with_hedge { hedge_after = false, timeout = SHORT })
    assert.equal("timeout", code)
    assert.equal(1, details.attempts)
    assert.equal(1, #stub:requests())
  end)

  it("gets up to three, and those have the same limit over everything", function()
    hang(3)
    assert(icptoken.fetch(with_hedge()))
    assert.equal(4, #stub:requests())
    stub:reset()
    hang "forever"
    local _, _, code, details = icptoken.fetch(with_hedge { timeout = SHORT })
    assert.equal("timeout", code)
    assert.equal(4, details.attempts)
    assert.equal(4, #stub:requests())
  end)

  it("carries the same credential and query", function()
    hang(1)
    assert(icptoken.fetch(with_hedge { scope = "repository:a/b:pull" }))
    local requests = stub:requests()
    local first, second = requests[1], requests[2]
    assert.same(first.query, second.query)
    assert.equal(stub_client.header(first, "Authorization"), stub_client.header(second, "Authorization"))
  end)

  it("on a kept connection is overtaken, and the connection is not used again", function()
    local client = assert(icptoken.new(with_hedge()))
    assert(client:fetch())
    hang(1)
    assert(client:fetch())
    assert(client:fetch())
    local connections = list_connections()
    assert.equal(connections[1], connections[2])
    assert.are_not.equal(connections[2], connections[3])
    assert.equal(connections[3], connections[4])
    assert.equal(4, #connections)
    assert.equal(4, client:stats().attempts)
    client:close()
  end)

  it("is overtaken over HTTP/2 as well, and its connection is not used again", function()
    local client = assert(icptoken.new(with_hedge { http_version = "2" }))
    assert(client:fetch())
    stub:plan { delay = { before = LONG } }
    assert(client:fetch())
    assert(client:fetch())
    local connections = list_connections()
    assert.equal(connections[1], connections[2])
    assert.are_not.equal(connections[2], connections[3])
    assert.equal(connections[3], connections[4])
    client:close()
  end)

  it("is overtaken in fetch_all", function()
    local client = assert(icptoken.new(with_hedge { parallel = 2 }))
    hang(1)
    local requests = {}
    for i = 1, 6 do requests[i] = { scope = "repository:a/image" .. i .. ":pull" } end
    local tokens, errors = client:fetch_all(requests)
    assert.is_nil(errors)
    for i = 1, 6 do assert.is_table(tokens[i]) end
    assert.equal(7, #stub:requests())
    client:close()
  end)

  it("is overtaken where a single request asks for that", function()
    local client = assert(icptoken.new(with_hedge { hedge_after = false, timeout = LONG }))
    hang(1)
    assert(client:fetch { hedge_after = HEDGE_AFTER })
    assert.equal(2, #stub:requests())
    client:close()
  end)
end)

describe("of two requests", function()
  it("the first one's answer counts when the second one fails", function()
    stub:plan({ delay = { before = 2 } }, { status = 500 })
    assert(icptoken.fetch(with_hedge()))
    assert.is_true(#stub:requests() >= 2) -- as the first one is still silent, there may be a third
  end)

  it("the second one's refusal is an answer", function()
    stub:plan({ raw = HANG.raw, ["end"] = HANG["end"] }, { status = 401 })
    local _, _, code = icptoken.fetch(with_hedge())
    assert.equal("unauthorized", code)
    assert.equal(2, #stub:requests())
  end)

  it("that both fail, what the cluster said counts, and retries follow", function()
    stub:plan({ raw = HANG.raw, ["end"] = HANG["end"], times = 3 }, { status = 503 })
    local _, _, code = icptoken.fetch(with_hedge { timeout = SHORT })
    assert.equal("server_error", code)
    stub:reset()
    stub:plan({ delay = { before = 1 }, status = 503 }, { status = 503 })
    assert(icptoken.fetch(with_hedge { retries = 1 }))
    assert.equal(3, #stub:requests())
  end)
end)

describe("an answer within hedge_after", function()
  it("costs one request", function()
    assert(icptoken.fetch(with_hedge { hedge_after = LONG / 2 }))
    assert.equal(1, #stub:requests())
  end)
end)

describe("a login", function()
  it("is never made twice at a time", function()
    stub:plan { path = "/idprovider/v1/auth/identitytoken", delay = { before = 1 } }
    local login = { username = stub.username, password = stub.password }
    assert(icptoken.fetch(with_hedge { id_token = false, login = login }))
    local logins = 0
    for _, request in ipairs(stub:requests()) do
      if request.method == "POST" then logins = logins + 1 end
    end
    assert.equal(1, logins)
  end)
end)

describe("connections that are given up before they are established", function()
  it("leave no socket behind", function()
    local before, requests = #testkit.open_sockets(), {}
    for i = 1, 40 do requests[i] = { scope = ("repository:given/up%d:pull"):format(i) } end
    local client = icptoken.new(with_hedge { hedge_after = 0.01, parallel = 8 })
    for _ = 1, 5 do
      stub:plan({ at = "connect", ["end"] = "hold", times = 5 }, { delay = { before = 0.03 }, times = "forever" })
      assert.is_nil(select(2, client:fetch_all(requests)))
      stub:reset()
    end
    client:close()
    assert.equal(before, #testkit.open_sockets())
  end)
end)
