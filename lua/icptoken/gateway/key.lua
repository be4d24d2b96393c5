-- Names for what a token depends on: SHA-256 over endpoint, request, credential and scope, each with its length before
-- it, so that no two different lists give the same bytes. Nobody can tell from a name what it stands for, but who has a
-- guess can try it; so names stay in the dict, and only their beginning is ever shown.
--
-- The three calls of libcrypto are used because SHA256() of OpenSSL 3 looks the algorithm up each time, which costs
-- more than the hash; and because the part that every request of a gateway shares is then hashed only once.

local ffi = require "ffi"

local key = {}

ffi.cdef [[
int icptoken_sha256_init(void *) __asm__("SHA256_Init");
int icptoken_sha256_update(void *, const void *, size_t) __asm__("SHA256_Update");
int icptoken_sha256_final(void *, void *) __asm__("SHA256_Final");
]]

-- More than SHA256_CTX has in any libcrypto (112 bytes).
local STATE_BYTES = 256

local C = ffi.C
local new_state = ffi.typeof("uint64_t[?]")
local state = new_state(STATE_BYTES / 8)
local bytes = ffi.typeof "const char *"
local lengths = ffi.new "uint32_t[2]"
local digest = ffi.new "unsigned char[32]"

local function update(text)
  lengths[0] = #text
  C.icptoken_sha256_update(state, lengths, 4)
  C.icptoken_sha256_update(state, text, #text)
end

-- Appends a plain value in a form that only an equal value has.
local function serialise(value, parts)
  local kind = type(value)
  parts[#parts + 1] = kind
  if kind ~= "table" then
    local text = kind == "number" and ("%.17g"):format(value) or tostring(value)
    parts[#parts + 1] = #text .. ":" .. text
    return
  end
  local names = {}
  for name in pairs(value) do names[#names + 1] = name end
  table.sort(names, function(a, b) return type(a) .. tostring(a) < type(b) .. tostring(b) end)
  parts[#parts + 1] = #names .. ":"
  for _, name in ipairs(names) do
    serialise(name, parts)
    serialise(value[name], parts)
  end
end

--- The 32 bytes that stand for a plain value; tables may be nested, and their order does not matter.
function key.fingerprint(value)
  local parts = {}
  serialise(value, parts)
  C.icptoken_sha256_init(state)
  update(table.concat(parts))
  C.icptoken_sha256_final(digest, state)
  return ffi.string(digest, 32)
end

--- What all keys that begin with the same texts share, to be passed to compute. As many texts for all keys.
function key.begin(...)
  C.icptoken_sha256_init(state)
  for i = 1, select("#", ...) do update((select(i, ...))) end
  local base = new_state(STATE_BYTES / 8)
  ffi.copy(base, state, STATE_BYTES)
  return base
end

--- The key of a credential, which is what stands in a text from a byte on, and of a scope: 32 bytes.
function key.compute(base, text, first, scope)
  lengths[0], lengths[1] = #text - first + 1, #scope
  ffi.copy(state, base, STATE_BYTES)
  C.icptoken_sha256_update(state, lengths, 8)
  C.icptoken_sha256_update(state, ffi.cast(bytes, text) + (first - 1), lengths[0])
  C.icptoken_sha256_update(state, scope, #scope)
  C.icptoken_sha256_final(digest, state)
  return ffi.string(digest, 32)
end

--- How a key is named in a log: its first 8 hex digits.
function key.shorten(name)
  return ("%02x%02x%02x%02x"):format(name:byte(1, 4))
end

return key
