-- A dict that is too small causes more token requests, but no request fails or gets a wrong token.

local clock = require "icptoken.gateway.clock"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"

local CLIENTS, WORKERS = 50, 2

local bed

setup(function() bed = gateway_bed.open() end)
teardown(function() gateway_bed.close(bed) end)
before_each(function() bed.stub:reset() end)

-- Requests for this many repositories in random order; each must be answered with its own token.
local function assert_served(server, requests, repositories)
  math.randomseed(6)
  local chosen = {}
  local answers = load.run(server.port, requests, function(i)
    chosen[i] = "small/dict" .. math.random(repositories)
    return bed:request("/v2/" .. chosen[i] .. "/manifests/latest")
  end, CLIENTS, true)
  assert.same({ [200] = requests }, load.count(answers))
  for i, answer in ipairs(answers) do
    assert.equal("repository:" .. chosen[i] .. ":pull", gateway_bed.read_scopes(answer))
  end
end

describe("a dict", function()
  it("that is full evicts tokens, and counts that", function()
    local server = bed:start { dict = "64k", gateway = "timeout = 300" }
    assert_served(server, 3000, 300)
    assert.is_true(#bed.stub:requests() > 300)
    assert.is_true(gateway_probe.read_metric(server.port, "icptoken_evictions_total") > 0)
    assert.is_nil(server:log():match "[^\n]*icptoken: [^\n]*")
  end)

  it("keeps tokens that are not used, however many refusals have expired since", function()
    local TOKENS, REFUSALS = 30, 30000 -- of 128 bytes each
    local server = bed:start { dict = "1m", locations = ([[
      location = /refuse {
        content_by_lua_block {
          for i = 1, %d do
            gateway.store:put_refusal(("%%032d"):format(i), { code = "unauthorized" }, 0.02)
            if i %% 50 == 0 then ngx.sleep(0.001) end
          end
        }
      }
    ]]):format(REFUSALS) }
    local function use_all()
      local answers = load.run(server.port, TOKENS, function(i)
        return bed:request("/v2/idle/image" .. i .. "/manifests/latest")
      end)
      assert.same({ [200] = TOKENS }, load.count(answers))
    end
    use_all()
    assert.equal(200, load.request(server.port, { target = "/refuse" }).status)
    use_all()
    assert.equal(TOKENS, #bed.stub:requests())
    assert.equal(0, gateway_probe.read_metric(server.port, "icptoken_evictions_total"))
  end)

  it("in which no token fits causes one token request for each request, and one line in a minute", function()
    local server = bed:start { dict = "12k", workers = WORKERS }
    bed.stub:plan { claims = { padding = ("x"):rep(8192) }, times = "forever" }
    local began_at = clock.now()
    assert_served(server, 300, 30)
    local _, count = server:log():gsub("tokens do not fit into lua_shared_dict 'icptoken' %(no memory%), that of key "
      .. "%x%x%x%x%x%x%x%x for one, so each of their requests fetches another: make the dict larger", "")
    local minutes = math.floor((clock.now() - began_at) / 60) + 1
    assert.is_true(count >= 1 and count <= WORKERS * minutes, count)
  end)
end)
