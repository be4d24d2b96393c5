-- What Redis answers to fleet_scripts.begin, as verdicts. Redis is not trusted: a record counts only if it opens
-- (fleet_records.lua), and only until the earlier of two times: its expiry in Redis, and the expiry that is
-- sealed in it.

local bearer = require "icptoken.gateway.bearer"
local clock = require "icptoken.gateway.clock"
local codes = require "icptoken.gateway.codes"
local fleet_records = require "icptoken.gateway.fleet_records"
local scripts = require "icptoken.gateway.fleet_scripts"

local now = clock.now
local PROVEN_SECONDS = require("icptoken.gateway.store").PROVEN_SECONDS

local replies = {}
local replies_methods = {}
local replies_meta = { __index = replies_methods }

-- A larger difference between those two times is logged.
local MAX_DIFFERENCE = 300
-- A token that expires this much earlier than the one in hand renews nothing. The times in records are not exact: the
-- cluster's clock is known in whole seconds.
local EXPIRY_MARGIN = 5
-- A report is believed for this long after its expiry: the clock of its gateway may be slow by the time for which the
-- cluster took to send a token.
local REPORT_MARGIN = 10
-- The longest Retry-After that is believed, in seconds.
local MAX_RETRY_AFTER = 2 ^ 31

--- Why a record cannot be used: it does not open; its sealed expiry has passed; or it is the token that Redis must not
-- return, or one that expires earlier.
replies.REASONS = { "sealed", "expired", "unwanted" }

--- Returns a reader of replies. records: see fleet_records.lua. cluster_clock: see fleet_clock.lua. error_ttl: the
-- seconds for which a refusal holds at most.
function replies.new(records, cluster_clock, error_ttl)
  return setmetatable({ records = records, clock = cluster_clock, error_ttl = error_ttl }, replies_meta)
end

-- tag: of a token that Redis is not to return again, or nil.
local function reject(reason, tag)
  return { kind = "invalid", reason = reason, tag = tag }
end

-- Returns when a record expires on clock.now(). expiry: as it says itself. pttl: in ms, counted from asked_at.
local function compute_expiry(self, expiry, pttl, asked_at)
  local left = expiry - self.clock:read()
  local difference = pttl / 1000 - left
  if math.abs(difference) > MAX_DIFFERENCE then self.clock:log_difference(difference) end
  return math.min(asked_at + pttl / 1000, now() + left)
end

-- The same for records that give no access. Until the machine knows the cluster's time, only Redis's counts.
local function compute_loose_expiry(self, expiry, pttl, asked_at)
  if not select(2, self.clock:read()) then return asked_at + pttl / 1000 end
  return compute_expiry(self, expiry, pttl, asked_at)
end

local function read_token(self, lease, value, pttl, asked_at)
  local tag = fleet_records.read_tag(value)
  local authorization, expiry, lead = self.records:open_token(lease.names.token, lease.key, value)
  if not authorization or not bearer.is_authorization(authorization) then return reject("sealed", tag) end
  local expires_at = compute_expiry(self, expiry, pttl, asked_at)
  if expires_at <= now() then return reject("expired", tag) end
  local is_unwanted = tag == lease.unwanted_tag or lease.rejected_tags[tag]
  if is_unwanted or expires_at + EXPIRY_MARGIN <= lease.unwanted_until then return reject("unwanted", tag) end
  return { kind = "token", authorization = authorization, refresh_at = expires_at - lead, expires_at = expires_at }
end

local function read_proof(self, lease, value, pttl, asked_at)
  local tag = fleet_records.read_tag(value)
  local expiry = self.records:open_proof(lease.names.token, lease.key, value)
  if not expiry then return reject("sealed", tag) end
  local seconds = compute_loose_expiry(self, expiry, pttl, asked_at) - now()
  if seconds <= 0 then return reject("expired", tag) end
  return { kind = "proof", seconds = math.min(seconds, PROVEN_SECONDS) }
end

-- Returns the failure in a refusal or, if it has an owner, in a report, and its expiry; or nil.
local function open_failure(self, lease, name, value, owner)
  local failure, expiry = self.records:open_failure(name, lease.key, value, owner)
  if not failure or not codes.is_code(failure.code) then return nil end
  if failure.retry_after then failure.retry_after = math.min(failure.retry_after, MAX_RETRY_AFTER) end
  return failure, expiry
end

local function read_refusal(self, lease, value, pttl, asked_at)
  local failure, expiry = open_failure(self, lease, lease.names.refusal, value)
  if not failure then return reject "sealed" end
  local seconds = compute_loose_expiry(self, expiry, pttl, asked_at) - now()
  if seconds <= 0 then return reject "expired" end
  return { kind = "refusal", failure = failure, seconds = math.min(seconds, self.error_ttl) }
end

-- The owner of a lease may be one that had it long ago: anyone who can write to Redis can restore it, with its report.
local function read_report(self, lease, value, pttl, asked_at)
  local failure, expiry = open_failure(self, lease, lease.names.report, value, lease.awaited_owner)
  if not failure then return reject "sealed" end
  if compute_loose_expiry(self, expiry, pttl, asked_at) + REPORT_MARGIN <= now() then return reject "expired" end
  return { kind = "report", failure = failure }
end

--- Returns a verdict (see fleet_methods:consult) on a lease (see fleet.lua): also "wait" with the lease's `owner`, and
-- "invalid" with a `reason` of REASONS (none if Redis did not run the script) and, if Redis is not to return this token
-- again, its `tag`. asked_at: when the script was sent.
function replies_methods:read(lease, reply, asked_at)
  if type(reply) ~= "table" then return reject() end
  local kind, value, pttl = reply[1], reply[2], reply[3]
  if kind == "lease" then return { kind = "lease" } end
  if type(value) ~= "string" then return reject "sealed" end
  if kind == "held" then
    return #value <= scripts.MAX_OWNER_BYTES and { kind = "wait", owner = value } or reject "sealed"
  end
  if type(pttl) ~= "number" or pttl <= 0 then return reject "expired" end
  if kind == "report" and lease.awaited_owner then return read_report(self, lease, value, pttl, asked_at) end
  if kind == "refusal" then return read_refusal(self, lease, value, pttl, asked_at) end
  if kind ~= "token" then return reject "sealed" end
  return (lease.is_of_token and read_token or read_proof)(self, lease, value, pttl, asked_at)
end

return replies
