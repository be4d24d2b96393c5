-- Seals a text under a key with AES-256-GCM (libcrypto, which nginx has loaded). Without the key, a sealed text can be
-- neither read nor changed unnoticed.
--
-- A sealed text is a random nonce of 12 bytes, the tag of 16 bytes, and the ciphertext. (NIST SP 800-38D: random nonces
-- of 96 bits are safe for 2^32 texts under one key.)

local ffi = require "ffi"

local seal = {}

-- Types have no names, so that this file can be loaded twice in one process.
ffi.cdef [[
void *icptoken_cipher_new(void) __asm__("EVP_CIPHER_CTX_new");
void icptoken_cipher_free(void *) __asm__("EVP_CIPHER_CTX_free");
const void *icptoken_aes_256_gcm(void) __asm__("EVP_aes_256_gcm");
int icptoken_cipher_ctrl(void *, int, int, void *) __asm__("EVP_CIPHER_CTX_ctrl");
int icptoken_cipher_init(void *, const void *, void *, const char *, const char *, int) __asm__("EVP_CipherInit_ex");
int icptoken_cipher_update(void *, void *, int *, const char *, int) __asm__("EVP_CipherUpdate");
int icptoken_cipher_final(void *, void *, int *) __asm__("EVP_CipherFinal_ex");
const void *icptoken_evp_sha256(void) __asm__("EVP_sha256");
unsigned char *icptoken_hmac(const void *, const char *, int, const char *, size_t, void *, void *) __asm__("HMAC");
int icptoken_rand_bytes(void *, int) __asm__("RAND_bytes");
]]

local C = ffi.C
local NONCE_BYTES, TAG_BYTES, KEY_BYTES = 12, 16, 32
-- Of openssl/evp.h.
local GET_TAG, SET_TAG = 0x10, 0x11
local ENCRYPT, DECRYPT = 1, 0

local new_bytes = ffi.typeof "unsigned char[?]"
local length = ffi.new "int[1]"

--- Returns the HMAC with SHA-256 (RFC 2104) of a text: 32 bytes; or nil if libcrypto fails.
function seal.authenticate(key, text)
  local digest = new_bytes(KEY_BYTES)
  if C.icptoken_hmac(C.icptoken_evp_sha256(), key, #key, text, #text, digest, nil) == nil then return nil end
  return ffi.string(digest, KEY_BYTES)
end

--- Derives a key of 32 bytes for one purpose from a secret: the HMAC of the purpose. It reveals neither the secret nor
-- the key for another purpose.
function seal.derive_key(secret, purpose)
  return seal.authenticate(secret, purpose)
end

-- Encrypts a text (tag: nil) or decrypts it (tag: the one to check). Returns the resulting text and the tag; or nil if
-- libcrypto fails or the tag is wrong.
local function run(context, key, nonce, text, associated, tag)
  local mode = tag and DECRYPT or ENCRYPT
  local out, made_tag = new_bytes(#text + 1), new_bytes(TAG_BYTES)
  if C.icptoken_cipher_init(context, C.icptoken_aes_256_gcm(), nil, key, nonce, mode) ~= 1 then return nil end
  local function update(target, part)
    return #part == 0 or C.icptoken_cipher_update(context, target, length, part, #part) == 1
  end
  if not update(nil, associated) or not update(out, text) then return nil end
  if tag then
    ffi.copy(made_tag, tag, TAG_BYTES)
    if C.icptoken_cipher_ctrl(context, SET_TAG, TAG_BYTES, made_tag) ~= 1 then return nil end
  end
  if C.icptoken_cipher_final(context, out + #text, length) ~= 1 then return nil end
  if not tag and C.icptoken_cipher_ctrl(context, GET_TAG, TAG_BYTES, made_tag) ~= 1 then return nil end
  return ffi.string(out, #text), ffi.string(made_tag, TAG_BYTES)
end

local function with_context(...)
  local context = C.icptoken_cipher_new()
  if context == nil then return nil end
  local text, tag = run(context, ...)
  C.icptoken_cipher_free(context)
  return text, tag
end

--- Encrypts a text under a key of 32 bytes and a nonce of 12 bytes, which must be different for each text. Returns the
-- ciphertext and the tag, or nil.
function seal.encrypt(key, nonce, text, associated)
  if #key ~= KEY_BYTES or #nonce ~= NONCE_BYTES then return nil end
  return with_context(key, nonce, text, associated)
end

--- Decrypts what encrypt returned. Returns the text, or nil if any argument differs from encrypt's.
function seal.decrypt(key, nonce, ciphertext, tag, associated)
  if #key ~= KEY_BYTES or #nonce ~= NONCE_BYTES or #tag ~= TAG_BYTES then return nil end
  return (with_context(key, nonce, ciphertext, associated, tag))
end

--- Returns random bytes of this number, which nobody can predict; or nil if libcrypto fails.
function seal.make_random(count)
  local random = new_bytes(count)
  if C.icptoken_rand_bytes(random, count) ~= 1 then return nil end
  return ffi.string(random, count)
end

--- Seals a text under a key of 32 bytes. associated: a text that must be the same to open it ("" for none). Returns nil
-- if libcrypto fails.
function seal.seal(key, text, associated)
  local nonce = seal.make_random(NONCE_BYTES)
  if not nonce then return nil end
  local ciphertext, tag = seal.encrypt(key, nonce, text, associated)
  return ciphertext and nonce .. tag .. ciphertext
end

--- Opens a sealed text. Returns nil if the key or the associated text differ, or if seal did not produce the text.
function seal.open(key, sealed, associated)
  local nonce, tag = sealed:sub(1, NONCE_BYTES), sealed:sub(NONCE_BYTES + 1, NONCE_BYTES + TAG_BYTES)
  return seal.decrypt(key, nonce, sealed:sub(NONCE_BYTES + TAG_BYTES + 1), tag, associated)
end

return seal
