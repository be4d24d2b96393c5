-- The flights of a worker that wait for a runner, in four classes:
--   known     token requests for which a client waits, and whose credential has had a token recently
--   login     logins for which a client waits, with such a credential
--   unknown   both, with any other credential: it may be made up (with a client_address)
--   renewal   of a token that is still valid (with a renewed_until)
-- Known flights go first, then logins, then unknown ones, and renewals last. Logins and unknown flights together have
-- at most half of the runners: neither strangers nor an identity provider that hangs occupy the others. But if no
-- flight of a class is with a runner, it goes before known ones in every second turn: so under any load all make
-- progress.
--
-- Within a class the owners of the flights take turns, so nobody gains by sending more requests. An unknown flight is
-- owned by its client (by address), known ones and logins by credential and client together, as all clients may have
-- one credential, and renewals by their credential. Flights of one owner are served first in, first out.
--
-- A renewal that a request has joined is added again, as a known flight, and its old position becomes void: the field
-- `list` of a flight names the list in which its position is valid.

local clock = require "icptoken.gateway.clock"
local crowds = require "icptoken.gateway.crowds"

local now = clock.now

local queue = {}
local queue_methods = {}
local queue_meta = { __index = queue_methods }

-- After a sweep that freed nothing, the next one waits this many times as long as it took.
local SWEEP_PAUSE_FACTOR = 9
-- The weight of the latest flight in the mean time that flights of a class occupy a runner, and the number of flights
-- from which on the mean is used.
local CYCLE_WEIGHT, MIN_CYCLES = 1 / 8, 16

-- The flights of an owner. crowd: the set of the lists of its class.
local function new_list(owner, crowd)
  return { owner = owner, crowd = crowd, first = 1, last = 0, count = 0 }
end

-- Inserts a flight at the front or at the back of a list.
local function insert(list, flight, is_first)
  if is_first then
    list.first = list.first - 1
    list[list.first] = flight
  else
    list.last = list.last + 1
    list[list.last] = flight
  end
  list.crowd:change(list, 1)
  flight.list = list
end

local function detach(flight)
  flight.list.crowd:change(flight.list, -1)
  flight.list = nil
end

-- Takes out and returns the first flight of a list, or the last one; or nil.
local function pop(list, is_last)
  while list.first <= list.last do
    local position = is_last and list.last or list.first
    local flight = list[position]
    list[position] = nil
    if is_last then list.last = position - 1 else list.first = position + 1 end
    if flight.list == list then
      detach(flight)
      return flight
    end
  end
end

local function get_owner(flight)
  return flight.client_address or flight.known_client or flight.credential_key
end

-- A class: the lists of its owners, by owner and by length, and the order of their turns; how many flights wait and how
-- many are with runners; how many have been, and the mean seconds that one occupies a runner; and when it had its last
-- turn.
local function new_class()
  return { by_owner = {}, crowd = crowds.new(), ring = {}, ring_first = 1, ring_last = 0, waiting = 0, running = 0,
    cycles = 0, cycle = 0, turn = 0 }
end

--- Returns an empty queue. metrics: where the flights are counted for which clients wait. runners: how many there may
-- be.
function queue.new(metrics, runners)
  return setmetatable({ metrics = metrics, runners = runners, sweep_at = 0, turns = 0, was_overdue = false,
    known = new_class(), login = new_class(), unknown = new_class(), renewal = new_class() }, queue_meta)
end

local function choose_class_name(flight)
  if flight.renewed_until then return "renewal" end
  if flight.client_address then return "unknown" end
  return flight.is_login and "login" or "known"
end

local function count_waiting(self, class_name, change)
  self[class_name].waiting = self[class_name].waiting + change
  if class_name ~= "renewal" then self.metrics:add("queued", nil, change) end
end

-- Returns the list of an owner. A new one gets a turn at the front or at the back of the ring.
local function get_list(class, owner, is_first)
  local list = class.by_owner[owner]
  if list then return list end
  list = new_list(owner, class.crowd)
  class.by_owner[owner] = list
  if is_first then
    class.ring_first = class.ring_first - 1
    class.ring[class.ring_first] = list
  else
    class.ring_last = class.ring_last + 1
    class.ring[class.ring_last] = list
  end
  return list
end

local function put(self, flight, is_first)
  if flight.list then
    detach(flight)
    count_waiting(self, flight.queued_as, -1)
  end
  flight.queued_as = choose_class_name(flight)
  -- the metrics do not tell logins apart
  flight.class = flight.queued_as == "login" and "known" or flight.queued_as
  count_waiting(self, flight.queued_as, 1)
  insert(get_list(self[flight.queued_as], get_owner(flight), is_first), flight, is_first)
  flight.state = "queued"
end

--- Adds a flight behind those of its class and owner.
function queue_methods:add(flight)
  put(self, flight, false)
end

--- Adds a flight in front of the others of its class and owner.
function queue_methods:add_first(flight)
  put(self, flight, true)
end

-- Takes out and returns the first flight of the owner whose turn it is, or nil. An owner with more flights goes to the
-- back of the ring.
local function pop_next(class)
  while class.ring_first <= class.ring_last do
    local list = class.ring[class.ring_first]
    class.ring[class.ring_first] = nil
    class.ring_first = class.ring_first + 1
    local flight = pop(list)
    if list.count > 0 then
      class.ring_last = class.ring_last + 1
      class.ring[class.ring_last] = list
    else
      class.by_owner[list.owner] = nil
    end
    if flight then return flight end
  end
end

-- Returns how many runners logins and unknown flights may have together.
local function get_shared_runners(self)
  return math.max(1, math.floor(self.runners / 2))
end

