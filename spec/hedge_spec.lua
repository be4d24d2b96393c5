-- Option hedge_after: another request is started beside one that stays unanswered, and the first good answer counts.

local cases = require "support.cases"
local icptoken = require "icptoken"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"

-- Receives the request and never answers.
local HANG = { raw = "", ["end"] = "hold" }
local HEDGE_AFTER = 0.2
-- A limit longer than any machine needs for a request that succeeds.
local LONG = 100
-- The limit of a request that is to fail, as a multiple of hedge_after. Its attempts begin at 0, 1, 3 and 7.
local SHORT = 15

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

-- A busy machine may take longer than hedge_after for an answer that does not hang, which causes one more attempt.
local function try(body)
  timing.try(function(scale)
    stub:reset()
    body(HEDGE_AFTER * scale)
  end)
end

describe("a request that hangs", function()
  it("has another one started beside it, on a connection of its own, whose answer counts", function()
    try(function(hedge_after)
      hang(1)
      assert(icptoken.fetch(with_hedge { hedge_after = hedge_after }))
      local connections = list_connections()
      assert.equal(2, #connections)
      assert.are_not.equal(connections[1], connections[2])
    end)
  end)

  it("has none started beside it by default", function()
    try(function(hedge_after) -- the limit has to suffice for the request to arrive
      hang(1)
      local _, _, code, details = icptoken.fetch(with_hedge { hedge_after = false, timeout = SHORT * hedge_after })
      assert.equal("timeout", code)
      assert.equal(1, details.attempts)
      assert.equal(1, #stub:requests())
    end)
  end)

  it("has up to three started beside it, with one time limit for all", function()
    hang(3)
    assert(icptoken.fetch(with_hedge()))
    assert.equal(4, #stub:requests())
    try(function(hedge_after)
      hang "forever"
      local limit = SHORT * hedge_after
      local _, _, code, details = icptoken.fetch(with_hedge { hedge_after = hedge_after, timeout = limit })
      assert.equal("timeout", code)
      assert.equal(4, details.attempts)
      assert.equal(4, #stub:requests())
    end)
  end)

  it("has the same credential and query in all attempts", function()
    hang(1)
    assert(icptoken.fetch(with_hedge { scope = "repository:a/b:pull" }))
    local requests = stub:requests()
    local first, second = requests[1], requests[2]
    assert.same(first.query, second.query)
    assert.equal(stub_client.header(first, "Authorization"), stub_client.header(second, "Authorization"))
  end)

  it("on a kept connection is overtaken, and the connection is not reused", function()
    try(function(hedge_after)
      local client = assert(icptoken.new(with_hedge { hedge_after = hedge_after }))
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
  end)

  it("is overtaken over HTTP/2 as well, and its connection is not reused", function()
    try(function(hedge_after)
      local client = assert(icptoken.new(with_hedge { hedge_after = hedge_after, http_version = "2" }))
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
  end)

  it("is overtaken in fetch_all", function()
    try(function(hedge_after)
      local client = assert(icptoken.new(with_hedge { hedge_after = hedge_after, parallel = 2 }))
      hang(1)
      local requests = {}
      for i = 1, 6 do requests[i] = { scope = "repository:a/image" .. i .. ":pull" } end
      local tokens, errors = client:fetch_all(requests)
      assert.is_nil(errors)
      for i = 1, 6 do assert.is_table(tokens[i]) end
      assert.equal(7, #stub:requests())
      client:close()
    end)
  end)

  it("is overtaken if a single request has the option", function()
    try(function(hedge_after)
      local client = assert(icptoken.new(with_hedge { hedge_after = false, timeout = LONG }))
      hang(1)
      assert(client:fetch { hedge_after = hedge_after })
      assert.equal(2, #stub:requests())
      client:close()
    end)
  end)
end)

describe("of two requests", function()
  it("the first one's answer counts if the second one fails", function()
    stub:plan({ delay = { before = 2 } }, { status = 500, times = "forever" })
    assert(icptoken.fetch(with_hedge()))
    assert.is_true(#stub:requests() >= 2) -- as the first one is still unanswered, there may be a third
  end)

  it("the second one's refusal is an answer", function()
    try(function(hedge_after)
      stub:plan({ raw = HANG.raw, ["end"] = HANG["end"] }, { status = 401, times = "forever" })
      local _, _, code = icptoken.fetch(with_hedge { hedge_after = hedge_after })
      assert.equal("unauthorized", code)
      assert.equal(2, #stub:requests())
    end)
  end)

  it("that both fail, the one with an answer of the cluster is reported, and retries follow", function()
    try(function(hedge_after)
      stub:plan({ raw = HANG.raw, ["end"] = HANG["end"], times = 3 }, { status = 503 })
      local _, _, code = icptoken.fetch(with_hedge { hedge_after = hedge_after, timeout = SHORT * hedge_after })
      assert.equal("server_error", code)
    end)
    try(function(hedge_after)
      stub:plan({ delay = { before = 5 * hedge_after }, status = 503 }, { status = 503 })
      assert(icptoken.fetch(with_hedge { hedge_after = hedge_after, retries = 1 }))
      assert.equal(3, #stub:requests())
    end)
  end)
end)

describe("an answer within hedge_after", function()
  it("costs one request", function()
    assert(icptoken.fetch(with_hedge { hedge_after = LONG / 2 }))
    assert.equal(1, #stub:requests())
  end)
end)

describe("a login", function()
  it("is never made twice at the same time", function()
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

describe("a client's own password", function()
  local CALLS = {
    fetch = function(client) return client:fetch() end,
    token = function(client) return client:token() end,
    fetch_all = function(client)
      local _, errors, code = client:fetch_all { {}, {}, {} }
      return nil, nil, code or errors[1].code
    end,
  }

  for name, call in pairs(CALLS) do
    it("that was not accepted yet is never sent twice at the same time by " .. name, function()
      stub:plan { status = 401, delay = { before = 5 * HEDGE_AFTER }, times = "forever" }
      local client = icptoken.new(with_hedge { id_token = false, username = "joe", password = "wrong" })
      assert.equal("unauthorized", (select(3, call(client))))
      assert.equal(1, #stub:requests())
      client:close()
    end)

    it("that was accepted, refused and changed since is not sent so either by " .. name, function()
      local client =
        icptoken.new(with_hedge { id_token = false, username = stub.username, password = stub.password })
      assert(client:fetch())
      stub:plan { status = 401 }
      assert.equal("unauthorized", (select(3, client:fetch())))
      stub:reset()
      stub:plan { status = 401, delay = { before = 5 * HEDGE_AFTER }, times = "forever" }
      repeat -- at first it is not sent at all
        assert.equal("unauthorized", (select(3, call(client))))
      until #stub:requests() > 0
      assert.equal(1, #stub:requests())
      client:close()
    end)
  end

  it("that was accepted is sent again beside an attempt that hangs", function()
    local client = icptoken.new(with_hedge { id_token = false, username = stub.username, password = stub.password })
    assert(client:fetch())
    hang(1)
    assert(client:fetch())
    client:close()
  end)
end)

describe("connections that are abandoned before they are established", function()
  it("leave no socket open", function()
    collectgarbage() -- closes clients that failed specs left behind
    collectgarbage()
    local before, requests = #testkit.open_sockets(), {}
    for i = 1, 40 do requests[i] = { scope = ("repository:given/up%d:pull"):format(i) } end
    local client = icptoken.new(with_hedge { hedge_after = 0.01, parallel = 8 })
    for _ = 1, 5 do
      stub:plan({ at = "connect", ["end"] = "hold", times = 5 }, { delay = { before = 0.03 }, times = "forever" })
      assert.is_nil(select(2, client:fetch_all(requests)))
      stub:reset()
    end
    client:close()
    -- the thread of a DNS lookup that was abandoned may close its sockets a little later
    timing.wait_for("the end of all sockets", function() return #testkit.open_sockets() <= before end)
  end)
end)
