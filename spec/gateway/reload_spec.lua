-- nginx reloads its configuration repeatedly while requests wait for tokens.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"

local RELOADS = 6
local WORKERS = 2
local CLIENTS = 24
-- How many requests, one after the other, need the same token.
local SHARERS = 4
-- How long the endpoint takes for a token.
local DELAY = 0.1

local bed, server

setup(function()
  bed = gateway_bed.open()
  server = bed:start { locations = gateway_probe.LOCATIONS, workers = WORKERS }
end)
teardown(function() gateway_bed.close(bed) end)

local function name_repository(i)
  return "shared/image" .. math.ceil(i / SHARERS)
end

-- Requests one new repository after the other, from many clients at once, until body(count) has returned; count()
-- returns how many were answered. Returns the answers.
local function keep_asking(body)
  local answers, answered, next_index, is_over = {}, 0, 1, false
  local function ask()
    while not is_over do
      local i = next_index
      next_index = i + 1
      answers[i] = load.perform(server.port, bed:request("/v2/" .. name_repository(i) .. "/manifests/latest"))
      answered = answered + 1
    end
  end
  local tasks = { function()
    body(function() return answered end)
    is_over = true
  end }
  for i = 1, CLIENTS do tasks[i + 1] = ask end
  load.together(unpack(tasks))
  return answers
end

local function await_new_workers(old)
  local is_old = {}
  for _, pid in ipairs(old) do is_old[pid] = true end
  gateway_bed.await("new workers", function()
    local new = 0
    for _, pid in ipairs(server:workers()) do new = new + (is_old[pid] and 0 or 1) end
    return new == WORKERS
  end)
end

describe("nginx -s reload under load", function()
  it("fails no request, causes no second token request, and leaves no old worker", function()
    bed.stub:plan { delay = { before = DELAY }, times = "forever" }
    local answers = keep_asking(function(count)
      for _ = 1, RELOADS do
        local before, old = count(), server:workers()
        server:reload()
        await_new_workers(old)
        gateway_bed.await("answers of the new workers", function() return count() > before + 2 * CLIENTS end)
      end
    end)
    assert.same({ [200] = #answers }, load.count(answers))
    for i, answer in ipairs(answers) do
      assert.equal("repository:" .. name_repository(i) .. ":pull", gateway_bed.read_scopes(answer))
    end
    assert.equal(math.ceil(#answers / SHARERS), #bed.stub:requests())
    gateway_bed.await("the old workers' end", function() return #server:workers() == WORKERS end)
    assert.is_nil(server:log():match "[^\n]*%[alert%][^\n]*" or server:log():match "[^\n]*%[error%][^\n]*")
  end)
end)
