-- While Redis fails: which worker tries it again and when, and what is logged.

local docs = require "support.docs"
local gateway_bed = require "support.gateway_bed"
local hostile_redis = require "support.hostile_redis"
local redis = require "support.redis"
local redis_bed = require "support.redis_bed"
local testkit = require "testkit"

local WORKERS = 4

describe("the breaker of Redis", function()
  local bed, server, hostile

  setup(function() bed = redis_bed.open { workers = WORKERS } end)
  teardown(function() redis_bed.close(bed) end)
  after_each(function()
    if server then server:stop() end
    if hostile then hostile:stop() end
    server, hostile = nil, nil
  end)

  -- Runs a script until each worker has answered once.
  local function run_everywhere(options)
    local seen, count, results = {}, 0, {}
    gateway_bed.await("each worker", function()
      local result, worker = bed:run_in_worker(options, { { redis_bed.ECHO, 0, "x" } })
      if not seen[worker] then seen[worker], count = true, count + 1 end
      results[#results + 1] = result
      return count == WORKERS
    end)
    return results
  end

  it("is open for all workers", function()
    hostile = hostile_redis.start "closed"
    local options = bed:make_options(hostile.port)
    bed:run(options, { { redis_bed.ECHO, 0, "x" } }, 3)
    for _, result in ipairs(run_everywhere(options)) do
      assert.equal("Redis is not used, as it has failed", result.problem)
    end
    assert.equal(1, #bed:list_lines(("127.0.0.1:%d cannot be used"):format(hostile.port)))
  end)

  it("is open for all workers at once if one cannot use Redis when it starts", function()
    hostile = hostile_redis.start "closed"
    local options = bed:make_options(hostile.port)
    bed:start(options)
    gateway_bed.await("the line in the log", function()
      return #bed:list_lines(("127.0.0.1:%d cannot be used"):format(hostile.port)) == 1
    end)
    for _, result in ipairs(run_everywhere(options)) do
      assert.equal("Redis is not used, as it has failed", result.problem)
    end
  end)

  it("is closed by an answer between failures", function()
    server = redis.start()
    local options = bed:make_options(server.port)
    local broken = { { "return redis.call('nosuch')", 0 } }
    for _ = 1, 4 do
      assert.same({ false }, bed:run(options, broken)[1].replies)
      assert.same({ false }, bed:run(options, broken)[1].replies)
      assert.equal("x", bed:echo(options, "x"))
    end
    assert.is_true(bed:is_available(options))
  end)

  it("has one worker try again, after 1, 2 and 4 s", function()
    hostile = hostile_redis.start "closed"
    local options = bed:make_options(hostile.port)
    bed:run(options, { { redis_bed.ECHO, 0, "x" } }, 3)
    gateway_bed.await("three attempts", function()
      run_everywhere(options)
      return #hostile:list_connections() >= 6
    end)
    local times = hostile:list_connections()
    -- the clock of nginx has milliseconds
    for i, pause in ipairs { 1, 2, 4 } do assert.is_true(times[3 + i] - times[2 + i] >= pause - 0.01, pause) end
    assert.equal(1, #bed:list_lines(("127.0.0.1:%d cannot be used"):format(hostile.port)))
  end)

  it("is tried by another worker if the one that was to do it has died", function()
    hostile = hostile_redis.start "closed"
    local options = bed:make_options(hostile.port)
    bed:run(options, { { redis_bed.ECHO, 0, "x" } }, 3)
    for _, pid in ipairs(gateway_bed.await_workers(bed.server, WORKERS)) do testkit.kill(pid, "KILL") end
    gateway_bed.await("another attempt", function()
      pcall(run_everywhere, options)
      return #hostile:list_connections() >= 4
    end)
  end)

  it("logs at the start of nginx which Redis it uses", function()
    server = redis.start { users = "user default off\nuser gw on >secret-pw ~* +@all\n" }
    bed:start(bed:make_options(nil, { redis = ("redis://gw@127.0.0.1:%d/3"):format(server.port),
      password_file = bed:write_private "secret-pw\n" }))
    local line = gateway_bed.await("the line in the log", function()
      return bed:list_lines(("127.0.0.1:%d"):format(server.port))[1]
    end)
    assert.equal(("notice: this machine will share tokens with the fleet through Redis at 127.0.0.1:%d, database 3, "
      .. "without TLS, as user 'gw'"):format(server.port), line)
    gateway_bed.await("the first attempt", function()
      return server:command("INFO", "commandstats"):find "cmdstat_evalsha"
    end)
    assert.equal(1, #bed:list_lines(("127.0.0.1:%d"):format(server.port)))
    assert.is_nil(bed.server:log():find "secret%-pw")
  end)

  it("is open at once if the user lacks one of the documented rights", function()
    local line = docs.list_blocks("docs/fleet.md", "conf")[2].text:match "\n(user gw [^\n]*)"
    local rights, users = {}, { "user default off", (line:gsub("user gw on >%S+", "user all on nopass")) }
    for right in line:gmatch "%+(%l+)" do
      local user = (line .. " "):gsub("user gw on >%S+", "user no-" .. right .. " on nopass")
      rights[#rights + 1] = right
      users[#users + 1] = user:gsub(" %+" .. right .. " ", " "):sub(1, -2)
    end
    assert.equal(7, #rights)
    server = redis.start { users = table.concat(users, "\n") .. "\n" }
    local function start(user)
      local options = bed:make_options(nil, { redis = ("redis://%s@127.0.0.1:%d"):format(user, server.port),
        password_file = bed:write_private "any\n" })
      bed:start(options)
      return options
    end
    local place = ("127.0.0.1:%d cannot be used"):format(server.port)
    for i, right in ipairs(rights) do
      start("no-" .. right)
      gateway_bed.await("the line in the log", function() return #bed:list_lines(place) == i end)
      assert.matches("lacks a right: docs/fleet.md lists those", bed:list_lines(place)[i], 1, true)
    end
    assert.equal("x", bed:echo(start "all", "x"))
    assert.equal(#rights, #bed:list_lines(place))
  end)

  it("is closed if other code has overwritten its records", function()
    server = redis.start()
    local options = bed:make_options(server.port)
    server:kill()
    -- a record of the far future among them, see record.lua
    for _, bytes in ipairs { "", "x", ("\255"):rep(16) .. "30", ("\255"):rep(16), ("\1"):rep(16) .. "x" } do
      bed:run(options, { { redis_bed.ECHO, 0, "x" } }, 5)
      assert.is_false(bed:is_available(options))
      assert.is_true(bed:forge_records(bytes) > 0)
      assert.is_true(bed:is_available(options))
      bed:run(options, { { redis_bed.ECHO, 0, "x" } })
      bed:forge_records(bytes)
    end
  end)
end)
