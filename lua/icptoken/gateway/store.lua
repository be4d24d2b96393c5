-- What the workers share, in a dict of nginx: tokens, the locks of those who fetch one, and short memories of what
-- failed. No credential is ever put here: all is named by keys (key.lua).
--
-- A record begins with two numbers: when it ends on clock.now(), and one more that depends on its kind. The dict has a
-- limit of its own on the wall clock, which only makes room. Whatever is read is checked, as a dict can be written to
-- by any code of the same nginx.

local ffi = require "ffi"
local cjson = require "cjson"
local clock = require "icptoken.gateway.clock"

local now = clock.now
local sub = string.sub
local find_regex = ngx.re.find

local store = {}
local store_methods = {}
local store_meta = { __index = store_methods }

local HEAD_BYTES = 16
local head_pointer = ffi.typeof "const struct { double end_at; double mark; } *"
local head = ffi.new "struct { double end_at; double mark; }"

-- RFC 6750 section 2.1: b64token. Nothing else may get into a header that nginx writes as it is.
local AUTHORIZATION = [[\ABearer [A-Za-z0-9._~+/-]+=*\z]]

-- Section 5 of the design: 1 s, 2 s, 4 s … 60 s.
local MAX_PAUSE_SECONDS = 60

-- How long workers can read what became of a fetch that failed.
local REPORT_SECONDS = 2

local function encode(end_at, mark, text)
  head.end_at, head.mark = end_at, mark
  return ffi.string(head, HEAD_BYTES) .. text
end

-- The text and the mark of a record, or nil where there is none or it has ended.
local function decode(value)
  if type(value) ~= "string" or #value < HEAD_BYTES then return nil end
  local numbers = ffi.cast(head_pointer, value)
  local is_alive = now() < numbers.end_at
  if not is_alive then return nil end
  return sub(value, HEAD_BYTES + 1), numbers.mark, numbers.end_at
end

local function put(self, name, text, seconds, mark)
  local stored, problem, forced = self.dict:set(name, encode(now() + seconds, mark or 0, text), seconds)
  if forced then self.on_eviction() end
  return stored, problem
end

--- The store in a dict. on_eviction is called when something that had not ended made room.
function store.new(dict, on_eviction)
  return setmetatable({ dict = dict, on_eviction = on_eviction }, store_meta)
end

--- Whether a token may stand in a header.
function store.is_authorization(value)
  return find_regex(value, AUTHORIZATION, "jo") ~= nil
end

--- The Authorization value of a key's token, when it is to be renewed, and when it ends; or nil.
function store_methods:get_token(key)
  local value = self.dict:get(key)
  if not value or type(value) ~= "string" or #value < HEAD_BYTES then return nil end
  local numbers = ffi.cast(head_pointer, value)
  local is_alive = now() < numbers.end_at
  if not is_alive then return nil end
  local authorization = sub(value, HEAD_BYTES + 1)
  if not find_regex(authorization, AUTHORIZATION, "jo") then return nil end
  return authorization, numbers.mark, numbers.end_at
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

--- Takes the lock of a key for an owner, for so many seconds at most. Returns whether it was free, and if not, whose
-- it is (nil if it has become free meanwhile).
function store_methods:lock(key, owner, seconds)
  local name = "l" .. key
  local value = encode(now() + seconds, 0, owner)
  local added, problem, forced = self.dict:add(name, value, seconds)
  if forced then self.on_eviction() end
  if added then return true end
  if problem ~= "exists" then return true end -- no room: rather twice than never
  local holder = decode(self.dict:get(name))
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

-- What of a failure is for other workers, too.
local function encode_failure(failure)
  return cjson.encode { code = failure.code, message = failure.message, status = failure.status,
    retry_after = failure.retry_after }
end

local function decode_failure(text)
  if not text then return nil end
  local ok, failure = pcall(cjson.decode, text)
  return ok and type(failure) == "table" and type(failure.code) == "string" and failure or nil
end

--- Tells who waits for an owner's fetch why it failed.
function store_methods:put_report(owner, failure)
  put(self, "r" .. owner, encode_failure(failure), REPORT_SECONDS)
end

--- Why an owner's fetch failed, or nil.
function store_methods:get_report(owner)
  return decode_failure(decode(self.dict:get("r" .. owner)))
end

--- Remembers for so many seconds that the endpoint refused a key's credential.
function store_methods:put_refusal(key, failure, seconds)
  put(self, "f" .. key, encode_failure(failure), seconds)
end

--- How the endpoint refused a key's credential a moment ago, or nil.
function store_methods:get_refusal(key)
  return decode_failure(decode(self.dict:get("f" .. key)))
end

--- Whether renewals of a subject (a key, or an endpoint's fingerprint) wait.
function store_methods:is_paused(subject)
  local _, wait_until = decode(self.dict:get("p" .. subject))
  return wait_until ~= nil and now() < wait_until
end

--- Makes renewals of a subject wait: twice as long as the last time, or as long as the server asked for, in seconds.
function store_methods:pause(subject, retry_after)
  local name = "p" .. subject
  local last = tonumber((decode(self.dict:get(name)))) or 0
  local seconds = math.min(MAX_PAUSE_SECONDS, math.max(1, 2 * last))
  local wait = math.max(seconds, retry_after or 0)
  put(self, name, ("%d"):format(seconds), wait + 2 * MAX_PAUSE_SECONDS, now() + wait)
end

--- Ends that: the endpoint has answered.
function store_methods:resume(subject)
  self.dict:delete("p" .. subject)
end

--- Notes whether an endpoint works ("ok", or a code), and returns what it was before where that was something else.
function store_methods:put_state(endpoint, state)
  local name = "s" .. endpoint
  local before = self.dict:get(name) or "ok"
  if before == state then return nil end
  self.dict:set(name, state)
  return before
end

return store
