-- Valid tokens, and tokens with faults: in keys, key ids, algorithms, names, times, access and syntax. The same seed
-- makes the same changes each time; the keys are new in each run.

local bignum = require "openssl.bignum"
local digest = require "openssl.digest"
local hmac = require "openssl.hmac"
local mime = require "mime"
local pkey = require "openssl.pkey"
local rand = require "openssl.rand"
local x509 = require "openssl.x509"
local x509_name = require "openssl.x509.name"

local mutations = {}
local unpack = table.unpack or unpack
local maker_methods = {}
local maker_meta = { __index = maker_methods }

local DAY = 86400
local ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
local CURVES = { ["P-256"] = "prime256v1", ["P-384"] = "secp384r1", ["P-521"] = "secp521r1" }
local HASHES = { RS256 = "sha256", RS384 = "sha384", RS512 = "sha512", ES256 = "sha256", ES384 = "sha384",
  ES512 = "sha512" }

local function encode(bytes)
  return bytes == "" and "" or (mime.b64(bytes))
end

local function encode_url(bytes)
  return (encode(bytes):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" }))
end

local function export_der(key)
  return (mime.unb64((key:toPEM "public":gsub("%-%-%-%-%-[^\n]*\n", ""))))
end

local function identify(key)
  local hash, text, bits, count = digest.new "sha256":final(export_der(key)):sub(1, 30), "", 0, 0
  for i = 1, #hash do
    bits, count = bits * 256 + hash:byte(i), count + 8
    while count >= 5 do
      count = count - 5
      local place = math.floor(bits / 2 ^ count)
      bits = bits - place * 2 ^ count
      text = text .. ID_ALPHABET:sub(place + 1, place + 1)
    end
  end
  return (text:gsub("....", "%0:"):gsub(":$", ""))
end

-- options: issuer (an identity), ca, from and till (seconds from now).
local function certify(key, name, options)
  options = options or {}
  local certificate, subject = x509.new(), x509_name.new()
  subject:add("CN", name)
  certificate:setVersion(3)
  certificate:setSerial(bignum.fromBinary("\1" .. rand.bytes(15)))
  certificate:setSubject(subject)
  certificate:setIssuer(options.issuer and options.issuer.certificate:getSubject() or subject)
  certificate:setLifetime(os.time() + (options.from or -DAY), os.time() + (options.till or DAY))
  certificate:setPublicKey(key)
  certificate:setBasicConstraints { CA = options.ca or false }
  certificate:setBasicConstraintsCritical(true)
  certificate:sign((options.issuer or { key = key }).key, "sha256")
  local pem = tostring(certificate)
  return { key = key, der = export_der(key), public = key:toPEM "public", id = identify(key),
    certificate = certificate, pem = pem,
    x5c = pem:gsub("%-%-%-%-%-[^\n]*\n", ""):gsub("%s", "") }
end

local function make_rsa(name, options)
  local identity = certify(pkey.new { type = "RSA", bits = 2048 }, name, options)
  identity.algorithm = "RS256"
  return identity
end

local function make_ec(curve, name, options)
  local identity = certify(pkey.new { type = "EC", curve = CURVES[curve] }, name, options)
  identity.algorithm, identity.curve = "ES" .. curve:sub(3):gsub("521", "512"), curve
  return identity
end

-- The two numbers of a DER sequence, or the coordinates of an uncompressed point, at the end of a SubjectPublicKeyInfo.
local function read_jwk(identity)
  local der = identity.der
  if identity.curve then
    local bytes = ({ ["P-256"] = 32, ["P-384"] = 48, ["P-521"] = 66 })[identity.curve]
    return { kty = "EC", crv = identity.curve, x = encode_url(der:sub(-2 * bytes, -bytes - 1)),
      y = encode_url(der:sub(-bytes)) }
  end
  -- 2048 bits and 65537: 256 bytes, then 02 03 01 00 01
  return { kty = "RSA", n = encode_url(der:sub(-261, -6)), e = "AQAB" }
end

local function to_raw_signature(signature, bytes)
  local position, numbers = signature:byte(2) >= 0x80 and 4 or 3, {}
  for i = 1, 2 do
    local length = signature:byte(position + 1)
    local number = signature:sub(position + 2, position + 1 + length):gsub("^%z+", "")
    numbers[i], position = ("\0"):rep(bytes - #number) .. number, position + 2 + length
  end
  return numbers[1] .. numbers[2]
end

local function sign(identity, algorithm, text)
  local hash = HASHES[algorithm]
  if not hash then return "signature" end
  local signature = identity.key:sign(digest.new(hash):update(text))
  if not identity.curve then return signature end
  return to_raw_signature(signature, ({ ["P-256"] = 32, ["P-384"] = 48, ["P-521"] = 66 })[identity.curve])
end

--- A maker of tokens. Its `bundle` is the PEM of the certificates that the registry trusts.
function mutations.new(seed)
  local self = setmetatable({ state = seed % 2147483647 + 1 }, maker_meta)
  local authority = make_rsa("token CA", { ca = true })
  local intermediate = make_ec("P-256", "intermediate", { ca = true, issuer = authority })
  self.trusted = { make_rsa "registry-token-issuer", make_ec("P-256", "on P-256"), make_ec("P-384", "on P-384"),
    make_ec("P-521", "on P-521"), authority, make_rsa("expired", { from = -2 * DAY, till = -DAY }) }
  self.strangers = { make_rsa "registry-token-issuer", make_ec("P-256", "on P-256"), make_ec("P-384", "stranger") }
  local leaf = self.trusted[1]
  self.chains = {
    { make_rsa("leaf", { issuer = authority }) },
    { make_ec("P-384", "leaf below", { issuer = intermediate }), intermediate },
    { make_ec("P-256", "leaf without intermediate", { issuer = intermediate }) },
    { make_rsa("expired leaf", { issuer = authority, from = -2 * DAY, till = -DAY }) },
    { make_rsa("future leaf", { issuer = authority, from = DAY, till = 2 * DAY }) },
    { make_rsa("leaf below a leaf", { issuer = leaf }) }, { leaf }, { self.trusted[6] }, { self.strangers[1] },
  }
  local parts = {}
  for i, identity in ipairs(self.trusted) do parts[i] = identity.pem end
  self.bundle = table.concat(parts)
  return self
end

--- A number from 1 to n.
function maker_methods:pick(n)
  self.state = self.state * 16807 % 2147483647
  return self.state % n + 1
end

function maker_methods:choose(list)
  return list[self:pick(#list)]
end

-- A token before it is encoded: the JSON text of each member, so that it can be any text.
local function quote(text)
  return '"' .. text .. '"'
end

local function render(members)
  local parts = {}
  for _, member in ipairs(members) do parts[#parts + 1] = quote(member[1]) .. ":" .. member[2] end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function set(members, name, value)
  for i, member in ipairs(members) do
    if member[1] == name then
      if value then member[2] = value else table.remove(members, i) end
      return
    end
  end
  if value then members[#members + 1] = { name, value } end
end

local function make_draft(identity, now)
  return { identity = identity, algorithm = identity.algorithm,
    header = { { "typ", '"JWT"' }, { "alg", quote(identity.algorithm) }, { "kid", quote(identity.id) } },
    claims = { { "iss", '"registry-token-issuer"' }, { "sub", '"admin"' }, { "aud", '"token-service"' },
      { "exp", ("%d"):format(now + 1800) }, { "nbf", ("%d"):format(now - 5) }, { "iat", ("%d"):format(now - 5) },
      { "jti", '"x"' }, { "access", '[{"type":"registry","name":"catalog","actions":["*"]}]' } } }
end

local function sign_with(draft, identity)
  draft.identity, draft.algorithm = identity, identity.algorithm
  set(draft.header, "alg", quote(identity.algorithm))
end

local function list_chain(chain)
  local texts = {}
  for i, identity in ipairs(chain) do texts[i] = quote(identity.x5c) end
  return "[" .. table.concat(texts, ",") .. "]"
end

local function render_jwk(jwk, more)
  local members = {}
  for _, name in ipairs { "kty", "crv", "x", "y", "n", "e" } do
    if jwk[name] then members[#members + 1] = { name, quote(jwk[name]) } end
  end
  for _, member in ipairs(more or {}) do members[#members + 1] = member end
  return render(members)
end

local BAD_NAMES = { '""', '"other"', '"Token-Service"', '"token-service "', "null", "5", '["token-service"]', "{}",
  '"token\\u002dservice"', '"registry\\u002dtoken-issuer"', '"token-service\\u0000"', "true" }

local ACCESSES = { "null", "[]", "{}", '""', "[{}]", '[{"type":"registry","name":"catalog","actions":[]}]',
  '[{"type":"registry","name":"catalog","actions":null}]', '[{"type":"registry","name":"catalog","actions":["pull"]}]',
  '[{"type":"registry","name":"catalog","actions":["pull","*"]}]',
  '[{"type":"repository","name":"catalog","actions":["*"]}]',
  '[{"type":"registry","class":"x","name":"catalog","actions":["*"]}]',
  '[{"TYPE":"registry","Name":"catalog","actionS":["*"]}]',
  '[{"type":"registry","name":"catalog","actions":"*"}]', '[{"type":"registry","name":"catalog","actions":[null,"*"]}]',
  '[{"type":"registry","name":"catalog"},{"type":"registry","name":"catalog","actions":["*"]}]',
  '[{"type":1,"name":"catalog","actions":["*"]}]', '[{"type":"registry","name":"catalog","actions":[1]}]',
  '[{"type":"registry","name":"catalog","actions":["*"],"more":{"a":[1.5e3]}}]', "[null]",
  '[{"type":"registry","name":"catalog","actions":["*"]},null]',
  '[{"type":"registry ","name":"catalog","actions":["*"]}]' }

local TIMES = { "0", "-1", "-0", "null", '"5"', "1e9", "1.5", "9223372036854775807", "9223372036854775808",
  "-9223372036854775808", "-9223372036854775809", "9223371974719179007", "9223371974719179008", "253402300800", "{}",
  "99999999999999999999999", "01", "1e400", "true" }

local OFFSETS = { -3600, -120, -70, -61, -60, -59, -50, -10, -1, 0, 1, 10, 50, 59, 60, 61, 70, 120, 3600 }

-- Each changes a draft. They are in a list, so that their order is fixed.
local CHANGES = {
  function(self, draft) set(draft.claims, "iss", self:choose(BAD_NAMES)) end,
  function(self, draft) set(draft.claims, "aud", self:choose(BAD_NAMES)) end,
  function(self, draft) set(draft.claims, "exp", ("%d"):format(os.time() + self:choose(OFFSETS))) end,
  function(self, draft) set(draft.claims, "nbf", ("%d"):format(os.time() + self:choose(OFFSETS))) end,
  function(self, draft) set(draft.claims, self:choose { "exp", "nbf", "iat" }, self:choose(TIMES)) end,
  function(self, draft) set(draft.claims,
    self:choose { "iss", "aud", "exp", "nbf", "iat", "jti", "sub", "access" }, nil) end,
  function(self, draft) set(draft.claims, "access", self:choose(ACCESSES)) end,
  function(self, draft) set(draft.claims,
    self:choose { "sub", "jti" }, self:choose { "1", "null", "[]", '"\\ud800"', '"\255"' }) end,
  -- names in other letters, twice, and of other claims
  function(self, draft)
    local pair = self:choose { { "ISS", '"other"' }, { "Iss", '"registry-token-issuer"' }, { "iss", '"other"' },
      { "i\197\191s", '"other"' }, { "\\u0069ss", '"other"' }, { "AUD", '"token-service"' },
      { "Exp", "5" }, { "more", "[[[]]]" },
      { "aud", "null" }, { "", "1" }, { "EXP", "null" } }
    table.insert(draft.claims, self:choose { 1, #draft.claims + 1 }, pair)
  end,
  -- algorithms
  function(self, draft)
    local name = self:choose { "RS256", "RS384", "RS512", "ES256", "ES384", "ES512" }
    set(draft.header, "alg", quote(name))
    if self:pick(3) > 1 then draft.algorithm = name end
  end,
  function(self, draft)
    set(draft.header, "alg", self:choose { '"none"', '"None"', '""', "null", '"rs256"', '"PS256"', '"EdDSA"', "256",
      '"RS1"', '"HS256"' })
    if self:pick(2) == 1 then draft.signature = self:choose { "", "x" } end
  end,
  function(self, draft)
    local name, hash = unpack(self:choose { { "HS256", "sha256" }, { "HS384", "sha384" }, { "HS512", "sha512" } })
    set(draft.header, "alg", quote(name))
    local secret = self:choose { draft.identity.public, draft.identity.der, draft.identity.pem,
      self.bundle, "" }
    function draft.sign(text) return hmac.new(secret, hash):final(text) end
  end,
  -- keys and key ids
  function(self, draft) set(draft.header, "kid", quote(self:choose(self.trusted).id)) end,
  function(self, draft)
    local id = draft.identity.id
    set(draft.header, "kid", self:choose { '""', "null", "1", quote(id:lower()), quote(id:sub(1, -2)), quote(id .. " "),
      quote(id:gsub(":", "")), quote(self.strangers[1].id), quote(id:gsub("^.", "%0\\u0000")) })
  end,
  function(_, draft) set(draft.header, "kid", nil) end,
  function(self, draft)
    local stranger = self:choose(self.strangers)
    sign_with(draft, stranger)
    if self:pick(2) == 1 then set(draft.header, "kid", quote(stranger.id)) end
  end,
  -- x5c
  function(self, draft)
    local chain = self:choose(self.chains)
    if self:pick(4) > 1 then sign_with(draft, chain[1]) end
    set(draft.header, "x5c", list_chain(chain))
  end,
  function(self, draft)
    set(draft.header, "x5c", self:choose { "null", "[]", "[null]",
      '[""]', '["x"]', "5", "{}", '["' .. draft.identity.x5c
      .. '","AAAA"]', '["' .. draft.identity.x5c:sub(1, -9) .. '"]', '["' .. draft.identity.x5c .. 'AAAA"]',
      '["' .. draft.identity.x5c:gsub("[+/]", { ["+"] = "-", ["/"] = "_" }) .. '"]',
      '["' .. draft.identity.x5c:gsub("=+$", "") .. '"]',
      '["' .. draft.identity.x5c:sub(1, 64) .. "\\n" .. draft.identity.x5c:sub(65) .. '"]' })
  end,
  -- jwk
  function(self, draft)
    local identity = self:pick(2) == 1 and draft.identity or self:choose(self.strangers)
    if self:pick(3) > 1 then sign_with(draft, identity) end
    local more = self:choose { {}, {}, { { "kid", quote(identity.id) } }, { { "kid", quote(draft.identity.id) } },
      { { "kid", "5" } }, { { "kid", "null" } }, { { "d", '"AA"' } }, { { "d", "null" } },
      { { "x5c", "[]" } }, { { "x5c", "null" } },
      { { "x5c", '"x"' } }, { { "x5c", "[5]" } }, { { "KTY", '"oct"' } }, { { "use", "[1]" } } }
    set(draft.header, "jwk", render_jwk(read_jwk(identity), more))
    if self:pick(2) == 1 then set(draft.header, "kid", nil) end
  end,
  function(self, draft)
    local chain = self:choose(self.chains)
    sign_with(draft, chain[1])
    local identity = self:pick(4) > 1 and chain[1] or self:choose(self.strangers)
    set(draft.header, "jwk", render_jwk(read_jwk(identity), { { "x5c", list_chain(chain) } }))
  end,
  function(self, draft)
    local jwk = read_jwk(draft.identity)
    local name = self:choose { "kty", "n", "e", "x", "crv" }
    if jwk[name] then
      jwk[name] = self:choose { "", "AA", "AAAAAAAB", "P-384", "oct", jwk[name] .. "=", jwk[name]:lower() } end
    set(draft.header, "jwk", render_jwk(jwk))
  end,
  function(self, draft) set(draft.header, "jwk",
    self:choose { "null", "{}", "[]", '"x"', "1", '{"kty":"oct","k":"AA"}' }) end,
  function(_, draft) set(draft.header, "jwk", render_jwk(read_jwk(draft.identity), { { "e", '"AQABAAAAAQ"' } })) end,
  -- signatures
  function(self, draft)
    local at = self:pick(60)
    function draft.after(signature)
      return signature:sub(1, at - 1) .. string.char(((signature:byte(at) or 0) + 1) % 256) .. signature:sub(at + 1)
    end
  end,
  function(self, draft)
    local way = self:pick(5)
    function draft.after(signature)
      return ({ "", signature .. "\0", "\0" .. signature, signature:sub(1, -2), ("\0"):rep(#signature) })[way]
    end
  end,
  -- syntax: the signature is over the text that is sent
  function(self, draft)
    local way = self:pick(7)
    function draft.encode(bytes)
      local text = encode_url(bytes)
      return ({ text .. ("="):rep(-#text % 4), text .. "=", text .. "==", encode(bytes), text .. "A", text .. "!",
        text:sub(1, -2) })[way]
    end
  end,
  function(self, draft)
    draft.claims_text = self:choose { "null", "[]", "", "{", "{} {}", " {}", '{"iss":}', "\239\187\191{}", '{"a":1,}' }
  end,
  function(self, draft) draft.header_text = self:choose { "null", "[]", "", "{", "{}", '"x"', '{"alg":"RS256"' } end,
  function(self, draft)
    local way = self:pick(6)
    function draft.join(a, b, c)
      return ({ a .. "." .. b, a .. "." .. b .. "." .. c .. ".", a .. "." .. b .. ".", "." .. b .. "." .. c,
        a .. ".." .. c, a .. "." .. b .. "." .. c .. "." .. c })[way]
    end
  end,
  -- nothing
  function() end,
}

--- The next token: valid, or changed in one or two ways.
function maker_methods:make()
  local draft = make_draft(self:choose(self.trusted), os.time())
  for _ = 1, self:pick(4) == 1 and 2 or 1 do self:choose(CHANGES)(self, draft) end
  local encode_part = draft.encode or encode_url
  local header = encode_part(draft.header_text or render(draft.header))
  local claims = encode_part(draft.claims_text or render(draft.claims))
  local text = header .. "." .. claims
  local can_sign = (draft.algorithm:sub(1, 2) == "ES") == (draft.identity.curve ~= nil)
  local signature = draft.signature or draft.sign and draft.sign(text)
    or sign(draft.identity, can_sign and draft.algorithm or draft.identity.algorithm, text)
  if draft.after then signature = draft.after(signature) end
  local join = draft.join or function(a, b, c) return a .. "." .. b .. "." .. c end
  return join(header, claims, encode_url(signature))
end

return mutations
