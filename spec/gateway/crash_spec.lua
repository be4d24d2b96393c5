-- A worker is killed during a token request, while requests in the other worker wait for it, too.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local testkit = require "testkit"

local WAITERS = 25

local bed, server

setup(function()
  bed = gateway_bed.open()
  server = bed:start { locations = gateway_probe.LOCATIONS }
end)
teardown(function() gateway_bed.close(bed) end)

-- The process that holds a lock in the dict: "l" and a key's 32 bytes name it, and its text follows two doubles.
local function read_holder()
  local dump = load.perform(server.port, { target = "/dict" }).body
  return tonumber(dump:match("l" .. ("."):rep(32) .. "\n" .. ("."):rep(16) .. "(%d+):%d+:%x+\n"))
end

describe("a worker that is killed while it holds a key's lock", function()
  local victim, survivor
  local lost, served = {}, {}

  -- The worker whose request comes first holds the lock.
  local function choose_victim(reached)
    for pid, connections in pairs(reached) do
      if victim then
        survivor = { pid = pid, connections = connections }
      else
        victim = { pid = pid, connections = connections }
      end
    end
  end

  local function kill_victim()
    gateway_bed.await("all to wait", function()
      local _, waiting = gateway_probe.count_clients(server.port)
      return waiting == 2 * WAITERS
    end)
    assert.equal(victim.pid, read_holder())
    assert.equal(1, #bed.stub:requests())
    testkit.kill(victim.pid, "KILL")
  end

  setup(function()
    choose_victim(gateway_probe.reach_workers(server.port, 2, WAITERS))
    -- only the first token request hangs
    bed.stub:plan { raw = "", ["end"] = "hold" }
    local request, tasks = bed:request "/v2/crash/image/manifests/latest", { kill_victim }
    for i = 1, WAITERS do
      table.insert(tasks, function() lost[i] = load.perform(server.port, request, victim.connections[i]) end)
      table.insert(tasks, function()
        gateway_bed.await("the victim's token request", function() return #bed.stub:requests() > 0 end)
        served[i] = load.perform(server.port, request, survivor.connections[i])
      end)
    end
    load.together(unpack(tasks))
  end)

  it("loses its own requests", function()
    assert.same({ none = WAITERS }, load.count(lost))
  end)

  it("leaves those of the other worker to a second token request", function()
    assert.same({ [200] = WAITERS }, load.count(served))
    assert.same({ [survivor.pid] = WAITERS }, gateway_probe.count_by_worker(served))
    assert.equal(2, #bed.stub:requests())
    assert.is_truthy(server:log():find("the worker that was requesting its token has crashed", 1, true))
  end)

  it("is replaced, and everything works without a restart", function()
    local reached = gateway_probe.reach_workers(server.port, 2, 1)
    assert.is_table(reached[survivor.pid])
    for pid, connections in pairs(reached) do
      local answer = load.perform(server.port, bed:request("/v2/crash/after" .. pid .. "/tags/list"), connections[1])
      assert.equal(200, answer.status)
      connections[1].connection:close()
    end
    assert.equal("running", (testkit.waitpid(server.pid, 0)))
  end)
end)
