-- Finds out who has most: items with a field `count`, grouped by it, so that changing a count by one, and finding an
-- item with the greatest count, take the same time however many there are. While a queue is full, each request does
-- that.

local crowds = {}
local crowds_methods = {}
local crowds_meta = { __index = crowds_methods }

--- Returns an empty set of items.
function crowds.new()
  return setmetatable({ groups = {}, greatest = 0 }, crowds_meta)
end

local function take_out(self, item)
  local group = self.groups[item.count]
  local last = group[#group]
  group[item.position], last.position = last, item.position
  group[#group] = nil
end

local function put_in(self, item)
  local group = self.groups[item.count] or {}
  self.groups[item.count] = group
  group[#group + 1] = item
  item.position = #group
  self.greatest = math.max(self.greatest, item.count)
end

--- Changes the count of an item by 1 or -1. Those with a count of 0 are not in the set.
function crowds_methods:change(item, change)
  if item.count > 0 then take_out(self, item) end
  item.count = item.count + change
  if item.count > 0 then put_in(self, item) end
  while self.greatest > 0 and #(self.groups[self.greatest] or "") == 0 do
    self.groups[self.greatest] = nil
    self.greatest = self.greatest - 1
  end
end

--- Returns an item with the greatest count, or nil if there is none.
function crowds_methods:get_greatest()
  local group = self.groups[self.greatest]
  return group and group[#group]
end

return crowds
