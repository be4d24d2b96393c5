-- Who goes first: strangers with made-up credentials delay nobody who is known, and each other only in turns; a client
-- that has gone has no position.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local mime = require "mime"
local testkit = require "testkit"

local STRANGERS, MAX_INFLIGHT = 60, 4
local DELAY = 0.3

local bed

setup(function() bed = gateway_bed.open() end)
teardown(function() gateway_bed.close(bed) end)
before_each(function() bed.stub:reset() end)

local function request_known(name)
  return bed:request("/v2/known/" .. name .. "/manifests/latest", "GET", { ["X-Client"] = "known" })
end

local function request_stranger(i)
  return bed:request("/v2/strange/image/manifests/latest", "GET",
    { Authorization = "Basic " .. mime.b64("stranger" .. i .. ":secret"), ["X-Client"] = "stranger" })
end

-- Names of what the endpoint was asked for, in order.
local function list_asked()
  local names = {}
  for i, question in ipairs(bed.stub:requests()) do
    names[i] = question.query.scope and question.query.scope[1]:match "repository:([^:]*):" or "login"
  end
  return names
end

local function count(names, name, last)
  local found = 0
  for i = 1, last or #names do found = found + (names[i] == name and 1 or 0) end
  return found
end

local function find(names, name)
  for i, one in ipairs(names) do
    if one == name then return i end
  end
  error(name .. " was not asked for", 2)
end

local function read_queued(server) return gateway_probe.read_metric(server.port, "icptoken_queued") end
local function read_inflight(server) return gateway_probe.read_metric(server.port, "icptoken_inflight") end

describe("while strangers wait in large numbers", function()
  local server

  -- The next token requests are slow. Sends the strangers', and calls body once they wait. Gives what was asked.
  local function beside_strangers(one, body, make)
    assert.equal(200, load.request(one.port, request_known "before").status)
    bed.stub:reset()
    bed.stub:plan { delay = { before = DELAY }, times = "forever" }
    local sent = {}
    for i = 1, STRANGERS do sent[i] = load.send(one.port, (make or request_stranger)(i)) end
    gateway_bed.await("a queue of strangers", function() return read_queued(one) >= STRANGERS / 2 end)
    body()
    local names = list_asked()
    for _, connection in ipairs(sent) do connection:close() end
    gateway_bed.await("an empty queue", function() return read_queued(one) == 0 and read_inflight(one) == 0 end)
    return names
  end

  setup(function()
    server = bed:start { workers = 1, locations = gateway_probe.LOCATIONS .. [[
      location = /login { content_by_lua_block { gateway:login() } }
      location = /limit {
        set_by_lua_block $limit { return gateway:limit_key() }
        return 200 "<$limit>";
      }
    ]], gateway = [[timeout = 60, client_address = "http_x_client", challenge = "bearer",
      realm = "http://localhost/login", max_inflight = ]] .. MAX_INFLIGHT }
  end)

  it("they have half of the runners at most", function()
    beside_strangers(server, function() assert.equal(MAX_INFLIGHT / 2, read_inflight(server)) end)
  end)

  for what, make in pairs {
    ["with tokens"] = request_stranger,
    ["at /login"] = function(i)
      local request = request_stranger(i)
      request.target = "/login"
      return request
    end,
  } do
    it("a known credential's new tokens go before theirs " .. what, function()
      local NEW = 8
      local names = beside_strangers(server, function()
        local answers = load.run(server.port, NEW, function(i) return request_known("new" .. what:len() .. i) end)
        assert.same({ [200] = NEW }, load.count(answers))
      end, make)
      local strangers = #names - NEW
      assert.is_true(strangers < STRANGERS / 2, strangers .. " token requests of strangers came before")
    end)
  end

  it("a renewal goes before theirs", function()
    assert.equal(200, load.request(server.port, request_known "due").status)
    local names = beside_strangers(server, function()
      gateway_probe.age_tokens(server.port)
      assert.equal(200, load.request(server.port, request_known "due").status)
      gateway_bed.await("the renewal", function() return count(list_asked(), "known/due") == 1 end)
    end)
    assert.is_true(count(names, "strange/image", find(names, "known/due")) < STRANGERS / 2)
  end)

  it("an unknown credential from elsewhere has its turn", function()
    bed.stub:set { id_tokens = { "newcomer" } }
    local names = beside_strangers(server, function()
      bed.stub:set { id_tokens = { "newcomer" } }
      local answer = load.request(server.port, bed:request("/v2/new/comer/manifests/latest", "GET",
        { Authorization = "Bearer newcomer", ["X-Client"] = "elsewhere" }))
      assert.equal(200, answer.status)
    end)
    assert.is_true(count(names, "strange/image", find(names, "new/comer")) < STRANGERS / 2)
  end)

  it("a queue that they have filled has room for others", function()
    local full = bed:start { workers = 1, locations = gateway_probe.LOCATIONS,
      gateway = [[timeout = 60, client_address = "http_x_client", max_inflight = 2, max_queue = ]] .. STRANGERS / 2 }
    beside_strangers(full, function()
      gateway_bed.await("a full queue", function()
        return gateway_probe.read_metric(full.port, "icptoken_requests_total", 'result="queue_full"') > 0
      end)
      assert.equal(200, load.request(full.port, request_known "in-full").status)
    end)
  end)

  it("limit_key names the clients of unknown credentials alone", function()
    local function read(request)
      request.target = "/limit"
      return load.request(server.port, request).body
    end
    assert.equal(200, load.request(server.port, request_known "before").status)
    assert.equal("<>", read(request_known ""))
    assert.equal("<stranger>", read(request_stranger "any"))
    assert.equal("<>", read { headers = { ["X-Client"] = "none" } })
  end)
end)

