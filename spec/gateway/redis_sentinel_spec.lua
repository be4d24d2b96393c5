-- Redis behind Sentinels: where the master is, and what happens when another server becomes the master.

local gateway_bed = require "support.gateway_bed"
local hostile_redis = require "support.hostile_redis"
local nginx = require "support.nginx"
local redis = require "support.redis"
local redis_bed = require "support.redis_bed"

local SWAP = redis_bed.SWAP

describe("a Redis behind Sentinels", function()
  local bed, started

  local function keep(server)
    started[#started + 1] = server
    return server
  end

  before_each(function()
    started = {}
    bed = redis_bed.open()
  end)
  after_each(function()
    redis_bed.close(bed)
    for _, server in ipairs(started) do server:stop() end
  end)

  local function make_options(ports, fields)
    local sentinels = {}
    for i, port in ipairs(ports) do sentinels[i] = "127.0.0.1:" .. port end
    local all = { redis = "redis:///0", sentinels = sentinels, master = "tokens" }
    for name, value in pairs(fields or {}) do all[name] = value end
    return bed:make_options(nil, all)
  end

  local function await_role(server, role)
    gateway_bed.await("role " .. role, function() return (server:command "ROLE" or {})[1] == role end)
  end

  local function start_replica(master)
    local replica = keep(redis.start { program = master.program, config = "replicaof 127.0.0.1 " .. master.port })
    gateway_bed.await("the replica to be in step", function()
      return replica:command("INFO", "replication"):find "master_link_status:up"
    end)
    return replica
  end

  local function await_replica_known(sentinel)
    gateway_bed.await("Sentinel to know the replica", function()
      return #(sentinel:command("SENTINEL", "replicas", "tokens") or {}) == 1
    end)
  end

  local function fail_over(sentinel)
    gateway_bed.await("Sentinel to accept the replica", function()
      return sentinel:command("SENTINEL", "failover", "tokens") == "OK"
    end)
  end

  it("is found, and its address is remembered for a while", function()
    local master = keep(redis.start())
    local sentinel = keep(redis.start_sentinel(master, "tokens", 60))
    local options = make_options { sentinel.port }
    assert.equal("first", bed:echo(options, "first"))
    sentinel:kill()
    assert.equal("second", bed:echo(options, "second"))
    assert.equal(0, bed:count(options, "sentinel"))
  end)

  it("is found if the first Sentinels do not answer", function()
    local master = keep(redis.start())
    local sentinel = keep(redis.start_sentinel(master, "tokens", 60))
    local silent = keep(hostile_redis.start "silent")
    -- more than a busy machine may pause the Sentinel that answers
    local options = make_options({ nginx.find_free_port(), silent.port, sentinel.port }, { connect_timeout = 2 })
    assert.equal("hello", bed:echo(options, "hello"))
    -- from now on that Sentinel is asked first
    assert.equal("hello", bed:echo(options, "hello"))
    assert.equal(1, #silent:await_connections(1))
  end)

  it("is not found under a name that Sentinel does not know", function()
    local master = keep(redis.start())
    local sentinel = keep(redis.start_sentinel(master, "tokens", 60))
    local options = make_options({ sentinel.port }, { master = "others" })
    local reply, problem = bed:echo(options, "x")
    assert.is_nil(reply)
    assert.equal(("Sentinel at 127.0.0.1:%d: it does not know a master named 'others'"):format(sentinel.port), problem)
  end)

  it("is not found through a server that is not a Sentinel", function()
    for _, behaviour in ipairs { "http", "text_of_1_gb", "push", "good" } do
      local hostile = keep(hostile_redis.start(behaviour))
      local reply, problem = bed:echo(make_options { hostile.port }, "x")
      assert.is_nil(reply)
      assert.matches("^Sentinel at 127.0.0.1:" .. hostile.port .. ": ", problem)
    end
  end)

  it("is looked up again if it has become a replica", function()
    local master = keep(redis.start())
    local replica = start_replica(master)
    local sentinel = keep(redis.start_sentinel(master, "tokens", 60))
    await_replica_known(sentinel)
    local options = make_options { sentinel.port }
    assert.is_not_nil(bed:run(options, { { SWAP, 1, "a", "1" } })[1].replies)
    fail_over(sentinel)
    await_role(replica, "master")
    await_role(master, "slave")
    gateway_bed.await("a write to the new master", function()
      local replies = bed:run(options, { { SWAP, 1, "a", "2" } })[1].replies
      return replies and replies[1]
    end)
    assert.equal("2", replica:command("GET", "a"))
    assert.equal("again", bed:echo(options, "again"))
  end)

  it("that hangs costs each worker one time-out", function()
    local master = keep(redis.start())
    local replica = start_replica(master)
    -- which chooses another master only when it is told to, after the time-out
    local sentinel = keep(redis.start_sentinel(master, "tokens", 3600))
    await_replica_known(sentinel)
    local options = make_options({ sentinel.port }, { timeout = 1.5, connect_timeout = 5 })
    gateway_bed.await("the first write", function()
      local replies = bed:run(options, { { SWAP, 1, "a", "1" } })[1].replies
      return replies and replies[1]
    end)
    master:pause()
    local before = bed:count(options, "timeout")
    -- until the breaker is open
    local results = bed:run(options, { { SWAP, 1, "a", "2" } }, 4)
    for i, result in ipairs(results) do
      assert.is_nil(result.replies)
      assert.is_false(result.is_late, i)
    end
    assert.equal(1, bed:count(options, "timeout") - before)
    fail_over(sentinel)
    await_role(replica, "master")
    gateway_bed.await("a write to the new master", function()
      local replies = bed:run(options, { { SWAP, 1, "a", "3" } })[1].replies
      return replies and replies[1]
    end)
    assert.equal("3", replica:command("GET", "a"))
    assert.equal(1, #bed:list_lines "Sentinel's master 'tokens' cannot be used")
    assert.equal(1, #bed:list_lines "Sentinel's master 'tokens' answers again")
  end)
end)
