-- Where requests wait before they are answered. It counts them, so that a spec can tell how many a client has in
-- progress, and an order can hold answers back until a number of requests have arrived, however long that takes a slow
-- machine.

local cqueues = require "cqueues"
local condition = require "cqueues.condition"

local gate_methods = {}
local gate_meta = { __index = gate_methods }

local function complete(group)
  group.is_complete = true
  group.completed:signal()
end

-- Waits until `count` requests whose orders have that number are here.
local function wait_for_others(self, count)
  local group = self.groups[count]
  if not group then
    group = { arrived = 0, is_complete = false, completed = condition.new() }
    self.groups[count] = group
  end
  group.arrived = group.arrived + 1
  if group.arrived >= count then
    self.groups[count] = nil
    complete(group)
  end
  while not group.is_complete do
    group.completed:wait()
  end
end

--- Waits as long as the order says. Sets request.waiting to the number of requests that wait then, including this one.
function gate_methods:pass(request, order)
  self.waiting = self.waiting + 1
  request.waiting = self.waiting
  if order.together then
    wait_for_others(self, order.together)
  end
  if order.delay.before then
    cqueues.sleep(order.delay.before)
  end
  self.waiting = self.waiting - 1
end

--- Releases all requests that wait for others.
function gate_methods:open()
  for _, group in pairs(self.groups) do
    complete(group)
  end
  self.groups = {}
end

return {
  new = function() return setmetatable({ waiting = 0, groups = {} }, gate_meta) end,
}
