-- What the workers share, in a dict of nginx: tokens, the locks of those who fetch one, and short memories of what
-- failed. No credential is put here that can be read without the client's own: all is named by keys (key.lua), and the
-- ID tokens of logins are sealed (seal.lua).
--
-- A record begins with two times on clock.now(): when it ends, and one more that depends on its kind. The dict has a
-- limit of its own on the wall clock, which only makes room. Whatever is read is checked, as a dict can be written to
-- by any code of the same nginx.

local ffi = require "ffi"
local answer = require "icptoken.gateway.answer"
local clock = require "icptoken.gateway.clock"
local seal = require "icptoken.gateway.seal"

local now = clock.now
local sub = string.sub
local find_regex = ngx.re.find

local store = {}
local store_methods = {}
local store_meta = { __index = store_methods }

-- Whole numbers: LuaJIT takes the bits of some doubles for values of another type, and a record may hold any.
local record_head = ffi.typeof "struct { uint32_t end_seconds, end_milliseconds, mark_seconds, mark_milliseconds; }"
local head_pointer = ffi.typeof("const $ *", record_head)
local HEAD_BYTES = ffi.sizeof(record_head)
local head = record_head()
local MAX_SECONDS = 2 ^ 32 - 1
-- To the dict, less would mean for ever.
local MIN_SECONDS = 0.001

-- RFC 6750 section 2.1: b64token. Nothing else may get into a header that nginx writes as it is.
local AUTHORIZATION = [[\ABearer [A-Za-z0-9._~+/-]+=*\z]]

-- How many records of tokens are known to be right, at most twice that many at a time.
local MAX_RECENT = 256

-- Expired records are looked for once in so many writes, where less than this share of the dict is free; so many of
-- them are removed at a time.
local SWEEP_PUTS, MIN_FREE_SHARE, MAX_SWEPT = 200, 0.25, 2000

-- Pauses between renewals that fail: 1 s, 2 s, 4 s … 60 s.
local MAX_PAUSE_SECONDS = 60

-- A credential counts as known for so long after it had a token: as long as an ID token of ICP lasts.
local SUBJECT_SECONDS = 12 * 3600

-- Keys that failed one after the other: so many are remembered, by their first bytes, for so long after the last one.
local MAX_FAILING_KEYS = 4
local FAILING_KEY_BYTES = 8
local FAILING_SECONDS = 120

-- How long workers can read what became of a fetch that failed.
local REPORT_SECONDS = 2

local function split_time(time)
  time = math.max(0, math.min(MAX_SECONDS, time))
  local seconds = math.floor(time)
  return seconds, math.floor((time - seconds) * 1000)
end

local function encode(end_at, mark, text)
  head.end_seconds, head.end_milliseconds = split_time(end_at)
  head.mark_seconds, head.mark_milliseconds = split_time(mark)
  return ffi.string(head, HEAD_BYTES) .. text
end

-- The text, the mark and the end of a record, or nil where there is none or it has ended.
local function decode(value)
  if type(value) ~= "string" or #value < HEAD_BYTES then return nil end
  local times = ffi.cast(head_pointer, value)
  local end_at = times.end_seconds + times.end_milliseconds / 1000
  if now() >= end_at then return nil end
  return sub(value, HEAD_BYTES + 1), times.mark_seconds + times.mark_milliseconds / 1000, end_at
end

-- ngx_lua makes room in a dict by removing what was used least recently, expired or not, and looks for expired records
-- only at that end. Short-lived records would so push out tokens that are good but idle. So expired ones are removed
-- now and then, where the dict has become full: the work is a walk over all records, once for many that were put.
local function sweep(self)
  self.puts = self.puts + 1
  if self.puts < SWEEP_PUTS then return end
  self.puts = 0
  if self.dict:free_space() < self.dict:capacity() * MIN_FREE_SHARE then self.dict:flush_expired(MAX_SWEPT) end
end

local function put(self, name, text, seconds, mark)
  sweep(self)
  seconds = math.max(MIN_SECONDS, seconds)
  local stored, problem, forced = self.dict:set(name, encode(now() + seconds, mark or 0, text), seconds)
  if forced then self.on_eviction() end
  return stored, problem
end

--- The store in a dict. on_eviction is called when something that had not ended made room.
function store.new(dict, on_eviction)
  return setmetatable({ dict = dict, on_eviction = on_eviction, puts = 0, recent = {}, recent_count = 0, older = {} },
    store_meta)
end

