-- Where requests wait for their answer. It counts them, which shows a spec how many a client has under way, and lets
-- an order hold back answers until so many requests are there: no spec has to guess how long that takes a machine.

local cqueues = require "cqueues"
local condition = require "cqueues.condition"

local gate_methods = {}
local gate_meta = { __index = gate_methods }

local function complete(group)
	group.is_complete = true
	group.completed:signal()
end

-- Until `count` requests whose orders say that number wait here.
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

--- Waits as long as the order says before its answer begins. Notes in request.waiting how many requests wait then,
--- this one included.
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

--- Lets go all that wait for others.
function gate_methods:open()
	for _, group in pairs(self.groups) do
		complete(group)
	end
	self.groups = {}
end

return {
	new = function() return setmetatable({ waiting = 0, groups = {} }, gate_meta) end,
}
