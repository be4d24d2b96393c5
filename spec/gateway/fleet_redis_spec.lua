-- Gateways of a fleet while their Redis does not work, for each reason: no request fails, each machine requests its own
-- tokens, and they share tokens again when Redis works again.

local files = require "support.files"
local fleet_bed = require "support.fleet_bed"
local gateway_bed = require "support.gateway_bed"
local hostile_redis = require "support.hostile_redis"
local load = require "support.load"
local redis = require "support.redis"

local REQUESTS = 12

describe("a fleet without its Redis", function()
  local bed

  setup(function() bed = fleet_bed.open() end)
  teardown(function() fleet_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function request(one, name)
    local answer = load.request(one.port, bed:request(name))
    assert.equal(("repository:%s:pull"):format(name), gateway_bed.read_scopes(answer))
  end

  local function count_lines(one, words)
    local _, count = one:log():gsub(words:gsub("%p", "%%%0"), "")
    return count
  end

  local function read_available(one)
    return load.request(one.port, { target = "/metrics" }).body:match "\nicptoken_redis_available{[^}]*} (%d)"
  end

  -- Sends cold requests, one after another, then all at once. All must succeed, each with a token request.
  local function check_requests(one, prefix)
    for i = 1, REQUESTS do request(one, prefix .. "/single" .. i) end
    local answers = load.run(one.port, REQUESTS, function(i) return bed:request(prefix .. "/many" .. i) end)
    for i, answer in ipairs(answers) do
      assert.equal(("repository:%s/many%d:pull"):format(prefix, i), gateway_bed.read_scopes(answer))
    end
    local _, total = bed:count_fetches()
    assert.equal(2 * REQUESTS, total)
  end

  local LIMITS = "timeout = 0.1, connect_timeout = 0.05"

  -- break_it makes Redis fail, and repair_it makes it work again.
  local function check(prefix, fleet, break_it, repair_it)
    local gateways = bed:start_all(2, { fleet = fleet })
    for _, one in ipairs(gateways) do request(one, prefix .. "/before") end
    bed.stub:reset()
    break_it()
    check_requests(gateways[1], prefix)
    assert.equal("0", read_available(gateways[1]))
    -- a worker writes a line after it has told the others
    gateway_bed.await("the line", function() return count_lines(gateways[1], "cannot be used") > 0 end)
    assert.equal(1, count_lines(gateways[1], "cannot be used"))
    repair_it()
    gateway_bed.await("the fleet to be back", function() return read_available(gateways[1]) == "1" end)
    gateway_bed.await("the line", function() return count_lines(gateways[1], "answers again") > 0 end)
    assert.equal(1, count_lines(gateways[1], "answers again"))
    -- the other gateway may not have noticed it
    gateway_bed.await("the other gateway to be back", function() return read_available(gateways[2]) == "1" end)
    bed.stub:reset()
    for _, one in ipairs(gateways) do request(one, prefix .. "/after") end
    local _, total = bed:count_fetches()
    assert.equal(1, total)
    for _, one in ipairs(gateways) do assert.is_nil(one:log():find "internal error") end
  end

  it("which was stopped", function()
    check("stopped", nil, function() bed.redis:kill() end, function() bed.redis:launch() end)
  end)

  it("which is paused", function()
    -- time limits longer than a busy machine needs
    check("paused", "timeout = 2, connect_timeout = 2", function() bed.redis:pause() end,
      function() bed.redis:resume() end)
  end)

  it("which is full #deep", function()
    check("full", nil, function() bed.redis:command("CONFIG", "SET", "maxmemory", "1") end,
      function() bed.redis:command("CONFIG", "SET", "maxmemory", "0") end)
  end)

  it("which requires another password #deep", function()
    check("password", nil, function()
      bed.redis:command("ACL", "SETUSER", "default", "resetpass", ">other")
      bed.redis:command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    end, function() bed.redis:command("ACL", "SETUSER", "default", "nopass") end)
  end)

  it("which has become a replica #deep", function()
    local master = redis.start()
    finally(function() master:stop() end)
    check("replica", nil, function()
      bed.redis:command("REPLICAOF", "127.0.0.1", master.port)
      gateway_bed.await("the replica to be in step", function()
        return bed.redis:command("INFO", "replication"):find "master_link_status:up"
      end)
    end, function() bed.redis:command("REPLICAOF", "NO", "ONE") end)
  end)

  it("which loads its data #deep", function()
    check("loading", nil, function()
      bed.redis:command("EVAL", "for i = 1, 5000 do redis.call('set', i, ('x'):rep(2048)) end", 0)
      bed.redis:command "SAVE"
      bed.redis:kill()
      -- it stays so until its delay is set to 0
      local path = bed.redis.dir .. "/redis.conf"
      files.write(path, files.read(path) .. "loading-process-events-interval-bytes 1024\nkey-load-delay 10000\n")
      bed.redis:launch()
    end, function() bed.redis:command("CONFIG", "SET", "key-load-delay", "0") end)
  end)

  it("whose certificate is of another CA #deep", function()
    local server = redis.start { tls = { certificate = bed.stub.server_cert, key = bed.stub.server_key } }
    finally(function() server:stop() end)
    local function start(ca)
      return bed:start { servers = ("lua_ssl_trusted_certificate %s;"):format(ca),
        fleet = ('redis = "rediss://127.0.0.1:%d", server_name = "localhost"'):format(server.port) }
    end
    local one = start(bed.stub.other_ca)
    check_requests(one, "ca")
    assert.equal(1, count_lines(one, "cannot be used"))
    assert.equal("0", read_available(one))
    -- the control
    bed.stub:reset()
    one = start(bed.stub.ca)
    check_requests(one, "ca")
    assert.equal("1", read_available(one))
    assert.is_truthy(server:command("INFO", "commandstats"):find "cmdstat_evalsha")
  end)

  it("which is another server #deep", function()
    for _, behaviour in ipairs { "silent", "http", "text_of_1_gb", "push" } do
      local hostile = hostile_redis.start(behaviour)
      local one = bed:start { fleet = ('redis = "redis://127.0.0.1:%d", %s'):format(hostile.port, LIMITS) }
      check_requests(one, behaviour)
      assert.equal(1, count_lines(one, "cannot be used"), behaviour)
      assert.is_nil(one:log():find "internal error")
      hostile:stop()
      bed.stub:reset()
    end
  end)
end)
