-- Two clusters behind one nginx: one that hangs does not affect the other, and no token is used for another credential,
-- scope or cluster.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local icptoken = require "icptoken"
local load = require "support.load"
local mime = require "mime"
local nginx = require "support.nginx"

local NAMES = { "alpha", "beta" }
local TIMEOUT = 1
-- However slow the machine is, all can be served in time.
local PATIENCE = 60

local HTTP = [[
  lua_shared_dict icptoken 4m;
  lua_check_client_abort on;
  init_by_lua_block {
    local new = require("icptoken.gateway").new
    gateways = { alpha = new(%s), beta = new(%s) }
  }
  init_worker_by_lua_block { for _, gateway in pairs(gateways) do gateway:start() end }
  server {
    listen 127.0.0.1:@PORT@;
    location = /metrics { content_by_lua_block { ngx.print(gateways.alpha:metrics(gateways.beta)) } }
  }
]]

local SERVER = [[
  server {
    listen 127.0.0.1:@PORT%s@ backlog=4096;
    keepalive_requests 1000000;
    location /v2/ {
      set $icptoken_authorization "";
      set $icptoken_key "";
      access_by_lua_block { gateways.%s:authorize() }
      header_filter_by_lua_block { gateways.%s:observe() }
      proxy_set_header Authorization $icptoken_authorization;
      proxy_pass http://127.0.0.1:%d;
    }
  }
]]

-- By name: the bed, and the port of its gateway.
local clusters = {}
local server

-- timeouts: by name, in seconds.
local function start_server(timeouts)
  local options, servers = {}, {}
  for i, name in ipairs(NAMES) do
    local bed = clusters[name].bed
    options[i] = bed:write_options(("name = %q, service = %q, timeout = %d"):format(name, name, timeouts[name]))
    servers[i] = SERVER:format(name, name, name, bed.upstream.port)
  end
  server = nginx.start { http = HTTP:format(unpack(options)) .. table.concat(servers),
    main = "thread_pool icptoken threads=16;" }
  for _, name in ipairs(NAMES) do clusters[name].port = server.ports["PORT" .. name] end
end

setup(function()
  for _, name in ipairs(NAMES) do clusters[name] = { bed = gateway_bed.open() } end
end)

teardown(function()
  for _, cluster in pairs(clusters) do gateway_bed.close(cluster.bed) end
end)

before_each(function()
  for _, cluster in pairs(clusters) do cluster.bed.stub:reset() end
end)

-- A server for the rows of a describe block.
local function serve(timeouts)
  setup(function() start_server(timeouts) end)
  teardown(function() if server then server:stop() end end)
end

