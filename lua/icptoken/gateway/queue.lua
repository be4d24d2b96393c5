-- The flights of a worker that wait for a runner, in three classes:
--   known     somebody waits for them, and their credential has had a token recently;
--   unknown   somebody waits for them, and their credential has not: it may be anything that a stranger made up;
--   renewals  of tokens that are still good (flights with a field renewed_end).
-- Known flights go first. Unknown ones have at most half of the runners, and their clients take turns, so that nobody
-- gets more by asking more often. Renewals go last. But whenever none of the renewals is with a runner, and the flight
-- taken before was something else, one of them goes first; and so for the unknown ones: whatever the load, they go on.
-- In its class, and for unknown ones among those of its client, a flight is served first in, first out.
--
-- A renewal that somebody came to wait for is added once more, as a known one, and its old position is void: a flight's
-- field `list` names the list where its true position is.

local clock = require "icptoken.gateway.clock"

local now = clock.now

local queue = {}
local queue_methods = {}
local queue_meta = { __index = queue_methods }

-- After a sweep that freed nothing, the next one waits this long for each flight examined.
local SWEEP_PAUSE_SECONDS = 2e-6
-- The weight of the last flight in the mean time that a class's flights occupy a runner, and after how many that mean
-- says something.
local CYCLE_WEIGHT, MIN_CYCLES = 1 / 8, 16

local function new_list()
  return { first = 1, last = 0, count = 0 }
end

-- Puts a flight into a list, at its front or at its back.
local function insert(list, flight, is_first)
  if is_first then
    list.first = list.first - 1
    list[list.first] = flight
  else
    list.last = list.last + 1
    list[list.last] = flight
  end
  list.count = list.count + 1
  flight.list = list
end

local function detach(flight)
  flight.list.count = flight.list.count - 1
  flight.list = nil
end

-- Takes out the first flight, or nil.
local function pop_first(list)
  while list.first <= list.last do
    local flight = list[list.first]
    list[list.first] = nil
    list.first = list.first + 1
    if flight.list == list then
      detach(flight)
      return flight
    end
  end
end

-- Takes out the last flight, or nil.
local function pop_last(list)
  while list.first <= list.last do
    local flight = list[list.last]
    list[list.last] = nil
    list.last = list.last - 1
    if flight.list == list then
      detach(flight)
      return flight
    end
  end
end

-- A class: how many flights wait, how many are with runners, how many were, and how long one occupies a runner.
local function new_class()
  return { waiting = 0, running = 0, cycles = 0, cycle = 0 }
end

--- An empty one. metrics: where the known and unknown ones are counted. runners: how many there may be.
function queue.new(metrics, runners)
  return setmetatable({ metrics = metrics, runners = runners, known_list = new_list(), renewals = new_list(),
    by_client = {}, ring = {}, ring_first = 1, ring_last = 0, sweep_at = 0, last_taken = nil,
    known = new_class(), unknown = new_class(), renewal = new_class() }, queue_meta)
end

local function get_class_name(flight)
  return flight.renewed_end and "renewal" or flight.client and "unknown" or "known"
end

local function count_waiting(self, class_name, change)
  self[class_name].waiting = self[class_name].waiting + change
  if class_name ~= "renewal" then self.metrics:add("queued", nil, change) end
end

-- The list of a client, which has a turn in the ring.
local function get_client_list(self, client, is_first)
  local list = self.by_client[client]
  if list then return list end
  list = new_list()
  list.client = client
  self.by_client[client] = list
  if is_first then
    self.ring_first = self.ring_first - 1
    self.ring[self.ring_first] = list
  else
    self.ring_last = self.ring_last + 1
    self.ring[self.ring_last] = list
  end
  return list
end

local function put(self, flight, is_first)
  if flight.list then
    detach(flight)
    count_waiting(self, flight.class, -1)
  end
  flight.class = get_class_name(flight)
  count_waiting(self, flight.class, 1)
  local list = self.renewals
  if flight.class == "known" then list = self.known_list end
  if flight.class == "unknown" then list = get_client_list(self, flight.client, is_first) end
  insert(list, flight, is_first)
end

--- Adds a flight behind those of its class, or, if it is unknown (it has a field client, which names who waits for
-- it), behind those of its client.
function queue_methods:add(flight)
  put(self, flight, false)
end

--- Adds a flight before the others of its class or client.
function queue_methods:add_first(flight)
  put(self, flight, true)
end

-- The next client's first flight. A client that has another one goes behind all others.
local function pop_unknown(self)
  while self.ring_first <= self.ring_last do
    local list = self.ring[self.ring_first]
    self.ring[self.ring_first] = nil
    self.ring_first = self.ring_first + 1
    local flight = pop_first(list)
    if list.count > 0 then
      self.ring_last = self.ring_last + 1
      self.ring[self.ring_last] = list
    else
      self.by_client[list.client] = nil
    end
    if flight then return flight end
  end
