-- Signs the stub's JSON Web Tokens: RS256, with the header and the libtrust key name that ICP's image manager uses.
-- A signer owns one RSA key.

local digest = require "openssl.digest"
local rand = require "openssl.rand"
local text = require "text"

local jwt = {}

--- Returns the public key in DER (SubjectPublicKeyInfo).
function jwt.export_public_der(key)
  local encoded = key:toPEM("public"):gsub("%-%-%-%-%-[^\n]*\n", "")
  return text.decode_base64(encoded)
end

--- Returns libtrust's name of a key: SHA-256 of the public DER, its first 240 bits in base32, in groups of four.
function jwt.compute_key_name(key)
  local hash = digest.new("sha256"):final(jwt.export_public_der(key))
  return (text.encode_base32(hash:sub(1, 30)):gsub("....", "%0:"):gsub(":$", ""))
end

--- Returns the pin of a public key in curl's form.
function jwt.compute_pin(key)
  return "sha256//" .. text.encode_base64(digest.new("sha256"):final(jwt.export_public_der(key)))
end

--- Returns n random bytes as 2n hexadecimal digits.
function jwt.make_identifier(n)
  return (rand.bytes(n):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

local signer_methods = {}
local signer_meta = { __index = signer_methods }

--- Returns a token with these claims (JSON).
function signer_methods:sign(claims)
  local signed = self.header .. "." .. text.encode_base64url(claims)
  return signed .. "." .. text.encode_base64url(self.key:sign(digest.new("sha256"):update(signed)))
end

function jwt.new_signer(key)
  local key_name = jwt.compute_key_name(key)
  local header = ('{"typ":"JWT","alg":"RS256","kid":"%s"}'):format(key_name)
  return setmetatable({ key = key, key_name = key_name, header = text.encode_base64url(header) }, signer_meta)
end

return jwt
