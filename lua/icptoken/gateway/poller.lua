-- Looks after the flights that wait without a runner: watched ones, until the lock that they need is free or their
-- result is in the dict; delayed ones, until it is time for their next attempt; and shared ones, for which it asks the
-- fleet repeatedly. Each gateway has one timer in each worker for that, and another one for shared flights, as a query
-- to Redis takes time. The timers run while there are such flights.

local clock = require "icptoken.gateway.clock"
local crowds = require "icptoken.gateway.crowds"
local log = require "icptoken.gateway.log"
local timers = require "icptoken.gateway.timers"

local now = clock.now

local poller = {}
local poller_methods = {}
local poller_meta = { __index = poller_methods }

local POLL_SECONDS = 0.01
-- Whether clients are still connected is checked this often; it takes a system call for each flight.
local CLIENT_SECONDS = 1
-- The poller pauses for at least this many times as long as its last round took, so it uses a small share of the
-- worker's time however many flights it looks after.
local POLL_PAUSE_FACTOR = 10
-- The fleet is asked for a shared flight after FIRST_ASK_SECONDS, after twice that, and so on, and then every
-- MAX_ASK_SECONDS. Flights that are due within POLL_SECONDS share a query.
local FIRST_ASK_SECONDS, MAX_ASK_SECONDS = 0.02, 0.1

local function get_group_key(flight)
  return flight.awaited_lock .. " " .. (flight.awaited_holder or "")
end

-- Counts a flight with an unknown credential as its client's.
local function count_in(self, flight)
  local address = flight.client_address
  if not address then return end
  local own = self.by_client[address] or { count = 0, flights = {} }
  self.by_client[address] = own
  self.crowd:change(own, 1)
  own.flights[flight] = true
  self.unknown = self.unknown + 1
end

local function count_out(self, flight)
  local own = self.by_client[flight.client_address or ""]
  if not own or not own.flights[flight] then return end
  self.crowd:change(own, -1)
  own.flights[flight] = nil
  if own.count == 0 then self.by_client[flight.client_address] = nil end
  self.unknown = self.unknown - 1
end

local function add(self, flight, set)
  self.waiting[flight], set[flight] = set, true
  count_in(self, flight)
end

local function remove(self, flight)
  local set = self.waiting[flight]
  self.waiting[flight], set[flight] = nil, nil
  if set ~= self.delayed and set ~= self.shared and not next(set) then self.groups[get_group_key(flight)] = nil end
  count_out(self, flight)
end

-- Returns whether a watched flight no longer needs the poller.
local function check_watched(self, flight, is_held)
  if self.rules.drop_unwanted(flight) or self.rules.take_known(flight) then return true end
  if is_held then return false end
  local report = self.roster:get_report(flight)
  if report then
    self.roster:resolve(flight, nil, report)
  else
    self.rules.requeue(flight)
  end
  return true
end

-- Returns whether a shared flight no longer needs the poller, because nobody waits for its result.
local function check_wanted(self, flight)
  return self.rules.drop_unwanted(flight)
end

-- Returns whether a delayed flight no longer needs the poller.
local function check_delayed(self, flight, is_due)
  if self.rules.drop_unwanted(flight) then return true end
  if is_due then self.rules.requeue(flight) end
  return is_due
end

local function check_flight(self, check, flight, ...)
  local ok, is_over = pcall(check, self, flight, ...)
  if not ok then
    log.write(ngx.ERR, "internal error while waiting for a token: " .. tostring(is_over))
    self.roster:resolve(flight, nil, { code = "internal" })
  end
  if not ok or is_over then remove(self, flight) end
end

local function check_group(self, group, is_thorough)
  local is_held = self.roster:is_held((next(group)))
  if not is_thorough and is_held then return end
  for flight in pairs(group) do check_flight(self, check_watched, flight, is_held) end
end

-- One round. Each lock is read once, however many flights wait for it: one client can cause thousands of flights with
-- one credential and many scopes. It is enough to check their results when the lock is free, because the holder writes
-- the result to the dict before it frees the lock.
local function check_all(self)
  local time = now()
  local is_thorough = time >= self.check_at
  if is_thorough then self.check_at = time + CLIENT_SECONDS end
  for _, group in pairs(self.groups) do
    local ok, problem = pcall(check_group, self, group, is_thorough)
    if not ok then log.write(ngx.ERR, "internal error while waiting for a lock: " .. tostring(problem)) end
  end
  for flight in pairs(self.delayed) do
    local is_due = time >= flight.wake_at
    if is_thorough or is_due then check_flight(self, check_delayed, flight, is_due) end
  end
  for flight in pairs(is_thorough and self.shared or {}) do check_flight(self, check_wanted, flight) end
