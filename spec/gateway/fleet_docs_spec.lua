-- docs/fleet.md: its configuration of Redis and nginx works unchanged, the user has exactly the rights that a gateway
-- uses, and it names exactly the metrics that exist.

local docs = require "support.docs"
local fleet_bed = require "support.fleet_bed"
local gateway = require "support.gateway"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local redis = require "support.redis"

local PAGE = "docs/fleet.md"
local PASSWORD = "wlMfsPQ1nUmZT4Q"

local function find_block(language, words)
  for _, block in ipairs(docs.list_blocks(PAGE, language)) do
    if block.text:find(words, 1, true) then return block.text end
  end
  error(PAGE .. " has no block with " .. words)
end

-- The lines of a file of the documentation, without the comment that names the file.
local function find_file(path)
  return docs.replace(find_block("conf", "# " .. path), "# " .. path .. "\n", "")
end

describe("the documentation of a fleet", function()
  local bed

  setup(function() bed = fleet_bed.open() end)
  teardown(function() fleet_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  -- Starts a Redis as documented.
  local function start_redis(options)
    local all = { users = docs.replace(find_file "/etc/redis/users.acl", "THE-PASSWORD", PASSWORD),
      config = docs.replace(find_file "/etc/redis/redis.conf", "aclfile /etc/redis/users.acl\n", "") }
    for name, value in pairs(options or {}) do all[name] = value end
    local server = redis.start(all)
    finally(function() server:stop() end)
    return server
  end

  -- Starts a gateway with the option of a documented block. changes: text to its replacement.
  local function start_gateway(block, changes)
    local options = block:match "new (%b{})"
    local all = { ["/etc/nginx/fleet.password"] = bed:write_secret("password", PASSWORD),
      ["/etc/nginx/fleet.secret"] = bed.secret_file, ["/etc/icp/ca.crt"] = bed.stub.ca,
      ['host = "mycluster.icp",'] = ('host = "mycluster.icp", port = %d, service = "token-service", '
        .. 'hedge_after = false, resolve = { ["mycluster.icp:%d"] = "127.0.0.1" },')
        :format(bed.stub.port, bed.stub.port) }
    for old, new in pairs(changes) do all[old] = new end
    for old, new in pairs(all) do options = docs.replace(options, old, new) end
    -- time limits for a Redis on a busy machine
    options = docs.replace(options, "fleet = {", "fleet = { timeout = 10, connect_timeout = 10,")
    local one = gateway.start { gateway = options, upstream = bed.upstream }
    table.insert(bed.gateways, one)
    return one
  end

  local function request(one, name)
    local answer = load.request(one.port, bed:request(name))
    assert.equal(("repository:%s:pull"):format(name), gateway_bed.read_scopes(answer))
  end

  -- All commands that clients other than this spec, and their scripts, run while body runs.
  local function watch(server, body)
    local monitor = assert(server:connect())
    monitor.send "MONITOR"
    assert.equal("OK", monitor.read())
    body()
    server:command("ECHO", "the end of body")
    local commands = {}
    while true do
      local line = monitor.read()
      if line:find "the end of body" then break end
      local client, command = line:match '%[%d+ ([^%]]+)%] "([^"]+)"'
      if not client:find "^unix:" then commands[command:lower()] = true end
    end
    monitor.close()
    local names = {}
    for name in pairs(commands) do names[#names + 1] = name end
    table.sort(names)
    return names
  end

  local function count_tokens(server)
    return #server:command("KEYS", "icptoken:1:*:t")
  end

  -- AUTH needs no right.
  local function list_rights()
    local names = { "auth" }
    for name in find_file "/etc/redis/users.acl":gmatch "%+(%l+)" do names[#names + 1] = name end
    table.sort(names)
    return names
  end

  it("has a Redis and a gateway that work, with exactly the rights that are used", function()
    local server = start_redis()
    local block = find_block("nginx", "redis://gw@10.0.0.9:6379")
    local first = start_gateway(block, { ["10.0.0.9:6379"] = "127.0.0.1:" .. server.port })
    local second = start_gateway(block, { ["10.0.0.9:6379"] = "127.0.0.1:" .. server.port })
    local commands = watch(server, function()
      request(first, "rights/image")
      request(second, "rights/image")
      assert.equal(1, #bed.stub:requests())
      -- a lease that is extended
      bed.stub:plan { delay = { before = 2.5 } }
      request(first, "rights/slow")
      -- a token that the registry rejects
      local name, tokens = "rights/image", count_tokens(server)
      load.request(first.port, bed:request(name, { ["X-Test-Status"] = "401",
        ["X-Test-Challenge"] = 'Bearer realm="r",error="invalid_token"' }))
      gateway_bed.await("the token to be dropped", function() return count_tokens(server) < tokens end)
      -- a refused credential, by each gateway
      for _, one in ipairs { first, second } do
        local answer = load.request(one.port, bed:request("rights/other", { Authorization = "Bearer wrong.id.token" }))
        assert.equal(401, answer.status)
      end
    end)
    assert.same(list_rights(), commands)
    assert.same({}, server:command("ACL", "LOG"))
    assert.is_nil(first:log():find "cannot be used")
  end)

  it("has a gateway that works with a real Sentinel", function()
    local server = start_redis()
    local sentinel = redis.start_sentinel(server, "tokens", 60,
      { config = "sentinel auth-user tokens spec\nsentinel auth-pass tokens spec\n" })
    finally(function()
      sentinel:stop()
      server:stop()
    end)
    local one = start_gateway(find_block("nginx", "sentinels ="), { ["10.0.0.7:26379"] = "127.0.0.1:1",
      ["10.0.0.8:26379"] = "127.0.0.1:" .. sentinel.port })
    request(one, "sentinel/image")
    assert.matches("cmdstat_evalsha", server:command("INFO", "commandstats"))
  end)

  it("names the metrics", function()
    local one = bed:start()
    local text, in_code, in_docs = load.request(one.port, { target = "/metrics" }).body, {}, {}
    for name, kind in text:gmatch "\n# TYPE (%S+) (%S+)" do in_code[name] = kind end
    for name, kind in load.request(bed:start { fleet = false }.port, { target = "/metrics" }).body
      :gmatch "\n# TYPE (%S+) (%S+)" do
      assert.equal(kind, in_code[name])
      in_code[name] = nil
    end
    for _, row in ipairs(docs.read_rows(docs.read_section(PAGE, "Metrics"))) do
      in_docs[row[1]:match "^`([%l_]+)`$"] = row[2]
      for label in row[3]:gmatch "`([%l]+)` ?%(" do assert.matches('="' .. label .. '"', text, 1, true) end
    end
    assert.same(in_code, in_docs)
  end)

  it("names the results of exchanges", function()
    local row = docs.read_section(PAGE, "Metrics"):match "icptoken_redis_exchanges_total`([^\n]*)"
    local text, in_code, in_docs = load.request(bed:start().port, { target = "/metrics" }).body, {}, {}
    for name in text:gmatch 'icptoken_redis_exchanges_total{[^}]*result="(%l+)"' do in_code[#in_code + 1] = name end
    for name in row:match "label `result`: (.*)":gmatch "`(%l+)`" do in_docs[#in_docs + 1] = name end
    assert.same(in_code, in_docs)
  end)
end)
