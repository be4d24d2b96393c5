-- What the workers share, in a lua_shared_dict: tokens, the locks of workers that fetch one, and recent failures.
-- Records are found by keys (key.lua), which do not reveal a credential, and the ID tokens of logins are sealed
-- (seal.lua), so no credential can be read from the dict.
--
-- A record (record.lua) has an expiry, and a mark whose meaning depends on the kind of record. The dict's own expiry
-- follows the wall clock and is used only to free memory. Every record that is read is checked, as any Lua code in the
-- same nginx can write to the dict.
--
-- Names in the dict are a letter and a key; a token's is its key alone:
--   l lock   f refusal   r report   k proof, or failing keys of an endpoint   c known credential   i, j identity
--   p pause   s state of an endpoint   b breaker of Redis (breaker.lua)   h recent changes (history.lua)
--   o clock of the cluster (fleet_clock.lua)   x token that the registry rejected (fleet.lua)
--   v passwords that a client has tried
--   a, b, d, e, g, n, q, t, u, w, and h with the kind of a change: of is_first
-- There are also "salt", "wordy" (of is_first), and "h" alone (when nginx started). No two kinds of records may have
-- the same letter and the same key.

local bearer = require "icptoken.gateway.bearer"
local clock = require "icptoken.gateway.clock"
local codes = require "icptoken.gateway.codes"
local history = require "icptoken.gateway.history"
local record = require "icptoken.gateway.record"
local seal = require "icptoken.gateway.seal"

local now = clock.now
local match, sub = string.match, string.sub
local is_authorization = bearer.is_authorization
local encode, decode = record.encode, record.decode

local store = {}
local store_methods = {}
local store_meta = { __index = store_methods }

-- The dict would take less for "never expires".
local MIN_SECONDS = 0.001

-- Token records that have been checked, and short forms of keys, are remembered, up to twice this number.
local MAX_RECENT = 256

-- Expired records are removed now and then if less than this share of the dict is free: once in MIN_SWEEP_PUTS writes,
-- or, as that walks over all records, once in so many writes as BYTES_PER_PUT is contained in a larger dict, so that a
-- write costs the same whatever its size. At most SWEPT_PER_PUT times as many are removed at a time.
local MIN_SWEEP_PUTS, BYTES_PER_PUT, SWEPT_PER_PUT, MIN_FREE_SHARE = 200, 8192, 10, 0.25

-- Pauses between renewals that fail: 1 s, 2 s, 4 s … 60 s.
local MAX_PAUSE_SECONDS = 60

-- A credential counts as known for this long after it had a token: the lifetime of ICP's ID tokens.
local KNOWN_SECONDS = 12 * 3600

--- A credential that had its last token longer ago may have become wrong, so one attempt with it goes first.
store.PROVEN_SECONDS = 60

-- The last MAX_FAILING_KEYS keys that failed in a row are remembered by their first bytes, for FAILING_SECONDS after
-- the last failure.
local MAX_FAILING_KEYS = 4
local FAILING_KEY_BYTES = 8
local FAILING_SECONDS = 120

-- How long other workers can read why a fetch failed.
local REPORT_SECONDS = 2

-- ngx_lua makes room in a dict by evicting the least recently used records, expired or not, and looks for expired ones
-- only among those. Short-lived records would thus evict valid tokens that are idle. So expired records are removed now
-- and then when the dict is nearly full.
local function sweep(self)
  self.puts = self.puts + 1
  if self.puts < self.sweep_puts then return end
  self.puts = 0
  if self.dict:free_space() >= self.dict:capacity() * MIN_FREE_SHARE then return end
  self.dict:flush_expired(SWEPT_PER_PUT * self.sweep_puts)
end

local function put(self, name, text, seconds, mark)
  sweep(self)
  seconds = math.max(MIN_SECONDS, seconds)
  local stored, problem, forced = self.dict:set(name, encode(now() + seconds, mark or 0, text), seconds)
  if forced then self.on_eviction() end
  return stored, problem
end

-- The name in the dict of a random key, with which short forms of keys are computed.
local SALT, SALT_BYTES = "salt", 32

-- Returns that key: the one in the dict, so that short forms stay the same over a reload, or a new one.
local function find_salt(dict)
  local salt = dict:get(SALT)
  if type(salt) == "string" and #salt == SALT_BYTES then return salt end
  salt = seal.make_random(32)
  if not salt then error("icptoken.gateway: libcrypto has no random numbers", 0) end
  dict:set(SALT, salt)
  return salt