end

-- A round of the loop for all flights.
local function poll(self)
  local began_at = now()
  check_all(self)
  return next(self.waiting) and math.max(POLL_SECONDS, POLL_PAUSE_FACTOR * (now() - began_at))
end

local function schedule(flight)
  flight.ask_at = now() + math.min(MAX_ASK_SECONDS, FIRST_ASK_SECONDS * 2 ^ flight.asked)
  flight.asked = flight.asked + 1
end

-- Returns whether a shared flight no longer needs the poller.
local function check_shared(self, flight, rule)
  local is_done = rule(flight)
  if is_done == false then
    schedule(flight)
    return false
  end
  if not is_done then self.rules.requeue(flight) end
  return true
end

-- Asks the fleet for the shared flights that are due.
local function ask_for_due(self)
  local due, time = {}, now() + POLL_SECONDS
  for flight in pairs(self.shared) do
    if time >= flight.ask_at then due[#due + 1] = flight end
  end
  if #due == 0 then return end
  local rules = self.rules.ask_again(due)
  for i, flight in ipairs(due) do
    if self.shared[flight] then check_flight(self, check_shared, flight, rules[i]) end
  end
end

-- A round of the loop for shared flights.
local function ask(self)
  ask_for_due(self)
  return next(self.shared) and POLL_SECONDS
end

--- Returns a poller without flights. roster: see roster.lua. rules, with functions that take a flight: drop_unwanted
-- makes it done if its result is no longer needed, take_known if its result is in the dict (both return whether they
-- did); requeue has a runner take it. ask_again(flights) asks the fleet and returns a list of functions, each of which
-- takes its flight and returns true if that is done, false if it has to wait, and nil if a runner is to take it.
function poller.new(roster, rules)
  local self = setmetatable({
    roster = roster, rules = rules,
    waiting = {},   -- flight → the set of flights that it is in: one of `groups`, `delayed`, or `shared`
    groups = {},    -- by lock and holder: the set of flights that wait for it
    delayed = {},
    shared = {},
    by_client = {}, -- by address: the set of a client's unknown flights, and `count`
    crowd = crowds.new(), -- the same, by their number
    unknown = 0,    -- how many they are
    check_at = 0,   -- when the clients are checked next
  }, poller_meta)
  self.loop = timers.new_loop("waiting for tokens", poll, self)
  self.shared_loop = timers.new_loop("waiting for another gateway", ask, self)
  return self
end

--- Starts the timers that are needed, if there are none or if nginx has dropped them. Returns whether there are.
function poller_methods:ensure()
  local is_running = self.loop:ensure()
  return (not next(self.shared) or self.shared_loop:ensure()) and is_running
end

--- Has the poller look after a running flight that needs a lock which another flight holds. holder: of the lock, or
-- nil. Returns false if that is not possible.
function poller_methods:watch(flight, lock_key, holder)
  if not self:ensure() then return false end
  flight.awaited_lock, flight.awaited_holder = lock_key, holder
  flight.state = "watched"
  local group_key = get_group_key(flight)
  local group = self.groups[group_key] or {}
  self.groups[group_key] = group
  add(self, flight, group)
  return true
end

--- Has the poller look after a running flight until it is time for its next attempt. seconds: from now. Returns false
-- if that is not possible.
function poller_methods:delay(flight, seconds)
  if not self:ensure() then return false end
  flight.wake_at = now() + seconds
  flight.state = "delayed"
  add(self, flight, self.delayed)
  return true
end

--- Has the poller ask the fleet for a running flight until it has its result, or may make its request. Returns false if
-- that is not possible.
function poller_methods:share(flight)
  flight.asked = 0
  schedule(flight)
  flight.state = "shared"
  add(self, flight, self.shared)
  if self:ensure() then return true end
  remove(self, flight)
  return false
end

--- Returns how many flights with unknown credentials it looks after: all of them, and those of one client.
function poller_methods:count_unknown(address)
  local own = self.by_client[address]
  return self.unknown, own and own.count or 0
end

--- Takes out and returns a flight of the client that has most, if that has more than `least`; or nil.
function poller_methods:displace(least)
  local longest = self.crowd:get_greatest()
  local flight = longest and longest.count > least and next(longest.flights) or nil
  if flight then remove(self, flight) end
  return flight
end

return poller
