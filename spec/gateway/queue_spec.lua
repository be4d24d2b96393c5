-- The order of the queue: clients with unknown credentials do not delay known ones, and take turns among each other; a
-- client that has disconnected has no position.

local cjson = require "cjson"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local pause = require "support.pause"
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

-- The names of the repositories in the token requests, in order.
local function list_asked()
  local names = {}
  for i, token_request in ipairs(bed.stub:requests()) do
    names[i] = token_request.query.scope and token_request.query.scope[1]:match "repository:([^:]*):" or "login"
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

-- Has the queue been full? It need not be full any more.
local function was_full(server)
  return gateway_probe.read_metric(server.port, "icptoken_requests_total", 'result="queue_full"') > 0
end

describe("while strangers wait in large numbers", function()
  local server

  -- Makes token requests slow, sends those of unknown clients, and calls body once they wait. Returns the token
  -- requests.
  local function beside_strangers(one, body, make)
    assert.equal(200, load.request(one.port, request_known "before").status)
    bed.stub:reset()
    bed.stub:plan { delay = { before = DELAY }, times = "forever" }
    local sent = {}
    for i = 1, STRANGERS do sent[i] = load.send(one.port, (make or request_stranger)(i)) end
    gateway_bed.await("a queue of strangers", function() return read_queued(one) >= STRANGERS / 2 or was_full(one) end)
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
      local NEW, before = 8, nil
      local names = beside_strangers(server, function()
        before = #list_asked()
        local answers = load.run(server.port, NEW, function(i) return request_known("new" .. what:len() .. i) end)
        assert.same({ [200] = NEW }, load.count(answers))
      end, make)
      local strangers = #names - NEW - before
      assert.is_true(strangers < STRANGERS / 2, strangers .. " token requests of strangers came before")
    end)
  end

  it("a renewal goes before their requests", function()
    assert.equal(200, load.request(server.port, request_known "due").status)
    local names = beside_strangers(server, function()
      gateway_probe.age_tokens(server.port)
      assert.equal(200, load.request(server.port, request_known "due").status)
      gateway_bed.await("the renewal", function() return count(list_asked(), "known/due") == 1 end)
    end)
    assert.is_true(count(names, "strange/image", find(names, "known/due")) < STRANGERS / 2)
  end)

  it("an unknown credential from another client has its turn", function()
    bed.stub:set { id_tokens = { "newcomer" } }
    local names = beside_strangers(server, function()
      bed.stub:set { id_tokens = { "newcomer" } }
      local answer = load.request(server.port, bed:request("/v2/new/comer/manifests/latest", "GET",
        { Authorization = "Bearer newcomer", ["X-Client"] = "elsewhere" }))
      assert.equal(200, answer.status)
    end)
    assert.is_true(count(names, "strange/image", find(names, "new/comer")) < STRANGERS / 2)
  end)

  for what, answer in pairs {
    ["a lock"] = { raw = "", ["end"] = "hold" },
    ["another attempt"] = { status = 503, headers = { { "Retry-After", "30" } }, times = "forever" },
  } do
    it("at most max_queue of one client wait for " .. what, function()
      local MAX_QUEUE, RUNNING = STRANGERS / 2, 2
      local one = bed:start { workers = 1, locations = gateway_probe.LOCATIONS,
        gateway = ("timeout = 60, retries = 1, client_address = 'http_x_client', max_inflight = %d, max_queue = %d")
          :format(2 * RUNNING, MAX_QUEUE) }
      local function count_refused()
        return gateway_probe.read_metric(one.port, "icptoken_requests_total", 'result="queue_full"')
      end
      local function request(i, client)
        return bed:request(("/v2/%s/image%d/manifests/latest"):format(client, i), "GET",
          { Authorization = "Bearer " .. client, ["X-Client"] = client })
      end
      bed.stub:plan(answer)
      local sent = {}
      for i = 1, STRANGERS do sent[i] = load.send(one.port, request(i, "stranger")) end
      gateway_bed.await("refusals", function() return count_refused() >= STRANGERS - MAX_QUEUE - RUNNING end)
      local refused = count_refused()
      assert.is_true(refused <= STRANGERS - MAX_QUEUE)
      bed.stub:reset() -- a request of another client displaces one of theirs
      assert.equal(401, load.request(one.port, request(1, "newcomer")).status)
      assert.equal(refused + 1, count_refused())
      for _, connection in ipairs(sent) do connection:close() end
    end)
  end

  it("a queue that they have filled has room for others", function()
    local full = bed:start { workers = 1, locations = gateway_probe.LOCATIONS,
      gateway = [[timeout = 60, client_address = "http_x_client", max_inflight = 2, max_queue = ]] .. STRANGERS / 2 }
    beside_strangers(full, function()
      gateway_bed.await("a full queue", function() return was_full(full) end)
      assert.equal(200, load.request(full.port, request_known "in-full").status)
    end)
  end)

  for what, headers in pairs {
    ["a user"] = { Authorization = "Bearer greedy", ["X-Client"] = "known" },
    ["a client of the same user"] = { ["X-Client"] = "greedy" },
  } do
    it(what .. " with many known keys delays others only in turns, and leaves them room in the queue", function()
      local MAX_QUEUE = STRANGERS / 2
      local full = bed:start { workers = 1, locations = gateway_probe.LOCATIONS,
        gateway = "timeout = 60, client_address = 'http_x_client', max_inflight = 2, max_queue = " .. MAX_QUEUE }
      bed.stub:set { id_tokens = { "greedy" } }
      local function request_greedy(i)
        return bed:request(("/v2/greedy/image%d/manifests/latest"):format(i), "GET", headers)
      end
      assert.equal(200, load.request(full.port, request_greedy(0)).status)
      local before
      local names = beside_strangers(full, function()
        gateway_bed.await("a full queue", function() return was_full(full) end)
        before = #list_asked()
        assert.equal(200, load.request(full.port, request_known "beside").status)
      end, request_greedy)
      assert.is_true(find(names, "known/beside") - before < MAX_QUEUE / 2, table.concat(names, " "))
    end)
  end

  it("limit_key returns the address of clients with unknown credentials only", function()
    local function read(request)
      request.target = "/limit"
      return load.request(server.port, request).body
    end
    assert.equal(200, load.request(server.port, request_known "before").status)
    assert.equal("<>", read(request_known ""))
    assert.equal("<stranger>", read(request_stranger "any"))
    assert.equal("<>", read { headers = { ["X-Client"] = "none" } })
    local login = load.request(server.port, { target = "/login",
      headers = { Authorization = "Basic " .. (mime.b64 "admin:admin"), ["X-Client"] = "new" } })
    local id_token = cjson.decode(login.body).token
    assert.equal("<>", read { headers = { Authorization = "Bearer " .. id_token, ["X-Client"] = "new" } })
  end)

  it("limit_key uses the address of the connection if client_address has no value, and the log says so", function()
    local request = request_stranger "any"
    request.target, request.headers["X-Client"] = "/limit", nil
    assert.equal("<\127\0\0\1>", load.request(server.port, request).body)
    local _, lines = server:log():gsub("option 'client_address' has no value", "")
    assert.equal(1, lines)
  end)