end

--- Returns a store in a lua_shared_dict. on_eviction is called, without arguments, when a write evicted a record that
-- had not expired.
function store.new(dict, on_eviction)
  local sweep_puts = math.max(MIN_SWEEP_PUTS, math.floor(dict:capacity() / BYTES_PER_PUT))
  return setmetatable({ dict = dict, on_eviction = on_eviction, puts = 0, sweep_puts = sweep_puts, recent = {},
    recent_count = 0, older = {}, salt = find_salt(dict), short = {}, short_count = 0, older_short = {} }, store_meta)
end

--- Returns the form of a key for logs: 8 hexadecimal digits. Only with the dict's salt can a guess be tested against
-- it. It is the same until nginx is restarted.
function store_methods:shorten(key)
  local short = self.short[key] or self.older_short[key]
  if short then return short end
  local digest = seal.authenticate(self.salt, key) or ("\0"):rep(4)
  short = ("%02x%02x%02x%02x"):format(digest:byte(1, 4))
  if self.short_count == MAX_RECENT then
    self.older_short, self.short, self.short_count = self.short, {}, 0
  end
  self.short[key], self.short_count = short, self.short_count + 1
  return short
end

-- Returns what a record of a token holds: { authorization, refresh_at, expires_at, stored_at }. Each record is parsed
-- and checked once; the result is found again by the bytes of the record, in self.recent or here.
local function read_token(self, bytes)
  local token = self.older[bytes]
  if token then return token end
  local text, refresh_at, expires_at = decode(bytes)
  local stored_at, authorization = match(text or "", "^(%d+) (.*)$")
  if not authorization or not is_authorization(authorization) then return nil end
  token = { authorization = authorization, refresh_at = refresh_at, expires_at = expires_at,
    stored_at = tonumber(stored_at) }
  if self.recent_count == MAX_RECENT then
    self.older, self.recent, self.recent_count = self.recent, {}, 0
  end
  self.recent[bytes] = token
  self.recent_count = self.recent_count + 1
  return token
end

--- Returns the Authorization value of a key's token, whether it is due for renewal, when it expires, when it was stored
-- (in whole seconds), and the time now (all three on clock.now()); or nil.
function store_methods:get_token(key)
  local bytes = self.dict:get(key)
  local token = bytes and (self.recent[bytes] or read_token(self, bytes))
  if not token then return nil end
  local time = now()
  if time >= token.expires_at then return nil end
  return token.authorization, time >= token.refresh_at, token.expires_at, token.stored_at, time
end

--- Stores a token. refresh_at, expires_at: on clock.now(). Returns true, or nil and a message if it does not fit.
function store_methods:put_token(key, authorization, refresh_at, expires_at)
  local time = now()
  return put(self, key, ("%d %s"):format(time, authorization), expires_at - time, refresh_at)
end

--- Drops a key's token if the dict still holds this very one. Returns whether it did.
function store_methods:drop_token(key, authorization)
  if self:get_token(key) ~= authorization then return false end
  self.dict:delete(key)
  return true
end

--- Returns true to the first caller, of all workers, within this many seconds.
function store_methods:is_first(name, seconds)
  local value = encode(now() + seconds, 0, "")
  local added, problem = self.dict:add(name, value, seconds)
  if added then return true end
  if problem ~= "exists" or decode(self.dict:get(name)) then return false end
  self.dict:set(name, value, seconds) -- the wall clock was set back
  return true
end

-- Returns the text of a record; or nil if there is none, or if it lasts longer than the gateway writes such records, so
-- that other code must have written it.
local function read_within(self, name, seconds)
  local text, _, expires_at = decode(self.dict:get(name))
  return text and expires_at <= now() + seconds and text or nil
end

--- Takes the lock of a key for an owner, for at most this many seconds. Returns whether it was free, and if not, its
-- holder (nil if it has been freed meanwhile, or was invalid and has been deleted: try again).
function store_methods:lock(key, owner, seconds)
  local name = "l" .. key
  local value = encode(now() + seconds, 0, owner)
  local added, problem, forced = self.dict:add(name, value, seconds)
  if forced then self.on_eviction() end
  if added then return true end
  if problem ~= "exists" then return true end -- the dict is full: two workers may fetch, but one must
  local holder = read_within(self, name, seconds)
  if not holder then self.dict:delete(name) end
  return false, holder
