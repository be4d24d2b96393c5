-- nginx's timers: what the log advises when nginx refuses one, and loops that survive an error.

local gateway_bed = require "support.gateway_bed"
local load = require "support.load"

describe("a timer", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)

  it("that is one too many is logged with the directive to change", function()
    local gate = bed:start { workers = 1, servers = "lua_max_pending_timers 1;" }
    gateway_bed.await("the line", function()
      return gate:log():find("cannot start a timer to prepare threads: too many pending timers, raise "
        .. "lua_max_pending_timers", 1, true)
    end)
    gate:stop()
  end)

  it("that nginx refuses for another reason is logged with that reason alone", function()
    local gate = bed:start { workers = 1, locations = [[
      location = /refuse {
        content_by_lua_block {
          -- "process exiting": a timer with a delay, in a worker that exits
          require("icptoken.gateway.timers").log_refusal("probe the endpoint", "process exiting")
        }
      }]] }
    assert.equal(200, load.request(gate.port, { target = "/refuse" }).status)
    assert.matches("icptoken: cannot start a timer to probe the endpoint: process exiting[^\n]*", gate:log())
    assert.is_nil(gate:log():find("lua_max_pending_timers", 1, true))
    gate:stop()
  end)

  it("of a loop goes on after an error, and the log says what it was doing", function()
    local gate = bed:start { workers = 1, locations = [[
      location = /loop {
        content_by_lua_block {
          local timers = require "icptoken.gateway.timers"
          local rounds, done = {}, require("ngx.semaphore").new(0)
          local loop = timers.new_loop("counting", function(list)
            list[#list + 1] = true
            if #list == 1 then error "the first round" end
            if #list == 3 then done:post() end
            return #list < 3 and 0.001
          end, rounds)
          ngx.say(loop:ensure(), loop:ensure(), done:wait(60), #rounds)
        }
      }]] }
    assert.equal("truetruetrue3\n", load.request(gate.port, { target = "/loop" }).body)
    assert.equal(1, select(2, gate:log():gsub("internal error while counting: [^\n]*the first round", "")))
    gate:stop()
  end)
end)