--- Whether a token may stand in a header.
function store.is_authorization(value)
  return find_regex(value, AUTHORIZATION, "jo") ~= nil
end

-- What a record of a token holds: { authorization, refresh_at, end_at }. Each record is cut up and checked once; it is
-- looked for in the dict all the same.
local function read_token(self, record)
  local token = self.recent[record] or self.older[record]
  if token then return token end
  local authorization, refresh_at, end_at = decode(record)
  if not authorization or not find_regex(authorization, AUTHORIZATION, "jo") then return nil end
  token = { authorization = authorization, refresh_at = refresh_at, end_at = end_at }
  if self.recent_count == MAX_RECENT then
    self.older, self.recent, self.recent_count = self.recent, {}, 0
  end
  self.recent[record] = token
  self.recent_count = self.recent_count + 1
  return token
end

--- The Authorization value of a key's token, whether it is to be renewed, and when it ends; or nil.
function store_methods:get_token(key)
  local record = self.dict:get(key)
  local token = record and read_token(self, record)
  if not token then return nil end
  local time = now()
  if time >= token.end_at then return nil end
  return token.authorization, time >= token.refresh_at, token.end_at
end

--- Keeps a token; returns nil and a message when it does not fit.
function store_methods:put_token(key, authorization, refresh_at, end_at)
  return put(self, key, authorization, end_at - now(), refresh_at)
end

--- Drops a key's token if it still is this very one. Returns whether it was.
function store_methods:drop_token(key, authorization)
  if self:get_token(key) ~= authorization then return false end
  self.dict:delete(key)
  return true
end

--- True for the first caller, of all workers, within so many seconds.
function store_methods:is_first(name, seconds)
  local value = encode(now() + seconds, 0, "")
  local added, problem = self.dict:add(name, value, seconds)
  if added then return true end
  if problem ~= "exists" or decode(self.dict:get(name)) then return false end
  self.dict:set(name, value, seconds) -- the wall clock was set back
  return true
end

-- The text of a record that is there, unless it would last longer than anything that is put there: nobody of the
-- gateway wrote that.
local function read_within(self, name, seconds)
  local text, _, end_at = decode(self.dict:get(name))
  return text and end_at <= now() + seconds and text or nil
end