end

--- Returns the holder of the lock of a key, or nil.
function store_methods:get_lock(key)
  return (decode(self.dict:get("l" .. key)))
end

--- Frees the lock of a key if this owner still holds it.
function store_methods:unlock(key, owner)
  if self:get_lock(key) == owner then self.dict:delete("l" .. key) end
end

-- A failure is stored as its code and, as the mark, the seconds of Retry-After or 0.
local function put_failure(self, name, failure, seconds)
  put(self, name, failure.code, seconds, failure.retry_after)
end

local function get_failure(self, name)
  local code, retry_after = decode(self.dict:get(name))
  if not code or not codes.is_code(code) then return nil end
  return { code = code, retry_after = retry_after > 0 and retry_after or nil }
end

--- Notes that a credential has just had a token: for this many seconds (by default PROVEN_SECONDS) it may be used for
-- several token requests at once. The record lasts until expires_at at least.
function store_methods:put_proof(credential_key, expires_at, seconds)
  seconds = seconds or store.PROVEN_SECONDS
  put(self, "k" .. credential_key, "", math.max(seconds, expires_at - now()), now() + seconds)
end

--- Returns whether a credential has just had a token (see put_proof).
function store_methods:is_proven(credential_key)
  local _, proven_until = decode(self.dict:get("k" .. credential_key))
  return proven_until ~= nil and now() < proven_until
end

--- Forgets that, as the credential was refused.
function store_methods:drop_proof(credential_key)
  self.dict:delete("k" .. credential_key)
end

--- Stores the ID token of a login until keep_until. It is sealed: only a client that knows the password can have
-- sealing_key (32 bytes). identity: { token, expires_at }. id_token_key: the key of the ID token as a credential
-- itself.
function store_methods:put_identity(login_key, sealing_key, identity, keep_until, id_token_key)
  local sealed = seal.seal(sealing_key, identity.token, login_key)
  if not sealed then return end
  put(self, "i" .. login_key, sealed, keep_until - now(), identity.expires_at)
  put(self, "j" .. id_token_key, login_key, keep_until - now())
end

--- Forgets the ID token of a login, which is found by its key as a credential, as the endpoint refused it.
function store_methods:drop_identity(id_token_key)
  local login_key = decode(self.dict:get("j" .. id_token_key))
  if login_key then self.dict:delete("i" .. login_key) end
end

--- Returns the ID token of a login, { token, expires_at }, or nil.
function store_methods:get_identity(login_key, sealing_key)
  local sealed, expires_at = decode(self.dict:get("i" .. login_key))
  local id_token = sealed and seal.open(sealing_key, sealed, login_key)
  return id_token and { token = id_token, expires_at = expires_at }
end

--- Tells other workers why an owner's fetch failed. more_seconds: how much longer than usual they can read it.
function store_methods:put_report(owner, failure, more_seconds)
  put_failure(self, "r" .. owner, failure, REPORT_SECONDS + (more_seconds or 0))
end

--- Returns why an owner's fetch failed, or nil.
function store_methods:get_report(owner)
  return get_failure(self, "r" .. owner)
end

--- Remembers for this many seconds that the endpoint refused a credential (by its key), or a token (by its key).
function store_methods:put_refusal(key, failure, seconds)
  put_failure(self, "f" .. key, failure, seconds)
end

--- Returns the failure that put_refusal noted for a key, or nil.
function store_methods:get_refusal(key)
  return get_failure(self, "f" .. key)
end

--- Notes that a credential is known: it had a token, or a login with it succeeded.
function store_methods:put_known(credential_key)
  local _, _, expires_at = decode(self.dict:get("c" .. credential_key))
  if expires_at and expires_at - now() > KNOWN_SECONDS / 2 then return end
  put(self, "c" .. credential_key, "", KNOWN_SECONDS)
end

--- Forgets that, as the credential was refused.
function store_methods:drop_known(credential_key)
  self.dict:delete("c" .. credential_key)
end

--- Returns whether a credential had a token within KNOWN_SECONDS.
function store_methods:is_known(credential_key)
  return decode(self.dict:get("c" .. credential_key)) ~= nil
