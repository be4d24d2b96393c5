-- What a worker sends to Redis without waiting for it: the results of token requests, and leases that are no longer
-- needed. A timer sends what has come together, so neither a runner nor a client's request waits.

local timers = require "icptoken.gateway.timers"

local outbox = {}
local outbox_methods = {}
local outbox_meta = { __index = outbox_methods }

-- Sends the calls that have been collected. While Redis fails they are dropped: leases expire, and a token that is not
-- in Redis costs one request more.
local function send(self)
  while #self.calls > 0 do
    local calls = self.calls
    self.calls = {}
    self.server:send_all(calls)
  end
end

--- Returns an empty outbox. server: see redis.lua.
function outbox.new(server)
  local self = setmetatable({ server = server, calls = {} }, outbox_meta)
  self.loop = timers.new_loop("sharing results with other gateways", send, self)
  return self
end

--- Sends a call { script, key_count, ... } soon. Does not wait.
function outbox_methods:add(call)
  self.calls[#self.calls + 1] = call
  self.loop:ensure()
end

return outbox
