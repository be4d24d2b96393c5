-- A sliding window of the times that the token endpoint's answers took, and its quantiles.

local latency = {}
local latency_methods = {}
local latency_meta = { __index = latency_methods }

local WINDOW = 64
-- With fewer answers there are no quantiles.
local MIN_ANSWERS = 8
-- The window is sorted again after this many answers.
local SORT_EVERY = 8

--- Returns an empty window.
function latency.new()
  return setmetatable({ window = {}, position = 0, sorted = nil, age = 0 }, latency_meta)
end

--- Adds the seconds that an answer took.
function latency_methods:add(seconds)
  self.position = self.position % WINDOW + 1
  self.window[self.position] = seconds
  self.age = self.age + 1
  if #self.window < MIN_ANSWERS or self.sorted and self.age < SORT_EVERY then return end
  self.sorted, self.age = { unpack(self.window) }, 0
  table.sort(self.sorted)
end

--- Returns the seconds within which this share (0 to 1) of the recent answers came, or nil if too few are known.
function latency_methods:quantile(share)
  local sorted = self.sorted
  return sorted and sorted[math.max(1, math.ceil(share * #sorted))]
end

return latency