--- Takes the lock of a key for an owner, for so many seconds at most. Returns whether it was free, and if not, whose
-- it is (nil if it has become free meanwhile, or was nobody's and has been deleted: try again).
function store_methods:lock(key, owner, seconds)
  local name = "l" .. key
  local value = encode(now() + seconds, 0, owner)
  local added, problem, forced = self.dict:add(name, value, seconds)
  if forced then self.on_eviction() end
  if added then return true end
  if problem ~= "exists" then return true end -- no room: rather twice than never
  local holder = read_within(self, name, seconds)
  if not holder then self.dict:delete(name) end
  return false, holder
end

--- Who holds the lock of a key, or nil.
function store_methods:get_lock(key)
  return (decode(self.dict:get("l" .. key)))
end

--- Frees the lock of a key if it still is that owner's.
function store_methods:unlock(key, owner)
  if self:get_lock(key) == owner then self.dict:delete("l" .. key) end
end

-- A failure is its code and, as the mark, the seconds until another try, or 0.
local function put_failure(self, name, failure, seconds)
  put(self, name, failure.code, seconds, failure.retry_after)
end

local function get_failure(self, name)
  local code, retry_after = decode(self.dict:get(name))
  if not code or not answer.is_code(code) then return nil end
  return { code = code, retry_after = retry_after > 0 and retry_after or nil }
end

--- Notes until a time that a credential had a token, and for so many seconds that it may be used for several requests
-- at once.
function store_methods:put_proof(credential, end_at, seconds)
  put(self, "k" .. credential, "", math.max(seconds, end_at - now()), now() + seconds)
end

--- Has a credential had a token a moment ago?
function store_methods:is_proven(credential)
  local _, proven_until = decode(self.dict:get("k" .. credential))
  return proven_until ~= nil and now() < proven_until
end

--- A credential was refused.
function store_methods:drop_proof(credential)
  self.dict:delete("k" .. credential)
end

--- Keeps a user's ID token, { token, expires_at }, until a time, sealed: only who has the key, which is made of the
-- credential, can read it. credential: the name that the ID token has as a credential itself.
function store_methods:put_identity(name, sealing_key, identity, end_at, credential)
  local sealed = seal.seal(sealing_key, identity.token, name)
  if not sealed then return end
  put(self, "i" .. name, sealed, end_at - now(), identity.expires_at)
  put(self, "j" .. credential, name, end_at - now())
end

--- Forgets the ID token of a login that has this name as a credential, as the endpoint refused it.
function store_methods:drop_identity(credential)
  local name = decode(self.dict:get("j" .. credential))
  if name then self.dict:delete("i" .. name) end
end

--- A user's ID token, { token, expires_at }, or nil.
function store_methods:get_identity(name, sealing_key)
  local sealed, expires_at = decode(self.dict:get("i" .. name))
  local id_token = sealed and seal.open(sealing_key, sealed, name)
  return id_token and { token = id_token, expires_at = expires_at }
end

--- Tells who waits for an owner's fetch why it failed. more_seconds: to be read so much longer than usual.
function store_methods:put_report(owner, failure, more_seconds)
  put_failure(self, "r" .. owner, failure, REPORT_SECONDS + (more_seconds or 0))
end

--- Why an owner's fetch failed, or nil.
function store_methods:get_report(owner)
  return get_failure(self, "r" .. owner)
end

--- Remembers for so many seconds that the endpoint refused a key's credential.
function store_methods:put_refusal(key, failure, seconds)
  put_failure(self, "f" .. key, failure, seconds)
end

--- How the endpoint refused a key's credential a moment ago, or nil.
function store_methods:get_refusal(key)
  return get_failure(self, "f" .. key)
end

--- Notes that a credential had a token. subject: a name of the credential.
function store_methods:note_subject(subject)
  local _, _, end_at = decode(self.dict:get("c" .. subject))
  if end_at and end_at - now() > SUBJECT_SECONDS / 2 then return end
  put(self, "c" .. subject, "", SUBJECT_SECONDS)
end

--- Forgets that, as the credential was refused.
function store_methods:forget_subject(subject)
  self.dict:delete("c" .. subject)
end

--- Whether a credential had a token recently.
function store_methods:is_subject_known(subject)
  return decode(self.dict:get("c" .. subject)) ~= nil
end

--- Counts a key whose token request failed, and returns how many different ones have since the endpoint last answered,
-- up to MAX_FAILING_KEYS.
function store_methods:count_failing(endpoint, key)
  local name = "k" .. endpoint
  local text = decode(self.dict:get(name)) or ""
  local mark = sub(key or "", 1, FAILING_KEY_BYTES)
  for first = 1, #text, FAILING_KEY_BYTES do
    if sub(text, first, first + FAILING_KEY_BYTES - 1) == mark then return #text / FAILING_KEY_BYTES end
  end
  text = sub(mark .. text, 1, MAX_FAILING_KEYS * FAILING_KEY_BYTES)
  put(self, name, text, FAILING_SECONDS)
  return #text / FAILING_KEY_BYTES
end

--- Begins that count again: the endpoint has answered.
function store_methods:clear_failing(endpoint)
  self.dict:delete("k" .. endpoint)
end

--- Whether renewals of a subject (a key, or an endpoint's fingerprint) wait.
function store_methods:is_paused(subject)
  local _, wait_until = decode(self.dict:get("p" .. subject))
  return wait_until ~= nil and now() < wait_until
end

--- Makes renewals of a subject wait: twice as long as the last time, or as long as the server asked for, in seconds.
-- Questions that were under way when the pause began only make it longer where the server asked for that.
function store_methods:pause(subject, retry_after)
  local name = "p" .. subject
  local text, wait_until = decode(self.dict:get(name))
  local seconds = tonumber((text or ""):match "^%d%d?$") or 0
  local is_paused = wait_until ~= nil and now() < wait_until
  if not is_paused then
    seconds = math.min(MAX_PAUSE_SECONDS, math.max(1, 2 * seconds))
    wait_until = now() + seconds
  end
  wait_until = math.max(wait_until, now() + (retry_after or 0))
  put(self, name, ("%d"):format(seconds), wait_until - now() + 2 * MAX_PAUSE_SECONDS, wait_until)
end

--- Ends that: the endpoint has answered.
function store_methods:resume(subject)
  self.dict:delete("p" .. subject)
end

--- Notes whether an endpoint works ("ok", or a code).
function store_methods:put_state(endpoint, state)
  self.dict:set("s" .. endpoint, state)
end

--- What was noted last; "ok" when nothing was.
function store_methods:get_state(endpoint)
  local state = self.dict:get("s" .. endpoint)
  return type(state) == "string" and answer.is_code(state) and state or "ok"
end

return store
