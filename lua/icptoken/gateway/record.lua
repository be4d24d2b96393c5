-- The records of the dict: two times on clock.now(), the record's expiry and a mark, and a text. Decoding accepts any
-- bytes, as any Lua code in the same nginx can write to the dict.

local ffi = require "ffi"
local clock = require "icptoken.gateway.clock"

local now = clock.now
local sub = string.sub

local record = {}

-- Integers: a record may hold any bits, and LuaJIT takes some doubles for values of another type.
local record_head = ffi.typeof [[
  struct { uint32_t expiry_seconds, expiry_milliseconds, mark_seconds, mark_milliseconds; }
]]
local head_pointer = ffi.typeof("const $ *", record_head)
local HEAD_BYTES = ffi.sizeof(record_head)
local head = record_head()
local MAX_SECONDS = 2 ^ 32 - 1

local function split_time(time)
  time = math.max(0, math.min(MAX_SECONDS, time))
  local seconds = math.floor(time)
  return seconds, math.floor((time - seconds) * 1000)
end

--- Returns a record. expires_at, mark: times on clock.now(), at least 0. text: any bytes.
function record.encode(expires_at, mark, text)
  head.expiry_seconds, head.expiry_milliseconds = split_time(expires_at)
  head.mark_seconds, head.mark_milliseconds = split_time(mark)
  return ffi.string(head, HEAD_BYTES) .. text
end

--- Returns the text, the mark and the expiry of a record, or nil if there is none or it has expired.
function record.decode(value)
  if type(value) ~= "string" or #value < HEAD_BYTES then return nil end
  local times = ffi.cast(head_pointer, value)
  local expires_at = times.expiry_seconds + times.expiry_milliseconds / 1000
  if now() >= expires_at then return nil end
  return sub(value, HEAD_BYTES + 1), times.mark_seconds + times.mark_milliseconds / 1000, expires_at
end

return record
