-- The gateways of several machines as one: they share tokens, refusals, and the single token request for a key, through
-- Redis (redis.lua). Only flights that are about to make a token request come here, so a token in the dict costs
-- nothing more.
--
-- A flight needs up to two leases (leases.lua): of its own key, and, while its credential is not known to be right, of
-- the credential; a login needs the one of its key. So a wrong password is tried once, not once for each machine. A
-- credential has a record under the name that the token of a key has. That record is a proof: the credential has just
-- had a token, and other flights need not wait for its lease. A flight that has to wait for its key first gives up the
-- lease of its credential (sharing.lua); so gateways do not wait for each other in a circle.
--
-- Leases only save requests: without them, two requests return two valid tokens. So if anything is wrong with Redis or
-- with a record in it, the flight makes its request.

local clock = require "icptoken.gateway.clock"
local codes = require "icptoken.gateway.codes"
local fleet_clock = require "icptoken.gateway.fleet_clock"
local fleet_outbox = require "icptoken.gateway.fleet_outbox"
local fleet_records = require "icptoken.gateway.fleet_records"
local fleet_replies = require "icptoken.gateway.fleet_replies"
local leases = require "icptoken.gateway.leases"
local record = require "icptoken.gateway.record"
local redis = require "icptoken.gateway.redis"
local scripts = require "icptoken.gateway.fleet_scripts"
local seal = require "icptoken.gateway.seal"
local text = require "icptoken.gateway.text"

local now = clock.now
local PROVEN_SECONDS = require("icptoken.gateway.store").PROVEN_SECONDS

local fleet = {}
local fleet_methods = {}
local fleet_meta = { __index = fleet_methods }

-- The most leases that a flight needs.
local MAX_LEASES = 2
-- A flight whose record could not be used asks once more.
local MAX_ROUNDS = 2
local MACHINE_BYTES = 8
local REPORT_SECONDS = 2
-- So many rejected tokens of a key are remembered, the last ones. (A gateway drops at most one in 10 s.)
local MAX_REJECTED = 32

-- Numbers the owners of leases in this process, for all its gateways.
local sequence = 0

--- The results that are counted in the metric `shared`, and the reasons in `shared_invalid`.
fleet.RESULTS = { "token", "refusal", "report", "proof", "lease", "wait", "alone" }
fleet.REASONS = fleet_replies.REASONS

local is_counted = {}
for _, result in ipairs(fleet.RESULTS) do is_counted[result] = true end

--- Returns what a gateway shares with others. To be called before nginx starts its workers. settings: `fleet` (see
-- fleet_options.lua), `target` (see target.lua), `error_ttl`. server: see redis.lua.
function fleet.new(settings, store, metrics, server)
  local records = fleet_records.new(settings.fleet.secret)
  local cluster_clock = fleet_clock.new(store, settings.target.key)
  return setmetatable({
    settings = settings, store = store, metrics = metrics, server = server, records = records,
    clock = cluster_clock, replies = fleet_replies.new(records, cluster_clock, settings.error_ttl),
    leases = leases.new(server), outbox = fleet_outbox.new(server),
    machine = text.to_hex(assert(seal.make_random(MACHINE_BYTES), "libcrypto has no random bytes")),
  }, fleet_meta)
end

local function make_owner(self)
  sequence = sequence + 1
  return ("%s:%d:%d"):format(self.machine, ngx.worker.pid(), sequence)
end

-- The name of a note in the dict with the tags of a key's tokens that the registry rejected.
local function name_rejected(key)
  return "x" .. key
end

-- Returns the tag of the token of a key that the registry rejected last, or nil; and of all rejected ones, a set.
local function find_rejected(self, key)
  local tags, set = record.decode(self.store.dict:get(name_rejected(key))) or "", {}
  local bytes = fleet_records.TAG_BYTES
  for first = 1, #tags, bytes do set[tags:sub(first, first + bytes - 1)] = true end
  return tags ~= "" and tags:sub(1, bytes) or nil, set
end

-- Remembers a rejected token of a key until its expiry.
local function note_rejected(self, key, tag, expires_at)
  local dict, name = self.store.dict, name_rejected(key)
  local tags, _, last_expiry = record.decode(dict:get(name))
  tags = (tag .. (tags or "")):sub(1, MAX_REJECTED * fleet_records.TAG_BYTES)
  expires_at = math.max(expires_at, last_expiry or 0)
  dict:set(name, record.encode(expires_at, 0, tags), expires_at - now())
end

-- Returns the tag of the token that a flight must not get: of the one that is renewed, or else of the one that the
-- registry rejected last, which Redis is told (nil for none); and the set of all rejected ones.
local function find_unwanted(self, flight)
  local rejected_tag, rejected_tags = find_rejected(self, flight.key)
  local authorization = self.store:get_token(flight.key)
  return authorization and self.records:make_tag(authorization) or rejected_tag, rejected_tags
end