end

local function get_unknown_runners(self)
  return math.max(1, math.floor(self.runners / 2))
end

-- Whether a class has to go on although others go before it.
local function is_overdue(self, class_name)
  local class = self[class_name]
  return class.waiting > 0 and class.running == 0 and self.last_taken ~= class_name
end

-- Which class is next, or nil.
local function choose_class(self)
  if is_overdue(self, "renewal") then return "renewal" end
  if is_overdue(self, "unknown") then return "unknown" end
  if self.known.waiting > 0 then return "known" end
  if self.unknown.waiting > 0 and self.unknown.running < get_unknown_runners(self) then return "unknown" end
  return self.renewal.waiting > 0 and "renewal" or nil
end

--- Whether there is a flight that a runner may take now.
function queue_methods:has_next()
  return choose_class(self) ~= nil
end

--- Takes out the next flight for a runner, which must pass it to `finish`; or nil.
function queue_methods:take()
  local class_name = choose_class(self)
  if not class_name then return nil end
  local flight
  if class_name == "unknown" then
    flight = pop_unknown(self)
  else
    flight = pop_first(class_name == "known" and self.known_list or self.renewals)
  end
  self.last_taken = class_name
  count_waiting(self, class_name, -1)
  local class = self[class_name]
  class.running = class.running + 1
  flight.taken_as = class_name
  return flight
end

--- A runner is done with a flight that it took. seconds: how long the flight occupied it; nil where that says nothing
-- about the others.
function queue_methods:finish(flight, seconds)
  local class = self[flight.taken_as]
  class.running = class.running - 1
  if not seconds then return end
  class.cycles = class.cycles + 1
  class.cycle = class.cycle + (seconds - class.cycle) * math.max(CYCLE_WEIGHT, 1 / class.cycles)
end

--- How many flights wait that somebody waits for.
function queue_methods:count_cold()
  return self.known.waiting + self.unknown.waiting
end

--- How many renewals are queued.
function queue_methods:count_renewals()
  return self.renewal.waiting
end

-- How many unknown flights go before one more of a client.
local function count_before(self, client)
  local list = self.by_client[client]
  local clients = self.ring_last - self.ring_first + 1
  local own = list and list.count or 0
  return math.min(self.unknown.waiting, (own + 1) * clients)
end

--- The seconds that one more flight would wait for a runner, as far as can be told.
function queue_methods:estimate_wait(flight)
  local is_unknown = flight.client ~= nil
  local class = is_unknown and self.unknown or self.known
  if class.waiting == 0 or class.cycles < MIN_CYCLES then return 0 end
  if is_unknown then return count_before(self, flight.client) * class.cycle / get_unknown_runners(self) end
  return class.waiting * class.cycle / math.max(1, self.runners - self.unknown.running)
end

-- Takes the flights that nobody waits for out of a list; each goes to forget. Returns how many they were.
local function sweep_list(list, is_present, forget)
  local last, swept = list.first - 1, 0
  for i = list.first, list.last do
    local flight = list[i]
    list[i] = nil
    if flight.list == list and not is_present(flight) then
      detach(flight)
      forget(flight)
      swept = swept + 1
    elseif flight.list == list then
      last = last + 1
      list[last] = flight
    end
  end
  list.last = last
  return swept
end

--- Takes out the flights that nobody waits for, each of which goes to forget, unless that was done in vain just now.
function queue_methods:sweep(is_present, forget)
  if now() < self.sweep_at then return end
  local known = sweep_list(self.known_list, is_present, forget)
  local unknown = 0
  -- A client's list that is empty now keeps its turn, and is dropped then.
  for _, list in pairs(self.by_client) do unknown = unknown + sweep_list(list, is_present, forget) end
  count_waiting(self, "known", -known)
  count_waiting(self, "unknown", -unknown)
  if known + unknown == 0 then self.sweep_at = now() + self:count_cold() * SWEEP_PAUSE_SECONDS end
end

local function find_longest(self)
  local longest
  for _, list in pairs(self.by_client) do
    if not longest or list.count > longest.count then longest = list end
  end
  return longest
end

-- Takes out the last flight of the client with most, if that has more than a new flight's client would have; or nil.
local function displace(self, flight)
  local longest = find_longest(self)
  if not longest or longest.count == 0 then return nil end
  local own = flight.client and self.by_client[flight.client]
  if flight.client and longest.count <= (own and own.count or 0) + 1 then return nil end
  count_waiting(self, "unknown", -1)
  return pop_last(longest)
end

--- Makes room for a flight where so many may wait: one that is known, or whose client has fewer, takes the position of
-- an unknown one of the client that has most, which is passed to refuse. Returns whether there is room.
function queue_methods:make_room(flight, limit, refuse)
  if self:count_cold() < limit then return true end
  local displaced = displace(self, flight)
  if displaced then refuse(displaced) end
  return displaced ~= nil
end

return queue