end)

describe("while the identity provider hangs", function()
  local USERS = 12
  local server

  setup(function()
    server = bed:start { workers = 1, locations = gateway_probe.LOCATIONS .. [[
      location = /login { content_by_lua_block { gateway:login() } }
    ]], gateway = [[timeout = 10, challenge = "bearer", realm = "http://localhost/login", max_inflight = 4,
      path = "/image-manager/api/v1/auth/token", client_address = "http_x_client"]] }
  end)

  local function request_login(name, client)
    return { target = "/login",
      headers = { Authorization = "Basic " .. mime.b64(name .. ":secret"), ["X-Client"] = client or "known" } }
  end

  it("logins of known and of unknown users leave runners to token requests", function()
    local users = {}
    for i = 1, USERS do users["user" .. i] = "secret" end
    -- so short that each login goes to the identity provider
    bed.stub:set { users = users, id_token_expires_in = 30 }
    for i = 1, USERS do assert.equal(200, load.request(server.port, request_login("user" .. i)).status) end
    assert.equal(200, load.request(server.port, request_known "before").status)
    bed.stub:plan { path = "/idprovider/v1/auth/identitytoken", raw = "", ["end"] = "hold", times = "forever" }
    local sent = {}
    for i = 1, USERS do
      sent[2 * i - 1] = load.send(server.port, request_login("stranger" .. i, "stranger" .. i))
      sent[2 * i] = load.send(server.port, request_login("user" .. i))
    end
    gateway_bed.await("a queue of logins", function() return read_queued(server) >= 2 * USERS - 4 end)
    assert.equal(200, load.request(server.port, request_known "beside").status)
    assert.is_true(read_queued(server) > 0)
    for _, connection in ipairs(sent) do connection:close() end
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

  -- Calls body while the only runner is busy. Returns the token requests after that.
  local function beside_slow(body)
    bed.stub:plan { delay = { before = 2 } }
    local slow = load.send(server.port, request_known "slow")
    gateway_bed.await("the slow token request", function() return #bed.stub:requests() == 1 end)
    body()
    assert.equal(200, load.receive(slow).status)
    assert.equal(200, load.request(server.port, request_known "last").status)
    return list_asked()
  end

  it("together with its request is not queued, and causes no token request", function()
    local pid = gateway_bed.await_workers(server, 1)[1]
    local function read_gone()
      return gateway_probe.read_metric(server.port, "icptoken_requests_total", 'result="client_gone"')
    end
    -- a worker that was stopped receives the request and the end of the connection together
    pause(pid)
    for i = 1, CLOSERS do load.send(server.port, request_known("closed" .. i)):close() end
    testkit.kill(pid, "CONT")
    gateway_bed.await("all to be noticed", function() return read_gone() == CLOSERS end)
    assert.equal(0, read_queued(server))
    assert.equal(0, #bed.stub:requests())
  end)

  it("over TLS, with a close_notify, causes no token request", function()
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
