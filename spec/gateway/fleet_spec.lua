-- Three gateways of two workers each, with a real Redis between them: one token request for all.

local fleet_bed = require "support.fleet_bed"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local mime = require "mime"
local redis = require "support.redis"

local GATEWAYS, CLIENTS = 3, 60
-- #deep has more.
local KEYS = tonumber(os.getenv "FLEET_KEYS") or 100

local bed, gateways

setup(function()
  bed = fleet_bed.open()
  gateways = bed:start_all(GATEWAYS)
end)
teardown(function() fleet_bed.close(bed) end)
before_each(function() bed.stub:reset() end)

local function choose_port(i)
  return gateways[1 + i % GATEWAYS].port
end

-- Requests each of `count` repositories from each gateway, all at the same time. Returns the answers.
local function request_everywhere(count, prefix, headers)
  return bed:run(count * GATEWAYS, choose_port, function(i)
    return bed:request(prefix .. math.ceil(i / GATEWAYS), headers)
  end, CLIENTS)
end

-- How many tokens are in Redis. Proofs have the same ending, and expire meanwhile; no token is as short as they are.
local PROOF_BYTES = 200
local function count_tokens()
  local count = 0
  bed:each_record(function(name, value)
    if name:sub(-2) == ":t" and #value > PROOF_BYTES then count = count + 1 end
  end)
  return count
end

local function assert_one_each(count)
  local counts, total = bed:count_fetches()
  for name, fetches in pairs(counts) do assert.equal(1, fetches, name) end
  assert.equal(count, total)
end

local function check_all(count)
  local answers = request_everywhere(count, "cold" .. count .. "/image")
  assert.same({ [200] = count * GATEWAYS }, load.count(answers))
  for i, answer in ipairs(answers) do
    assert.equal(("repository:cold%d/image%d:pull"):format(count, math.ceil(i / GATEWAYS)),
      gateway_bed.read_scopes(answer))
  end
  assert_one_each(count)
  bed:await_no_leases()
end

describe("logins at a fleet", function()
  local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
  local token_services

  setup(function()
    token_services = bed:start_all(2, {
      gateway = [[challenge = "bearer", realm = "https://localhost/login"]],
      locations = gateway_probe.LOCATIONS
        .. "location = /login { content_by_lua_block { gateway:login() } }",
    })
  end)

  local function log_in_everywhere(password, count)
    local request = { target = "/login", headers = { Authorization = "Basic " .. mime.b64("admin:" .. password) } }
    local answers = bed:run(count, function(i) return token_services[1 + i % 2].port end, function() return request end,
      count)
    local logins = 0
    for _, received in ipairs(bed.stub:requests()) do
      if received.path == LOGIN_PATH then logins = logins + 1 end
    end
    return load.count(answers), logins
  end

  it("with a wrong password are tried once", function()
    bed.stub:plan { path = LOGIN_PATH, status = 401, delay = { before = 0.2 }, times = "forever" }
    local counts, logins = log_in_everywhere("wrong", 20)
    assert.same({ [401] = 20 }, counts)
    assert.equal(1, logins)
  end)

  it("are made once by each gateway otherwise", function()
    local counts, logins = log_in_everywhere("admin", 20)
    assert.same({ [200] = 20 }, counts)
    assert.equal(2, logins)
    bed:await_no_leases()
  end)
end)