end

--- Counts a key whose token request failed. Returns how many different keys have failed since the endpoint last
-- answered, at most MAX_FAILING_KEYS.
function store_methods:count_failing(endpoint_key, key)
  local name = "k" .. endpoint_key
  local text = decode(self.dict:get(name)) or ""
  local mark = sub(key or "", 1, FAILING_KEY_BYTES)
  for first = 1, #text, FAILING_KEY_BYTES do
    if sub(text, first, first + FAILING_KEY_BYTES - 1) == mark then return #text / FAILING_KEY_BYTES end
  end
  text = sub(mark .. text, 1, MAX_FAILING_KEYS * FAILING_KEY_BYTES)
  put(self, name, text, FAILING_SECONDS)
  return #text / FAILING_KEY_BYTES
end

--- Resets that count, as the endpoint has answered.
function store_methods:clear_failing(endpoint_key)
  self.dict:delete("k" .. endpoint_key)
end

--- Returns the list of the passwords that a client has tried (guesses.lua), "" if there is none.
function store_methods:get_guesses(list_key)
  return (decode(self.dict:get("v" .. list_key))) or ""
end

--- Stores such a list; "" removes it. The first password in it determines that it is forgotten in this many seconds.
function store_methods:put_guesses(list_key, list, seconds)
  local name = "v" .. list_key
  if list == "" then return self.dict:delete(name) end
  local _, _, expires_at = decode(self.dict:get(name))
  put(self, name, list, math.min(seconds, (expires_at or math.huge) - now()))
end

--- Returns whether renewals are paused. key: of a token, or of an endpoint for all its tokens.
function store_methods:is_paused(key)
  local _, wait_until = decode(self.dict:get("p" .. key))
  return wait_until ~= nil and now() < wait_until
end

--- Pauses renewals for twice as long as the last time, but at least retry_after (seconds or nil). A fetch that was
-- under way when the pause began extends it only by its retry_after. Returns whether it is the first pause since the
-- endpoint answered.
function store_methods:pause(key, retry_after)
  local name = "p" .. key
  local text, wait_until = decode(self.dict:get(name))
  local seconds = tonumber((text or ""):match "^%d%d?$") or 0
  local is_paused = wait_until ~= nil and now() < wait_until
  if not is_paused then
    seconds = math.min(MAX_PAUSE_SECONDS, math.max(1, 2 * seconds))
    wait_until = now() + seconds
  end
  wait_until = math.max(wait_until, now() + (retry_after or 0))
  put(self, name, ("%d"):format(seconds), wait_until - now() + 2 * MAX_PAUSE_SECONDS, wait_until)
  return not text
end

--- Resumes renewals, as the endpoint has answered. Returns whether they were paused since it last did.
function store_methods:resume(key)
  local was_paused = decode(self.dict:get("p" .. key)) ~= nil
  self.dict:delete("p" .. key)
  return was_paused
end

--- Notes when nginx started, in seconds since 1970.
function store_methods:note_start(time)
  self.dict:set("h", time)
end

--- Returns when nginx started, or nil if no worker has noted that. The dict outlives a reload of nginx's configuration,
-- but not a restart.
function store_methods:get_start()
  local time = self.dict:get "h"
  return type(time) == "number" and time or nil
end

--- Records a change of state for the status page; see history.lua.
function store_methods:add_change(endpoint_key, kind, description)
  history.add(self.dict, endpoint_key, kind, description)
end

--- Records a change of a kind that may come in crowds: the first one in these seconds.
function store_methods:add_first_change(endpoint_key, kind, description, seconds)
  if self:is_first("h" .. kind .. endpoint_key, seconds) then self:add_change(endpoint_key, kind, description) end
end

--- Returns the changes that are remembered, the latest first; see history.lua.
function store_methods:list_changes(endpoint_key)
  return history.list(self.dict, endpoint_key)
end

--- Notes the state of an endpoint: "ok", or the code with which it fails.
function store_methods:put_state(endpoint_key, state)
  self.dict:set("s" .. endpoint_key, state)
end

--- Returns the state that was noted last, or "ok".
function store_methods:get_state(endpoint_key)
  local state = self.dict:get("s" .. endpoint_key)
  return type(state) == "string" and codes.is_code(state) and state or "ok"
end

return store
