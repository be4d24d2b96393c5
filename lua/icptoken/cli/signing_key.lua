-- The keys that a registry knows from its rootcertbundle, and the one that a token names by kid, jwk or x5c, found in
-- the same way as distribution 2 does.

local base64 = require "icptoken.cli.base64"
local crypto = require "icptoken.cli.crypto"
local der = require "icptoken.cli.der"
local failure = require "icptoken.cli.failure"
local go_json = require "icptoken.cli.go_json"
local json_text = require "icptoken.cli.json_text"
local output = require "icptoken.cli.output"

local signing_key = {}

local BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
-- libtrust takes the first 240 bits of the hash.
local ID_BYTES = 30
-- Longer exponents crash distribution 2: libtrust makes a slice with a negative length.
local MAX_EXPONENT_BYTES = 4

local function encode_base32(bytes)
  local digits, bits, count = {}, 0, 0
  for i = 1, #bytes do
    bits, count = bits * 256 + bytes:byte(i), count + 8
    while count >= 5 do
      count = count - 5
      local digit = math.floor(bits / 2 ^ count)
      bits = bits - digit * 2 ^ count
      digits[#digits + 1] = BASE32:sub(digit + 1, digit + 1)
    end
  end
  return table.concat(digits)
end

--- Base64url without padding.
local function encode_url(bytes)
  return (base64.encode(bytes):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" }))
end

--- libtrust's fingerprint of a key, which is what distribution 2 compares `kid` with.
function signing_key.identify(key)
  local text = encode_base32(crypto.sha256(key.spki):sub(1, ID_BYTES))
  return (text:gsub("....", "%0:"):gsub(":$", ""))
end

--- The thumbprint of a key after RFC 7638, which is what distribution 3 compares `kid` with.
function signing_key.thumbprint(key)
  local text
  if key.kind == "RSA" then
    text = ('{"e":"%s","kty":"RSA","n":"%s"}'):format(encode_url(key.exponent), encode_url(key.modulus))
  else
    text = ('{"crv":"%s","kty":"EC","x":"%s","y":"%s"}'):format(key.curve.name, encode_url(key.x), encode_url(key.y))
  end
  return encode_url(crypto.sha256(text))
end

-- With `is_url`, padding may be missing; otherwise the text must have it, as for Go's decoders.
local function decode(text, is_url)
  if is_url then
    if #text % 4 == 1 or text:find "[+/]" then return nil end
    text = text .. ("="):rep(-#text % 4)
  else
    text = text:gsub("[\r\n]", "")
    if text:find "[-_]" then return nil end
  end
  local digits, padding = text:match "^([^=]*)(=*)$"
  if not digits or #text % 4 ~= 0 or #padding > 2 then return nil end
  return base64.decode(digits)
end

--- The bytes of a part of a token (base64url), or nil.
function signing_key.decode_part(text)
  return decode(text, true)
end

--- The certificates of a bundle: a list of { key =, id =, name = }. path and text: of the PEM file. Fails where a
-- registry would not start with it.
function signing_key.read_bundle(path, text)
  local certificates = {}
  for body in text:gmatch "%-%-%-%-%-BEGIN CERTIFICATE%-%-%-%-%-(.-)%-%-%-%-%-END CERTIFICATE%-%-%-%-%-" do
    local bytes = decode((body:gsub("%s", "")))
    local certificate = bytes and der.read_certificate(bytes)
    local position = #certificates + 1
    if not certificate then failure.fail("file", "%s: certificate %d is malformed", path, position) end
    if not certificate.key then
      failure.fail("file", "%s: certificate %d has a key that is neither RSA nor on P-256, P-384 or P-521; "
        .. "distribution 2 "
        .. "does not start with it", path, position)
    end
    certificate.id = signing_key.identify(certificate.key)
    certificate.name = certificate.name and output.clean(certificate.name)
    certificates[position] = certificate
  end
  if #certificates == 0 then
    failure.fail("file", "%s has no certificate (PEM); --cert takes the file that the registry's rootcertbundle "
      .. "names", path)
  end
  return { certificates = certificates, text = text, path = path }
end

local function find_certificate(bundle, id)
  for i, certificate in ipairs(bundle.certificates) do
    if certificate.id == id then return certificate, i end
  end
end

local function describe_certificate(bundle, id)
  local certificate, position = find_certificate(bundle, id)
  if not certificate then return "a certificate" end
  local name = certificate.name and (" (%s)"):format(certificate.name) or ""
  return ("certificate %d of %s%s"):format(position, bundle.path, name)
end

-- Each of the finders below returns the key and a description of it; or nil, the reason why there is none, and true if
-- distribution 2 crashes.

local function find_by_chain(bundle, list)
  local chain, leaf = {}, nil
  for i, text in ipairs(list) do
    chain[i] = decode(text)
    local certificate = chain[i] and der.read_certificate(chain[i])
    if not certificate then return nil, ("certificate %d of x5c is malformed"):format(i) end
    leaf = leaf or certificate
  end
  if not leaf then return nil, "x5c has no certificate" end
  local ok, reason = crypto.verify_chain(bundle.text, chain)
  if not ok then return nil, "the bundle does not vouch for the certificate in x5c: " .. reason end
  if not leaf.key then return nil, "the certificate in x5c has a key that is neither RSA nor on P-256, P-384 or "
    .. "P-521" end
  return leaf.key, ("x5c: %s is the key of a certificate that the bundle vouches for"):format(
    signing_key.identify(leaf.key))
end

-- Members of a JWK: exact names, the last one counts. Returns a function that reads a string, or nil.
local function open_jwk(text, node)
  local values = {}
  for _, member in ipairs(node.members) do values[member.name] = member.value end
  return values, function(name)
    local value = values[name]
    return value and value.kind == "string" and json_text.read_string(text, value) or nil
  end
end

local function read_number(take, name)
  local text = take(name)
  return text and decode(text, true)
end

local function read_rsa_jwk(values, take)
  local modulus, exponent = read_number(take, "n"), read_number(take, "e")
  if not modulus or not exponent then return nil, "jwk lacks n or e" end
  if #exponent > MAX_EXPONENT_BYTES then return nil, "the exponent in jwk has more than 4 bytes", true end
  if values.d then return nil, "jwk holds a private key" end
  return der.make_rsa_key(modulus, exponent)
end

local function read_ec_jwk(take)
  for _, curve in ipairs(der.curves) do
    if curve.name == take "crv" then
      local x, y = read_number(take, "x"), read_number(take, "y")
      if not x or not y or #x ~= curve.bytes or #y ~= curve.bytes then
        return nil, ("x and y of jwk are not %d bytes each"):format(curve.bytes)
      end
      return der.make_ec_key(curve, x, y)
    end
  end
  return nil, "the curve in jwk is not P-256, P-384 or P-521"
end

local function read_jwk(values, take)
  local kind, key, reason, is_crash = take "kty", nil, "jwk is neither an RSA nor an EC key", false
  if kind == "RSA" then
    key, reason, is_crash = read_rsa_jwk(values, take)
  elseif kind == "EC" then
    key, reason = read_ec_jwk(take)
  end
  if not key then return nil, reason, is_crash end
  local id = signing_key.identify(key)
  if values.kid and take "kid" ~= id then return nil, ("kid inside jwk is not %s, which is its key's"):format(id) end
  return key, id
end

local function find_by_jwk(bundle, text, node)
  if node.kind ~= "object" then return nil, "jwk is not an object" end
  local values, take = open_jwk(text, node)
  local key, id, is_crash = read_jwk(values, take)
  if not key then return nil, id, is_crash end
  if not values.x5c or values.x5c.kind ~= "list" then
    if find_certificate(bundle, id) then return key, ("jwk: %s is %s"):format(id, describe_certificate(bundle, id)) end
    return nil, ("jwk: %s is the key of none of the certificates"):format(id)
  end
  local list, message = go_json.strings(text, values.x5c)
  if not list then return nil, "x5c inside jwk " .. message end
  local leaf, reason = find_by_chain(bundle, list)
  if not leaf then return nil, "inside jwk: " .. reason end
  if leaf.spki ~= key.spki then return nil, ("jwk: %s is not the key of its certificate"):format(id) end
  return key, ("jwk: %s is the key of a certificate that the bundle vouches for"):format(id)
end

local function list_ids(bundle)
  local ids = {}
  for i, certificate in ipairs(bundle.certificates) do ids[i] = certificate.id end
  return table.concat(ids, ", ")
end

--- The key for verifying a token, and a description of it. header: as go_json.decode returns it, with `jwk` a node of
-- `text`. Returns nil and the reason if there is none, and true if distribution 2 crashes.
function signing_key.find(bundle, header, text)
  if header.x5c and #header.x5c > 0 then return find_by_chain(bundle, header.x5c) end
  if header.jwk then return find_by_jwk(bundle, text, header.jwk) end
  local id = header.kid
  if not id or id == "" then return nil, "the header has neither kid nor jwk nor x5c, so no key can be found" end
  local certificate = find_certificate(bundle, id)
  if certificate then return certificate.key, ("kid %s is %s"):format(id, describe_certificate(bundle, id)) end
  return nil, ("kid '%s' is the key of no certificate of %s, which has %s: the registry has another certificate "
    .. "than the "
    .. "one that signs"):format(output.clean(id), bundle.path, list_ids(bundle))
end

--- Whether distribution 3 finds a key for a token without jwk and x5c.
function signing_key.is_known_by_thumbprint(bundle, id)
  for _, certificate in ipairs(bundle.certificates) do
    if signing_key.thumbprint(certificate.key) == id then return true end
  end
  return false
end

return signing_key