-- Returns whether a flight of a class may be taken now, if none has priority.
local function is_eligible(self, class_name)
  if self[class_name].waiting == 0 then return false end
  local is_sharing = class_name == "login" or class_name == "unknown"
  return not is_sharing or self.login.running + self.unknown.running < get_shared_runners(self)
end

-- The classes that must not wait for known flights for ever, and all of them, in the order of their priority.
local OTHERS, ALL = { "renewal", "unknown", "login" }, { "known", "login", "unknown", "renewal" }

-- Returns the class that must be served now although known flights have priority, or nil: of those none of whose
-- flights is with a runner, the one whose last turn was the longest ago.
local function find_overdue(self)
  if self.was_overdue and self.known.waiting > 0 then return nil end
  local found
  for _, class_name in ipairs(OTHERS) do
    local class = self[class_name]
    if class.running == 0 and is_eligible(self, class_name) and (not found or class.turn < self[found].turn) then
      found = class_name
    end
  end
  return found
end

-- Returns the class that is next, or nil; and whether it is overdue.
local function choose_class(self)
  local overdue = find_overdue(self)
  if overdue then return overdue, true end
  for _, class_name in ipairs(ALL) do
    if is_eligible(self, class_name) then return class_name, false end
  end
end

--- Returns whether there is a flight that a runner may take now.
function queue_methods:has_next()
  return choose_class(self) ~= nil
end

--- Takes out the next flight for a runner, which must pass it to `finish` later. Returns it, or nil.
function queue_methods:take()
  local class_name, is_overdue = choose_class(self)
  if not class_name then return nil end
  local class = self[class_name]
  local flight = pop_next(class)
  self.turns, self.was_overdue = self.turns + 1, is_overdue
  class.turn = self.turns
  count_waiting(self, class_name, -1)
  class.running = class.running + 1
  flight.taken_as, flight.state = class_name, "running"
  return flight
end

--- Notes that a runner no longer serves a flight that it took. seconds: how long the flight occupied it; nil if it was
-- not served, so that this says nothing about others.
function queue_methods:finish(flight, seconds)
  local class = self[flight.taken_as]
  class.running = class.running - 1
  if not seconds then return end
  class.cycles = class.cycles + 1
  class.cycle = class.cycle + (seconds - class.cycle) * math.max(CYCLE_WEIGHT, 1 / class.cycles)
end

--- Returns how many flights are queued for which requests wait.
function queue_methods:count_cold()
  return self.known.waiting + self.login.waiting + self.unknown.waiting
end

-- Returns how many flights of a class and an owner are queued.
local function count_of(class, owner)
  local list = class.by_owner[owner]
  return list and list.count or 0
end

--- Returns how many unknown flights of a client are queued.
function queue_methods:count_of(address)
  return count_of(self.unknown, address)
end

--- Returns how many renewals are queued.
function queue_methods:count_renewals()
  return self.renewal.waiting
end

-- Returns how many flights of a class would be served before one more of an owner.
local function count_before(class, owner)
  local owners = class.ring_last - class.ring_first + 1
  return math.min(class.waiting, (count_of(class, owner) + 1) * owners)
end

--- Estimates the seconds that one more flight would wait for a runner; 0 while too little is known.
function queue_methods:estimate_wait(flight)
  local class_name = choose_class_name(flight)
  local class = self[class_name]
  if class.waiting == 0 or class.cycles < MIN_CYCLES then return 0 end
  local runners = get_shared_runners(self)
  if class_name == "known" then runners = math.max(1, self.runners - self.unknown.running - self.login.running) end
  return count_before(class, get_owner(flight)) * class.cycle / runners
end

-- Removes the flights from a list for which nobody waits, and calls forget for each. Returns how many they were.
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

-- The classes for whose flights requests wait.
local COLD = { "known", "login", "unknown" }

--- Removes the flights for which nobody waits: those for which is_present(flight) is false. Calls forget(flight) for
-- each. Does nothing if a sweep has just found none.
function queue_methods:sweep(is_present, forget)
  local began_at = now()
  if began_at < self.sweep_at then return end
  local total = 0
  for _, class_name in ipairs(COLD) do
    local swept = 0
    -- an owner's list that is empty now is removed when its turn comes
    for _, list in pairs(self[class_name].by_owner) do swept = swept + sweep_list(list, is_present, forget) end
    count_waiting(self, class_name, -swept)
    total = total + swept
  end
  if total == 0 then self.sweep_at = began_at + (1 + SWEEP_PAUSE_FACTOR) * (now() - began_at) end
end

-- Takes out and returns the last flight of the owner that has most in a class, if it has more than `least`; or nil.
local function displace(self, class_name, least)
  local longest = self[class_name].crowd:get_greatest()
  if not longest or longest.count <= least then return nil end
  count_waiting(self, class_name, -1)
  return pop(longest, true)
end

--- Makes room for a flight if `limit` flights wait already. A flight displaces the last one of an owner that has more
-- than its own owner would have, for which refuse(flight) is called; and a known flight or a login first displaces any
-- unknown one. elsewhere: how many flights of its client wait outside the queue. Returns whether there is room.
function queue_methods:make_room(flight, limit, elsewhere, refuse)
  if self:count_cold() < limit then return true end
  local class_name, owner = choose_class_name(flight), get_owner(flight)
  local displaced
  if class_name == "unknown" then
    displaced = displace(self, "unknown", count_of(self.unknown, owner) + elsewhere + 1)
  else
    local least = count_of(self.known, owner) + count_of(self.login, owner) + 1
    displaced = displace(self, "unknown", 0) or displace(self, "login", least) or displace(self, "known", least)
  end
  if displaced then refuse(displaced) end
  return displaced ~= nil
end

return queue
