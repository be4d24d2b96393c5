-- What happens to the others if a gateway of a fleet dies, is reloaded or restarted, or has another secret, version or
-- clock; and that a gateway without a fleet loads nothing of it.

local files = require "support.files"
local fleet_bed = require "support.fleet_bed"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local testkit = require "testkit"

local OTHER_SECRET = ("t"):rep(42) .. "o="

local bed

setup(function() bed = fleet_bed.open() end)
teardown(function() fleet_bed.close(bed) end)
before_each(function()
  bed.stub:reset()
  bed.redis:command "FLUSHALL"
end)

-- Kills nginx and its workers at once.
local function kill_all(server)
  local pids = server:workers()
  testkit.kill(server.pid, "KILL")
  for _, pid in ipairs(pids) do testkit.kill(pid, "KILL") end
end

local function request_from_each(gateways, name)
  for _, one in ipairs(gateways) do assert.equal(200, load.request(one.port, bed:request(name)).status) end
end

describe("a gateway that is killed with leases", function()
  local KEYS, LEASE_MS = 4, 3000
  local gateways, victim
  local answers, left = {}, {}
  local counts, total, waits

  local function count_waits()
    return fleet_bed.sum_metric(gateways, "icptoken_fleet_total", 'result="wait"')
  end

  -- Waits until all leases have been extended: until each has more time left than it had earlier.
  local function await_extension()
    local least = {}
    gateway_bed.await("the extension of the leases", function()
      local extended = 0
      for _, name in ipairs(bed:list_records ":l") do
        local now_left = bed.redis:command("PTTL", name)
        if least[name] and now_left > least[name] then extended = extended + 1 end
        least[name] = math.min(least[name] or LEASE_MS, now_left)
      end
      return extended == KEYS
    end)
  end

  local function kill_victim()
    gateway_bed.await("the others to wait", function()
      return count_waits() == waits + 2 * KEYS
    end)
    await_extension()
    local names = bed:list_records ":l"
    kill_all(victim)
    for i, name in ipairs(names) do left[i] = bed.redis:command("PTTL", name) end
  end

  setup(function()
    gateways = bed:start_all(3)
    victim = gateways[1]
    request_from_each(gateways, "killed/first")
    bed:await_no_leases()
    waits = count_waits()
    bed.stub:reset()
    -- the endpoint holds the requests of the victim, and answers the others
    bed.stub:plan { raw = "", ["end"] = "hold", times = KEYS }
    local tasks = { kill_victim }
    for i = 1, KEYS do
      local request = bed:request("killed/image" .. i)
      table.insert(tasks, function() load.perform(victim.port, request) end)
      for j = 2, 3 do
        table.insert(tasks, function()
          gateway_bed.await("the victim's token requests", function() return #bed.stub:requests() >= KEYS end)
          local answer = load.perform(gateways[j].port, request)
          answers[#answers + 1] = answer
        end)
      end
    end
    load.together(unpack(tasks))
    counts, total = bed:count_fetches()
  end)

  it("only delays the clients of others", function()
    assert.same({ [200] = 2 * KEYS }, load.count(answers))
  end)

  it("is replaced when its leases expire", function()
    assert.equal(KEYS, #left)
    -- -1 would be a lease that never expires; -2 is one that has expired meanwhile
    for _, milliseconds in ipairs(left) do assert.is_true(milliseconds <= LEASE_MS and milliseconds ~= -1) end
    for name, fetches in pairs(counts) do assert.equal(2, fetches, name) end
    assert.equal(2 * KEYS, total)
    bed:await_no_leases()
  end)

  it("has no other gateway make a request without a lease", function()
    assert.equal(0, fleet_bed.sum_metric({ gateways[2], gateways[3] }, "icptoken_fleet_total", 'result="alone"'))
  end)
end)

-- Requests one repository after another, each from all these gateways, until body(count) has returned; count() returns
-- how many requests were answered. Returns the answers.
local function keep_requesting(gateways, prefix, clients, body)
  local answers, is_over, next_index = {}, false, 1
  local tasks = { function()
    body(function() return #answers end)
    is_over = true
  end }
  for _ = 1, clients do
    tasks[#tasks + 1] = function()
      while not is_over do
        local i = next_index
        next_index = i + 1
        local name = prefix .. math.ceil(i / #gateways)
        local answer = load.perform(gateways[1 + i % #gateways].port, bed:request(name))
        answer.name = name
        answers[#answers + 1] = answer
      end
    end
  end
  load.together(unpack(tasks))
  for _, answer in ipairs(answers) do
    assert.equal("repository:" .. answer.name .. ":pull", gateway_bed.read_scopes(answer))
  end
  return answers
end

-- Has a gateway read its configuration again. Waits until it has two new workers and the old ones, which accept
-- connections for a moment longer, have exited.
local function reload(server)
  local is_old = {}
  for _, pid in ipairs(server:workers()) do is_old[pid] = true end
  server:reload()
  gateway_bed.await("new workers", function()
    local workers = server:workers()
    for _, pid in ipairs(workers) do
      if is_old[pid] then return false end
    end
    return #workers == 2
  end)
end

describe("a gateway of a fleet that is reloaded under load", function()
  it("fails no request, and costs few token requests #deep", function()
    local RELOADS, CLIENTS = 3, 12
    local gateways = bed:start_all(2)
    bed.stub:plan { delay = { before = 0.05 }, times = "forever" }
    local answers = keep_requesting(gateways, "reloaded/image", CLIENTS, function(count)
      for _ = 1, RELOADS do
        local before = count()
        reload(gateways[1])
        gateway_bed.await("more answers", function() return count() > before + 2 * CLIENTS end)
      end
    end)
    assert.same({ [200] = #answers }, load.count(answers))
    local counts, total = bed:count_fetches()
    local keys = 0
    for _ in pairs(counts) do keys = keys + 1 end
    -- a lease of an old worker may expire while it makes its request
    assert.is_true(total <= keys + RELOADS * CLIENTS, total .. " token requests for " .. keys .. " keys")
    bed:await_no_leases()
    for _, one in ipairs(gateways) do assert.is_nil(one:log():match "[^\n]*%[alert%][^\n]*") end
  end)
end)

describe("a fleet", function()
  it("continues to work while one of its gateways is restarted", function()
    local gateways = bed:start_all(2)
    local answers = keep_requesting({ gateways[1] }, "restarted/image", 8, function(count)
      gateways[2]:stop()
      gateways[2] = bed:start()
      local before = count()
      gateway_bed.await("more answers", function() return count() > before + 20 end)
    end)
    assert.same({ [200] = #answers }, load.count(answers))
    -- it gets from Redis the tokens that the other one has requested meanwhile
    bed:await_no_leases()
    bed.stub:reset()
    local answer = load.request(gateways[2].port, bed:request(answers[1].name))
    assert.equal(200, answer.status)
    assert.equal(0, #bed.stub:requests())
  end)

  it("changes its secret machine by machine without a failed request", function()
    local path = bed:write_secret("changing", files.read(bed.secret_file):match "%S+")
    local gateways = bed:start_all(2, { fleet = ("secret_file = %q"):format(path) })
    local answers = keep_requesting(gateways, "rolling/image", 8, function(count)
      bed:write_secret("changing", OTHER_SECRET)
      for _, one in ipairs(gateways) do
        local before = count()
        reload(one)
        gateway_bed.await("more answers", function() return count() > before + 20 end)
      end
    end)
    assert.same({ [200] = #answers }, load.count(answers))
    bed.stub:reset()
    request_from_each(gateways, "rolling/last")
    local _, total = bed:count_fetches()
    assert.equal(1, total)
    assert.equal(0, fleet_bed.sum_metric(gateways, "icptoken_fleet_invalid_total"))
  end)

  it("works beside a version with other records #deep", function()
    -- this gateway is a copy with another version number
    local directory = bed.redis.dir .. "/lua"
    assert(os.execute("mkdir -p " .. directory .. "/icptoken/gateway"))
    local source = files.read "lua/icptoken/gateway/fleet_records.lua"
    local changed, count = source:gsub('"icptoken:1:"', '"icptoken:2:"')
    assert.equal(1, count)
    files.write(directory .. "/icptoken/gateway/fleet_records.lua", changed)
    local old = bed:start()
    local new = bed:start { gateway = ([[x = (function() package.path = "%s/?.lua;" .. package.path end)()]])
      :format(directory) }
    local answers = keep_requesting({ old, new }, "versions/image", 8, function(answered)
      gateway_bed.await("answers", function() return answered() > 40 end)
    end)
    assert.same({ [200] = #answers }, load.count(answers))
    bed:await_no_leases()
    local prefixes = {}
    bed:each_record(function(name) prefixes[name:match "^icptoken:%d:"] = true end)
    assert.same({ ["icptoken:1:"] = true, ["icptoken:2:"] = true }, prefixes)
    assert.equal(0, fleet_bed.sum_metric({ old, new }, "icptoken_fleet_invalid_total"))
  end)
end)

-- One worker each, whose wall clock a location moves (clock_shift.c).
describe("gateways whose clocks differ by hours", function()
  local HOUR, KEYS = 3600, 30
  local SHIFT = [[
    location = /shift {
      content_by_lua_block {
        local ffi = require "ffi"
        ffi.cdef "void clock_shift_set(const double *, bool);"
        ffi.C.clock_shift_set(ffi.new("double[3]", tonumber(ngx.var.arg_wall), 0, 0), false)
        ngx.update_time()
      }
    }
  ]]

  it("share tokens as others do, and log the difference once", function()
    local gateways = {}
    testkit.setenv("LD_PRELOAD", "build/clock_shift.so")
    local ok, problem = pcall(function()
      gateways = bed:start_all(3, { workers = 1, locations = gateway_probe.LOCATIONS .. SHIFT })
    end)
    testkit.unsetenv "LD_PRELOAD"
    assert(ok, problem)
    for i, seconds in ipairs { -HOUR, 0, HOUR } do
      assert.equal(200, load.request(gateways[i].port, { target = "/shift?wall=" .. seconds }).status)
    end
    -- a gateway learns that its clock is wrong from the first token that it requests itself
    local function run(prefix, keys)
      local answers = bed:run(keys * 3, function(i) return gateways[1 + i % 3].port end, function(i)
        return bed:request(prefix .. math.ceil(i / 3))
      end, 12)
      assert.same({ [200] = keys * 3 }, load.count(answers))
    end
    for i, one in ipairs(gateways) do load.request(one.port, bed:request("clocks/own" .. i)) end
    bed.stub:reset()
    run("clocks/image", KEYS)
    local counts, total = bed:count_fetches()
    for name, fetches in pairs(counts) do assert.equal(1, fetches, name) end
    assert.equal(KEYS, total)
    for i, one in ipairs(gateways) do
      local _, lines = one:log():gsub("the clock of this machine", "")
      assert.equal(i == 2 and 0 or 1, lines)
    end
  end)
end)

describe("a gateway without the option", function()
  it("loads no file of a fleet, and has no metrics of one", function()
    local LOADED = [[
      location = /loaded {
        content_by_lua_block {
          for name in pairs(package.loaded) do ngx.print(name, "\n") end
        }
      }
    ]]
    local OF_FLEET = { "fleet", "lease", "redis", "sharing", "breaker", "sentinel", "resp", "private_file" }
    local function list_loaded(options)
      options.locations = gateway_probe.LOCATIONS .. LOADED
      local server = bed:start(options)
      assert.equal(200, load.request(server.port, bed:request "loaded/image").status)
      local text = load.request(server.port, { target = "/loaded" }).body
      local found = {}
      for _, word in ipairs(OF_FLEET) do
        if text:find("icptoken.gateway." .. word, 1, true) then found[#found + 1] = word end
      end
      return found, load.request(server.port, { target = "/metrics" }).body
    end
    local found, metrics = list_loaded { fleet = false }
    assert.same({}, found)
    assert.is_nil(metrics:find "fleet" or metrics:find "redis")
    -- the control
    found, metrics = list_loaded {}
    assert.same(OF_FLEET, found)
    assert.is_truthy(metrics:find "fleet" and metrics:find "redis")
  end)
end)
