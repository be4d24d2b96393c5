-- The records of the fleet in Redis: their names, and their sealed values.
--
-- The keys of key.lua never leave the machine, as anyone who has one can test guesses of a password against it. A
-- record's name is an HMAC of the key under the fleet's secret. A value is a header, which Redis can read, and a sealed
-- text (seal.lua), whose key is another HMAC of the same two: so a record opens only for a gateway that has the secret
-- and whose client has the credential. Name and header are associated data, so a record does not open under another
-- name.
--
-- The text begins with the time when the record expires and the milliseconds before that from which on a token is due
-- for renewal. So anyone who can write to Redis still cannot prolong the life of a token.

local seal = require "icptoken.gateway.seal"

local records = {}
local records_methods = {}
local records_meta = { __index = records_methods }

-- Part of all names: the version of this format.
local PREFIX = "icptoken:1:"
local TAG_BYTES = 8
--- How long a tag is (see make_tag), in bytes.
records.TAG_BYTES = TAG_BYTES
-- The header of a record that is neither a token nor a report.
local NO_TAG = ("\0"):rep(TAG_BYTES)

-- The ends of the names.
local TOKEN, LEASE, REFUSAL, REPORT = ":t", ":l", ":f", ":r"

local TO_URL = { ["+"] = "-", ["/"] = "_", ["="] = "" }

--- Returns the records of a fleet. secret: 32 bytes.
function records.new(secret)
  return setmetatable({ secret = secret }, records_meta)
end

--- Returns the names of the records that belong to a key: { token, lease, refusal, report }. Raises if libcrypto fails.
function records_methods:make_names(key)
  local digest = assert(seal.authenticate(self.secret, "name" .. key), "libcrypto's HMAC failed")
  local stem = PREFIX .. "{" .. ngx.encode_base64(digest):gsub("[+/=]", TO_URL) .. "}"
  return { token = stem .. TOKEN, lease = stem .. LEASE, refusal = stem .. REFUSAL, report = stem .. REPORT }
end

--- Returns the tag of a token: 8 bytes that tell it from other tokens and do not reveal it. Raises if libcrypto fails.
function records_methods:make_tag(authorization)
  return assert(seal.authenticate(self.secret, "tag" .. authorization), "libcrypto's HMAC failed"):sub(1, TAG_BYTES)
end

local function make_sealing_key(self, key)
  return assert(seal.authenticate(self.secret, "seal" .. key), "libcrypto's HMAC failed")
end

local function seal_record(self, name, header, key, expiry, lead, text)
  local plain = ("%.3f %d %s"):format(expiry, lead, text)
  local sealed = assert(seal.seal(make_sealing_key(self, key), plain, name .. header), "libcrypto cannot encrypt")
  return header .. sealed
end

-- Returns a record's text, its expiry and the seconds before that from which on it is due; or nil.
local function open_record(self, name, header, key, value)
  local plain = seal.open(make_sealing_key(self, key), value:sub(#header + 1), name .. header)
  local expiry, lead, text = (plain or ""):match "^(%d+%.%d+) (%d+) (.*)$"
  if not expiry then return nil end
  return text, tonumber(expiry), tonumber(lead) / 1000
end

--- Returns the value of a token's record. expiry: in seconds since 1970. lead: the seconds before that from which on it
-- is due for renewal.
function records_methods:seal_token(name, key, authorization, expiry, lead)
  return seal_record(self, name, self:make_tag(authorization), key, expiry, math.floor(lead * 1000), authorization)
end

--- Returns the Authorization value in a token's record, its expiry, and the seconds before that from which on it is due
-- for renewal; or nil if the record does not open.
function records_methods:open_token(name, key, value)
  return open_record(self, name, value:sub(1, TAG_BYTES), key, value)
end

--- Returns the tag in the value of a token's record, without opening it.
function records.read_tag(value)
  return value:sub(1, TAG_BYTES)
end

--- Returns the value of a proof, that a credential has just had a token.
function records_methods:seal_proof(name, key, expiry)
  return seal_record(self, name, NO_TAG, key, expiry, 0, "")
end

--- Returns the expiry of a proof, or nil if the record does not open.
function records_methods:open_proof(name, key, value)
  local text, expiry = open_record(self, name, NO_TAG, key, value)
  return text == "" and expiry or nil
end

--- Returns the value of a record with a failure: a refusal, or, if it has an owner, that owner's report.
function records_methods:seal_failure(name, key, failure, expiry, owner)
  local text = ("%s %d"):format(failure.code, failure.retry_after or 0)
  return seal_record(self, name, owner and owner .. " " or NO_TAG, key, expiry, 0, text)
end

--- Returns the failure in such a record, { code, retry_after }, and the record's expiry; or nil if it does not open.
-- The code may be one that this version does not know.
function records_methods:open_failure(name, key, value, owner)
  local text, expiry = open_record(self, name, owner and owner .. " " or NO_TAG, key, value)
  local code, retry_after = (text or ""):match "^([%w_]+) (%d+)$"
  if not code then return nil end
  retry_after = tonumber(retry_after)
  return { code = code, retry_after = retry_after > 0 and retry_after or nil }, expiry
end

return records