describe("a cluster whose endpoint hangs", function()
  serve { alpha = TIMEOUT, beta = PATIENCE }
  local ROUNDS, REQUESTS, CLIENTS, WAITERS = 3, 200, 8, 50

  local function make_request(cluster, name)
    return cluster.bed:request("/v2/isolated/" .. name .. "/manifests/latest")
  end

  -- The 99th percentile of requests to the other one, half of them for new tokens.
  local function measure_other(round)
    local answers = load.run(clusters.beta.port, REQUESTS, function(i)
      return make_request(clusters.beta, i % 2 == 0 and "cached" or round .. i)
    end, CLIENTS)
    assert.same({ [200] = REQUESTS }, load.count(answers))
    return load.percentile(answers, 0.99)
  end

  -- The same while requests wait for the one that hangs.
  local function measure_beside_waiters(round)
    local percentile
    local waiters, tasks = {}, {}
    for i = 1, WAITERS do
      tasks[i] = function()
        repeat
          local answer = load.perform(clusters.alpha.port, make_request(clusters.alpha, round .. i))
          waiters[#waiters + 1] = answer
        until percentile
      end
    end
    tasks[WAITERS + 1] = function()
      gateway_bed.await("token requests that hang", function()
        return gateway_probe.read_metric(server.port, "icptoken_inflight", 'gateway="alpha"') > 0
      end)
      percentile = measure_other(round)
    end
    load.together(unpack(tasks))
    local counts = load.count(waiters) -- 503 for those that are refused early because they cannot be served in time
    assert.equal(#waiters, (counts[504] or 0) + (counts[503] or 0))
    return percentile
  end

  it("does not affect the other one", function()
    clusters.alpha.bed.stub:plan { raw = "", ["end"] = "hold", times = "forever" }
    local quiet, hanging = {}, {}
    for round = 1, ROUNDS do
      quiet[round] = measure_other("quiet" .. round .. "/")
      hanging[round] = measure_beside_waiters("hanging" .. round .. "/")
    end
    table.sort(quiet)
    table.sort(hanging)
    assert.is_true(hanging[2] < 10 * quiet[2] + 0.3 * TIMEOUT,
      ("%.4f s, and in quiet %.4f s"):format(hanging[2], quiet[2]))
  end)
end)

describe("two gateways with one dict and one cluster", function()
  local bed, shared

  setup(function()
    bed = gateway_bed.open()
    local options, servers = {}, {}
    for i, name in ipairs(NAMES) do
      -- one has token_user, and nothing else differs
      options[i] = bed:write_options(name == "alpha" and [[token_user = "joe"]] or "")
      servers[i] = SERVER:format(name, name, name, bed.upstream.port)
    end
    shared = nginx.start { http = HTTP:format(unpack(options)) .. table.concat(servers), workers = 1,
      main = "thread_pool icptoken threads=16;" }
  end)
  teardown(function()
    if shared then shared:stop() end
    gateway_bed.close(bed)
  end)

  -- An ID token as joe's password is one for the first alone; joe's password is one for the second alone.
  for _, order in ipairs { { "alpha", "beta" }, { "beta", "alpha" } } do
    for password, good in pairs { ["id-token"] = "alpha", secret = "beta" } do
      it(("decide independently: %s first, %s is valid for %s"):format(order[1], password, good), function()
        bed.stub:reset()
        bed.stub:set { users = { joe = "secret" }, id_tokens = { "id-token" } }
        local request = bed:request(("/v2/%s/%s/manifests/1"):format(order[1], password), "GET",
          { Authorization = "Basic " .. mime.b64("joe:" .. password) })
        for _ = 1, 2 do
          for _, name in ipairs(order) do
            local answer = load.request(shared.ports["PORT" .. name], request)
            assert.equal(name == good and 200 or 401, answer.status, name)
          end
        end
      end)
    end
  end
end)

describe("50 credentials at two clusters #deep", function()
  -- the requests to each cluster in a round
  local REQUESTS, CLIENTS, USERS = 1000, 40, 50
  serve { alpha = PATIENCE, beta = PATIENCE }
  -- Requests, and the scopes that they need.
  local CASES = {
    { "GET", "/v2/", "" },
    { "GET", "/v2/_catalog", "registry:catalog:*" },
    { "GET", "/v2/team/app/manifests/latest", "repository:team/app:pull" },
    { "GET", "/v2/team/app2/tags/list", "repository:team/app2:pull" },
    { "PUT", "/v2/team/app/manifests/latest", "repository:team/app:pull,push" },
    { "DELETE", "/v2/team/app/manifests/latest", "repository:team/app:delete,*" },
    { "POST", "/v2/team/app/blobs/uploads/?mount=sha256:0&from=team/base",
      "repository:team/app:pull,push repository:team/base:pull" },
  }

  local function log_in(stub, name, password)
    local identity = assert(icptoken.login { host = "localhost", port = stub.port, cacert = stub.ca,
      username = name, password = password })
    return "Bearer " .. identity.id_token
  end

  -- The same names and passwords at both clusters; every second user sends an ID token.
  local function make_credentials(stub)
    local passwords, credentials = {}, {}
    for i = 1, USERS do passwords["user" .. i] = "secret" .. i end
    -- tokens with a lifetime so short that they are renewed and expire meanwhile
    stub:set { users = passwords, expires_in = 3 }
    for i = 1, USERS do
      local name = "user" .. i
      credentials[name] = i % 2 == 0 and log_in(stub, name, passwords[name])
        or "Basic " .. mime.b64(name .. ":" .. passwords[name])
    end
    return credentials
  end

  -- Makes random requests to a cluster. Returns the answers, and what each was for.
  local function ask_at_random(cluster, credentials)
    local chosen = {}
    cluster.chosen = chosen
    return function()
      cluster.answers = load.run(cluster.port, REQUESTS, function(i)
        local user, case = "user" .. math.random(USERS), CASES[math.random(#CASES)]
        chosen[i] = { user = user, scopes = case[3] }
        return cluster.bed:request(case[2], case[1], { Authorization = credentials[user] })
      end, CLIENTS, true)
    end
  end

  -- The owner of a JWT according to its claims.
  local function describe_jwt(answer)
    local jwt = icptoken.decode(gateway_bed.read_echo(answer).headers.authorization:sub(8))
    return { user = jwt.claims.sub, service = jwt.claims.aud, key = jwt.header.kid,
      scopes = gateway_bed.read_scopes(answer) }
  end

  local function assert_own_tokens(name, cluster)
    assert.same({ [200] = REQUESTS }, load.count(cluster.answers))
    for i, answer in ipairs(cluster.answers) do
      local chosen = cluster.chosen[i]
      assert.same({ user = chosen.user, service = name, key = cluster.bed.stub.key_name, scopes = chosen.scopes },
        describe_jwt(answer))
    end
  end

  -- Returns whether there was more than one token request for a key.
  local function were_some_renewed()
    for _, cluster in pairs(clusters) do
      if #cluster.bed.stub:requests() <= USERS * #CASES then return false end
    end
    return true
  end

  for what, rounds in pairs { ["until some are renewed"] = 1, ["10,000 at least #deep"] = 5 } do
    it("each get their own tokens in random requests, " .. what, function()
      math.randomseed(7)
      local credentials, round = {}, 0
      for name, cluster in pairs(clusters) do credentials[name] = make_credentials(cluster.bed.stub) end
      gateway_bed.await("renewals", function()
        round = round + 1
        load.together(ask_at_random(clusters.alpha, credentials.alpha), ask_at_random(clusters.beta, credentials.beta))
        for name, cluster in pairs(clusters) do assert_own_tokens(name, cluster) end
        return round >= rounds and were_some_renewed()
      end)
    end)
  end

  it("get nothing with the password of another user, or at a cluster that does not know them", function()
    local credentials = make_credentials(clusters.alpha.bed.stub)
    make_credentials(clusters.beta.bed.stub)
    local request = clusters.alpha.bed:request("/v2/team/app/manifests/latest", "GET",
      { Authorization = credentials.user2 })
    assert.equal(200, load.request(clusters.alpha.port, request).status)
    assert.equal(401, load.request(clusters.beta.port, request).status)
    request.headers.Authorization = credentials.user1
    assert.equal(200, load.request(clusters.beta.port, request).status)
    request.headers.Authorization = "Basic " .. mime.b64 "user1:secret3"
    assert.equal(401, load.request(clusters.beta.port, request).status)
  end)
end)