-- Returns the lease of a flight for a key, which it may not have yet.
local function find_lease(self, flight, key)
  local lease = flight.leases[key]
  if lease then return lease end
  local is_of_token = key == flight.key and not flight.is_login
  lease = { key = key, names = self.records:make_names(key), owner = make_owner(self), is_of_token = is_of_token,
    is_held = false, is_released = false, unwanted_tag = nil, rejected_tags = {},
    unwanted_until = is_of_token and flight.renewed_until or 0, awaited_owner = nil }
  if is_of_token then lease.unwanted_tag, lease.rejected_tags = find_unwanted(self, flight) end
  flight.leases[key] = lease
  return lease
end

-- Returns the leases that a flight needs and does not have, in the order in which it needs them.
local function list_wanted(self, flight)
  local wanted = {}
  for _, key in ipairs { flight.key, flight.needs_proof and flight:get_verdict_key() or nil } do
    local lease = find_lease(self, flight, key)
    if not lease.is_held and wanted[1] ~= lease then
      wanted[#wanted + 1] = lease
      if lease.awaited_owner then break end -- the other one must not be taken while this one is waited for
    end
  end
  return wanted
end

local function make_call(lease)
  local names = lease.names
  return { scripts.begin, 4, names.token, names.lease, names.refusal, names.report, lease.owner, leases.MILLISECONDS,
    lease.unwanted_tag or "", lease.awaited_owner or "" }
end

local function finish_lease(self, lease, kind, value, seconds)
  local names = lease.names
  self.leases:forget(lease)
  self.outbox:add { scripts.finish, 4, names.token, names.lease, names.refusal, names.report, lease.owner, kind,
    value or "", math.max(1, math.floor((seconds or 0) * 1000)), lease.unwanted_tag or "" }
end

local function take_lease(self, lease)
  lease.is_held, lease.awaited_owner = true, nil
  if lease.is_released then -- its flight was done meanwhile
    finish_lease(self, lease, "nothing")
  else
    self.leases:keep(lease)
  end
end

-- Counts a verdict. A flight that waits is counted once for each key.
local function count(self, lease, verdict)
  if verdict.reason then
    self.metrics:add("shared_invalid", verdict.reason)
  elseif is_counted[verdict.kind] and not (verdict.kind == "wait" and lease.awaited_owner) then
    self.metrics:add("shared", verdict.kind)
  end
end

-- Changes a lease by a verdict on it. If its record could not be used, the next call does not return that record again
-- and takes the lease.
local function apply(self, lease, verdict)
  count(self, lease, verdict)
  if verdict.kind == "lease" then take_lease(self, lease) end
  if verdict.kind == "wait" then lease.awaited_owner = verdict.owner end
  if verdict.kind ~= "invalid" or not verdict.tag or verdict.tag == lease.unwanted_tag then return end
  lease.unwanted_tag, verdict.kind = verdict.tag, "again"
  if verdict.reason == "sealed" then self.outbox:add { scripts.drop, 1, lease.names.token, verdict.tag } end
end

-- Sends the calls of some leases in one pipeline. Returns the verdict on each; nil for all if Redis did not answer.
local function ask(self, wanted)
  local calls, verdicts = {}, {}
  for i, lease in ipairs(wanted) do calls[i] = make_call(lease) end
  local asked_at = now()
  local replies = self.server:run_all(calls)
  if not replies then return nil end
  for i, lease in ipairs(wanted) do
    verdicts[i] = self.replies:read(lease, replies[i], asked_at)
    apply(self, lease, verdicts[i])
  end
  return verdicts
end

-- Requests the leases of several flights. rows: a list of { flight, wanted }. Sets `verdicts` of each row, or leaves it
-- nil if Redis did not answer.
local function ask_for_all(self, rows)
  local first = 1
  while first <= #rows do
    local wanted, last = {}, first
    repeat
      for _, lease in ipairs(rows[last].wanted) do wanted[#wanted + 1] = lease end
      last = last + 1
    until last > #rows or #wanted + MAX_LEASES > redis.MAX_CALLS
    local verdicts = self.server:is_available() and ask(self, wanted)
    local position = 0
    for i = first, verdicts and last - 1 or 0 do
      rows[i].verdicts = {}
      for j = 1, #rows[i].wanted do rows[i].verdicts[j] = verdicts[position + j] end
      position = position + #rows[i].wanted
    end
    first = last
  end
end

-- If a flight has two verdicts, the one with the lower number counts.
local RANK = { token = 1, refusal = 2, report = 3, again = 4, invalid = 5, wait = 6, proof = 7, lease = 8 }

-- Returns one verdict on a flight: the one that counts most.
local function choose_verdict(row)
  local chosen, proof
  if #row.wanted == 0 then return { kind = "lease" } end
  for i, verdict in ipairs(row.verdicts or { { kind = "unavailable" } }) do
    verdict.is_of_key = row.wanted[i].key == row.flight.key
    if not chosen or RANK[verdict.kind] < RANK[chosen.kind] then chosen = verdict end
    proof = verdict.kind == "proof" and verdict or proof
  end
  chosen.proven_seconds = proof and proof.seconds
  return chosen
end

local function make_rows(self, flights)
  local rows = {}
  for i, flight in ipairs(flights) do rows[i] = { flight = flight, wanted = list_wanted(self, flight) } end
  return rows
end

--- Asks the fleet for the results of flights that are about to make a token request or a login; `needs_proof` of each
-- says whether its credential is not known to be right. Yields. Returns a list with a verdict for each, a table with
-- `kind`:
--   token        there is one: authorization, refresh_at, expires_at (on clock.now())
--   refusal      the endpoint has refused the credential or the key: failure, seconds (for which that holds)
--   report       the request that the flight waited for has failed: failure
--   wait         another gateway makes the request, or, if not `is_of_key`, one with the credential: ask again later
--   proof        the flight may make its request, as its credential is known to be right
--   lease        the flight may make its request, and has the leases
--   invalid, unavailable   the flight may make its request, as there is something wrong with Redis
-- Each may have `proven_seconds`, for which the flight's credential is known to be right.
function fleet_methods:consult(flights)
  local verdicts, positions, rest = {}, {}, flights
  for i = 1, #flights do positions[i] = i end
  for _ = 1, MAX_ROUNDS do
    local rows, again = make_rows(self, rest), {}
    ask_for_all(self, rows)
    rest = {}
    for i, row in ipairs(rows) do
      local verdict = choose_verdict(row)
      if verdict.kind == "again" then
        rest[#rest + 1], again[#again + 1] = row.flight, positions[i]
        verdict = { kind = "invalid" }
      end
      verdicts[positions[i]] = verdict
    end
    positions = again
  end
  return verdicts
end

--- Counts a flight that stops waiting and makes its request, as it has little time left.
function fleet_methods:note_alone()
  self.metrics:add("shared", "alone")
end

-- Ends a flight's lease of a key with a result for other gateways; also if the flight does not have the lease.
local function publish(self, flight, key, kind, write, seconds)
  local lease = find_lease(self, flight, key)
  flight.leases[key] = nil
  lease.is_released = true
  finish_lease(self, lease, kind, write(lease), seconds)
end

--- Shares a token that the cluster has just issued. refresh_at, expires_at: on clock.now().
function fleet_methods:publish_token(flight, token, authorization, refresh_at, expires_at)
  self.clock:learn(token)
  local time, seconds = self.clock:read(), expires_at - now()
  if seconds <= 0 or #authorization > scripts.MAX_TOKEN_BYTES then return end
  publish(self, flight, flight.key, "token", function(lease)
    local lead = math.max(0, expires_at - refresh_at)
    return self.records:seal_token(lease.names.token, lease.key, authorization, time + seconds, lead)
  end, seconds)
  if flight.needs_proof then self:publish_proof(flight) end
end

--- Shares that the credential of a flight, or a login, is right.
function fleet_methods:publish_proof(flight)
  publish(self, flight, flight:get_verdict_key(), "token", function(lease)
    return self.records:seal_proof(lease.names.token, lease.key, self.clock:read() + PROVEN_SECONDS)
  end, PROVEN_SECONDS)
end

--- Shares that the endpoint has refused a flight's credential or its key.
function fleet_methods:publish_refusal(flight, failure)
  local seconds = self.settings.error_ttl
  local keys = { flight.key }
  if failure.code == "unauthorized" and not flight.is_login then keys[2] = flight.credential_key end
  for _, key in ipairs(keys) do
    publish(self, flight, key, "refusal", function(lease)
      return self.records:seal_failure(lease.names.refusal, key, failure, self.clock:read() + seconds)
    end, seconds)
  end
end

--- Tells the gateways that wait for a flight's leases why it failed.
function fleet_methods:publish_report(flight, failure)
  for key, lease in pairs(flight.leases) do
    if lease.is_held and (key == flight.key or not codes.is_of_one_key(failure.code)) then
      publish(self, flight, key, "report", function()
        local expiry = self.clock:read() + REPORT_SECONDS
        return self.records:seal_failure(lease.names.report, key, failure, expiry, lease.owner)
      end, REPORT_SECONDS)
    end
  end
end

--- Frees a flight's lease of a key, if it has it.
function fleet_methods:release(flight, key)
  local lease = flight.leases[key]
  if not lease then return end
  flight.leases[key], lease.is_released = nil, true
  if lease.is_held then finish_lease(self, lease, "nothing") end
end

--- Drops a key's token that the registry has rejected. expires_at: its expiry. Does not wait.
function fleet_methods:drop(key, authorization, expires_at)
  local tag = self.records:make_tag(authorization)
  if expires_at > now() then note_rejected(self, key, tag, expires_at) end
  self.outbox:add { scripts.drop, 1, self.records:make_names(key).token, tag }
end

return fleet
