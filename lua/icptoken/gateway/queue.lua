-- The flights of a worker that wait for a runner: cold ones, which somebody waits for, first in, first out; and behind
-- all of them renewals (those with a field renewed_end).
--
-- A renewal that somebody came to wait for is added once more, as a cold one, and its old place is void: a flight's
-- field `list` names the list where its true place is.

local clock = require "icptoken.gateway.clock"

local now = clock.now

local queue = {}
local queue_methods = {}
local queue_meta = { __index = queue_methods }

-- Looking in vain for places to free is not done again for so long for each flight that was looked at.
local SWEEP_PAUSE_SECONDS = 2e-6

local function new_list()
  return { first = 1, last = 0 }
end

local function pop(list)
  if list.first > list.last then return nil end
  local flight = list[list.first]
  list[list.first] = nil
  list.first = list.first + 1
  return flight
end

--- An empty one. metrics: where the cold ones are counted.
function queue.new(metrics)
  return setmetatable({ metrics = metrics, cold = new_list(), renewals = new_list(), cold_count = 0, sweep_at = 0 },
    queue_meta)
end

local function count(self, change)
  self.cold_count = self.cold_count + change
  self.metrics:add("queued", nil, change)
end

--- Adds a flight behind those of its kind.
function queue_methods:add(flight)
  local list = flight.renewed_end and self.renewals or self.cold
  if list == self.cold then count(self, 1) end
  list.last = list.last + 1
  list[list.last], flight.list = flight, list
end

--- Adds a cold flight before all others, or a renewal before all other renewals.
function queue_methods:add_first(flight)
  local list = flight.renewed_end and self.renewals or self.cold
  if list == self.cold then count(self, 1) end
  list.first = list.first - 1
  list[list.first], flight.list = flight, list
end

local function take_from(self, list)
  local flight
  repeat flight = pop(list) until not flight or flight.list == list
  if not flight then return nil end
  flight.list = nil
  if list == self.cold then count(self, -1) end
  return flight
end

--- Takes out the next flight, or gives nil.
function queue_methods:take()
  return take_from(self, self.cold) or take_from(self, self.renewals)
end

-- Takes out the cold flights that nobody waits for, each of which goes to forget.
local function sweep(self, is_awaited, forget)
  local list, last = self.cold, self.cold.first - 1
  for i = list.first, list.last do
    local flight = list[i]
    list[i] = nil
    if is_awaited(flight) then
      last = last + 1
      list[last] = flight
    else
      flight.list = nil
      forget(flight)
    end
  end
  local swept = list.last - last
  list.last = last
  count(self, -swept)
  if swept == 0 then self.sweep_at = now() + self.cold_count * SWEEP_PAUSE_SECONDS end
end

--- Whether so many cold flights are queued, after those that nobody waits for any more have been passed to forget and
-- taken out.
function queue_methods:is_full(limit, is_awaited, forget)
  if self.cold_count >= limit and now() >= self.sweep_at then sweep(self, is_awaited, forget) end
  return self.cold_count >= limit
end

--- How many renewals are queued; void places count.
function queue_methods:count_renewals()
  return self.renewals.last - self.renewals.first + 1
end

return queue
