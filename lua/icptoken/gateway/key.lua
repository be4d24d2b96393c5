-- Keys: 32 bytes by which the gateway finds what belongs to a token, a credential, a login or a target. A key is
-- SHA-256 over the texts that it depends on, each preceded by its length, so that no two different lists have the same
-- bytes. A key does not reveal them, but anyone can test a guess; so keys stay in the dict, and logs show only a short
-- form that cannot be tested (store.lua, shorten).
--
-- The hash is computed by three calls of libcrypto, because SHA256() of OpenSSL 3 looks up the algorithm each time,
-- which costs more than the hash, and because the part that all requests of a gateway share is then hashed only once.

local ffi = require "ffi"
local credential = require "icptoken.gateway.credential"

local key = {}
local keys_methods = {}
local keys_meta = { __index = keys_methods }

ffi.cdef [[
int icptoken_sha256_init(void *) __asm__("SHA256_Init");
int icptoken_sha256_update(void *, const void *, size_t) __asm__("SHA256_Update");
int icptoken_sha256_final(void *, void *) __asm__("SHA256_Final");
]]

-- More than SHA256_CTX has in any libcrypto (112 bytes).
local STATE_BYTES = 256

local C = ffi.C
local copy, cast, make_string = ffi.copy, ffi.cast, ffi.string
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

--- Returns SHA-256 of a text, 32 bytes.
function key.hash(text)
  C.icptoken_sha256_init(state)
  C.icptoken_sha256_update(state, text, #text)
  C.icptoken_sha256_final(digest, state)
  return ffi.string(digest, 32)
end

-- Appends a text that only an equal plain value has.
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

--- Returns the key of a plain value; tables may be nested, and the order of their fields does not matter.
function key.fingerprint(value)
  local parts = {}
  serialise(value, parts)
  C.icptoken_sha256_init(state)
  update(table.concat(parts))
  C.icptoken_sha256_final(digest, state)
  return ffi.string(digest, 32)
end

-- Returns the hash state after the texts with which a kind of key begins. All kinds begin with the same number of
-- texts.
local function begin(target_key, fingerprint, kind)
  C.icptoken_sha256_init(state)
  update(target_key)
  update(fingerprint)
  update(kind)
  local base = new_state(STATE_BYTES / 8)
  ffi.copy(base, state, STATE_BYTES)
  return base
end

--- Returns the key for a base of begin_tokens, the credential (a text from a byte on), and the scopes.
function key.compute(base, text, first, scopes)
  local length = #text - first + 1
  lengths[0], lengths[1] = length, #scopes
  copy(state, base, STATE_BYTES)
  C.icptoken_sha256_update(state, lengths, 8)
  C.icptoken_sha256_update(state, cast(bytes, text) + (first - 1), length)
  C.icptoken_sha256_update(state, scopes, #scopes)
  C.icptoken_sha256_final(digest, state)
  return make_string(digest, 32)
end

-- The user name of `token_user` decides how a client's Basic credential is read.
local function get_token_user(settings, kind)
  return kind == "basic" and settings.token_user or nil
end

--- Returns the keys of one gateway. settings: target and login_target (see target.lua), defaults (of each token
-- request), token_user. Its field `token_bases` has the base of the keys of tokens for each kind of credential.
function key.new(settings)
  local self = setmetatable({ settings = settings, token_bases = {}, credential_bases = {} }, keys_meta)
  for _, kind in ipairs(credential.KINDS) do
    self.token_bases[kind] = self:begin_tokens(kind, settings.defaults)
    self.credential_bases[kind] = begin(settings.target.key,
      key.fingerprint { "credential", get_token_user(settings, kind) }, kind)
  end
  self.login_base = begin(settings.login_target.key, key.fingerprint { "login", settings.token_user }, "basic")
  return self
end

--- Returns the base of the keys of tokens. defaults: service, account, client_id and offline_token of the token
-- request.
function keys_methods:begin_tokens(kind, defaults)
  local settings = self.settings
  return begin(settings.target.key, key.fingerprint { defaults, get_token_user(settings, kind) }, kind)
end

--- Returns the key of a credential, whatever it is used for.
function keys_methods:compute_credential_key(kind, text, first)
  return key.compute(self.credential_bases[kind], text, first, "")
end

--- Returns the key of an ID token as a credential.
function keys_methods:compute_id_token_key(id_token)
  return key.compute(self.credential_bases.bearer, id_token, 1, "")
end

--- Returns the key of the login with a user name and a password (Basic).
function keys_methods:compute_login_key(text, first)
  return key.compute(self.login_base, text, first, "")
end

return key