describe("a client that closes its connection", function()
  local CLOSERS = 50
  local server

  setup(function()
    server = bed:start { workers = 1, gateway = "timeout = 60, max_inflight = 1",
      locations = gateway_probe.LOCATIONS,
      servers = ([[
        server {
          listen 127.0.0.1:@PORTTLS@ ssl;
          ssl_certificate %s;
          ssl_certificate_key %s;
          location /v2/ {
            set $icptoken_authorization "";
            set $icptoken_key "";
            access_by_lua_block { gateway:authorize() }
            return 204;
          }
        }
      ]]):format(bed.stub.server_cert, bed.stub.server_key) }
  end)

  -- Calls body while the only runner is busy. Gives what the endpoint was asked for after that.
  local function beside_slow(body)
    bed.stub:plan { delay = { before = 2 } }
    local slow = load.send(server.port, request_known "slow")
    gateway_bed.await("the slow token request", function() return #bed.stub:requests() == 1 end)
    body()
    assert.equal(200, load.receive(slow).status)
    assert.equal(200, load.request(server.port, request_known "last").status)
    return list_asked()
  end

  it("together with its request is neither queued nor asked for", function()
    local pid = gateway_bed.await_workers(server, 1)[1]
    local function read_gone()
      return gateway_probe.read_metric(server.port, "icptoken_requests_total", 'result="client_gone"')
    end
    -- a worker that is stopped finds the request and the end of the connection at once
    testkit.kill(pid, "STOP")
    for i = 1, CLOSERS do load.send(server.port, request_known("closed" .. i)):close() end
    testkit.kill(pid, "CONT")
    gateway_bed.await("all to be noticed", function() return read_gone() == CLOSERS end)
    assert.equal(0, read_queued(server))
    assert.equal(0, #bed.stub:requests())
  end)

  it("over TLS, with a close_notify, is not asked for", function()
    local names = beside_slow(function()
      local head = ("GET /v2/known/tls/manifests/latest HTTP/1.1\\r\\nHost: a\\r\\nAuthorization: %s\\r\\n\\r\\n")
        :format(bed.credential)
      -- s_client closes the connection at the end of its input
      os.execute(("printf '%s' | openssl s_client -connect 127.0.0.1:%d >/dev/null 2>&1")
        :format(head, server.ports.PORTTLS))
    end)
    assert.same({ "known/slow", "known/last" }, names)
  end)
end)