describe("a fleet", function()
  it("requests the token of each key once", function() check_all(KEYS) end)

  it("requests the tokens of many keys once #deep", function() check_all(500) end)

  it("waits for one token request however long that takes", function()
    bed.stub:plan { delay = { before = 4 } }
    local answers = request_everywhere(1, "slow/image")
    assert.same({ [200] = GATEWAYS }, load.count(answers))
    assert_one_each(1)
  end)

  it("tries a refused credential once", function()
    local credential = { Authorization = "Basic " .. "YWRtaW46d3Jvbmc=" }
    local answers = request_everywhere(20, "refused/image", credential)
    assert.same({ [401] = 20 * GATEWAYS }, load.count(answers))
    local _, total = bed:count_fetches()
    assert.equal(1, total)
    bed:await_no_leases()
  end)

  it("shares that access is denied", function()
    bed.stub:plan { status = 403, times = "forever" }
    local answers = request_everywhere(1, "denied/image")
    assert.same({ [403] = GATEWAYS }, load.count(answers))
    local _, total = bed:count_fetches()
    assert.equal(1, total)
  end)

  it("shares why a token request failed with the gateways that waited for it", function()
    -- with a credential that is known to be right, a flight waits for its key only
    request_everywhere(1, "failed/first")
    bed:await_no_leases()
    bed.stub:reset()
    bed.stub:plan { status = 404, together = 2 } -- which waits for a second one, or a reset
    local waits = fleet_bed.sum_metric(gateways, "icptoken_fleet_total", 'result="wait"')
    local answers
    load.together(function() answers = request_everywhere(1, "failed/image") end, function()
      gateway_bed.await("the token request, and the others to wait", function()
        local _, requests = bed:count_fetches()
        return requests == 1
          and fleet_bed.sum_metric(gateways, "icptoken_fleet_total", 'result="wait"') == waits + GATEWAYS - 1
      end)
      bed.stub:reset()
    end)
    assert.same({ [502] = GATEWAYS }, load.count(answers))
  end)

  it("renews each token once in its lifetime", function()
    local answers = request_everywhere(10, "renewed/image")
    local old = gateway_bed.read_echo(answers[1]).headers.authorization
    bed.stub:reset()
    for _, one in ipairs(gateways) do assert.is_true(gateway_probe.age_tokens(one.port) >= 10) end
    local function read_all(port)
      local tokens = {}
      for i = 1, 10 do
        tokens[i] = gateway_bed.read_echo(load.request(port, bed:request("renewed/image" .. i))).headers.authorization
      end
      return tokens
    end
    request_everywhere(10, "renewed/image")
    local new
    gateway_bed.await("the new tokens", function()
      new = read_all(gateways[1].port)
      return new[1] ~= old and #(bed.stub:requests()) >= 10
    end)
    gateway_bed.await("the same tokens everywhere", function()
      local first = table.concat(read_all(gateways[1].port))
      return first == table.concat(read_all(gateways[2].port)) and first == table.concat(read_all(gateways[3].port))
    end)
    assert_one_each(10)
  end)

  it("does not query Redis for a token that is in the dict", function()
    request_everywhere(1, "cached/image")
    bed:await_no_leases()
    local before = bed:count_calls()
    local answers = load.run(gateways[1].port, 500, function() return bed:request "cached/image1" end, 20)
    assert.same({ [200] = 500 }, load.count(answers))
    assert.equal(before, bed:count_calls())
  end)

  it("runs two scripts in Redis for a token request", function()
    load.request(gateways[1].port, bed:request "counted/first")
    bed:await_no_leases()
    -- on a busy machine a lease may have to be extended meanwhile
    local before, extended = bed:count_calls(), bed:count_commands "pexpire"
    for i = 1, 20 do load.request(gateways[1].port, bed:request("counted/image" .. i)) end
    bed:await_no_leases()
    assert.is_true(bed:count_calls() - before - (bed:count_commands "pexpire" - extended) <= 40)
  end)

  it("drops a token that the registry rejects, for all gateways, and does not use it again", function()
    local request = bed:request("dropped/image")
    local function read(port)
      return gateway_bed.read_echo(load.request(port, request)).headers.authorization
    end
    local old = read(gateways[1].port)
    assert.equal(old, read(gateways[2].port))
    local tokens = count_tokens()
    assert.is_true(tokens > 0)
    local rejected = bed:request("dropped/image", { ["X-Test-Status"] = "401",
      ["X-Test-Challenge"] = 'Bearer realm="https://registry",error="invalid_token"' })
    assert.equal(401, load.request(gateways[1].port, rejected).status)
    local new = read(gateways[1].port)
    assert.are_not.equal(old, new)
    assert.equal(new, read(gateways[3].port))
    assert.equal(tokens, count_tokens())
    local _, total = bed:count_fetches()
    assert.equal(2, total)
  end)

  it("counts its results", function()
    for _, result in ipairs { "token", "lease", "wait", "refusal", "report" } do
      assert.is_true(fleet_bed.sum_metric(gateways, "icptoken_fleet_total", ('result="%s"'):format(result)) > 0, result)
    end
    assert.equal(0, fleet_bed.sum_metric(gateways, "icptoken_fleet_invalid_total"))
  end)

  it("logs nothing during all that", function()
    for _, one in ipairs(gateways) do
      assert.is_nil(one:log():gsub("[^\n]*will share tokens[^\n]*", ""):gsub("[^\n]*rejected its token[^\n]*", "")
        :gsub("[^\n]*requests to[^\n]*", ""):match "[^\n]*icptoken: [^\n]*")
    end
  end)
end)

-- The specs above use the first of them.
for _, program in ipairs { unpack(redis.list_programs(), 2) } do
  describe("a fleet with " .. program, function()
    it("requests the token of each key once", function()
      local other = fleet_bed.open(program)
      finally(function() fleet_bed.close(other) end)
      local servers = other:start_all(2)
      local answers = other:run(40, function(k) return servers[1 + k % 2].port end, function(k)
        return other:request("other/image" .. math.ceil(k / 2))
      end, 20)
      assert.same({ [200] = 40 }, load.count(answers))
      local _, total = other:count_fetches()
      assert.equal(20, total)
    end)
  end)
end
