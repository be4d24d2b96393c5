-- ASN.1 in DER, as far as certificates and public keys need it: X.509 (RFC 5280), keys (RFC 3279, RFC 5480) and
-- signatures of ECDSA.

local der = {}

local INTEGER, BIT_STRING, OID, SEQUENCE, CONTEXT_0 = 0x02, 0x03, 0x06, 0x30, 0xa0
local RSA = "\42\134\72\134\247\13\1\1\1"
local EC = "\42\134\72\206\61\2\1"
local COMMON_NAME = "\6\3\85\4\3"

--- The curves that tokens are signed with: name, object identifier, bytes of a coordinate.
der.curves = {
  { name = "P-256", oid = "\42\134\72\206\61\3\1\7", bytes = 32 },
  { name = "P-384", oid = "\43\129\4\0\34", bytes = 48 },
  { name = "P-521", oid = "\43\129\4\0\35", bytes = 66 },
}

-- Reads the element at a position: { tag, first, last (of the content), start }, and the position after it. nil if
-- there is none, or if it extends beyond `limit`.
local function read(bytes, position, limit)
  local tag, length = bytes:byte(position, position + 1)
  if not length then return nil end
  local first = position + 2
  if length >= 0x80 then
    local count = length - 0x80
    if count < 1 or count > 4 then return nil end
    length = 0
    for i = first, first + count - 1 do length = length * 256 + (bytes:byte(i) or 0) end
    first = first + count
  end
  local last = first + length - 1
  if last > limit then return nil end
  return { tag = tag, first = first, last = last, start = position }, last + 1
end

-- The elements inside another one; nil where it is malformed.
local function list(bytes, element)
  local elements, position = {}, element.first
  while position <= element.last do
    local inner, behind = read(bytes, position, element.last)
    if not inner then return nil end
    elements[#elements + 1], position = inner, behind
  end
  return elements
end

local function content(bytes, element)
  return bytes:sub(element.first, element.last)
end

-- The elements of a sequence that takes up all of the bytes.
local function open(bytes)
  local outer, behind = read(bytes, 1, #bytes)
  if not outer or outer.tag ~= SEQUENCE or behind ~= #bytes + 1 then return nil end
  return list(bytes, outer)
end

local function write(tag, text)
  local length = #text
  if length < 0x80 then return string.char(tag, length) .. text end
  local digits = ""
  while length > 0 do
    digits, length = string.char(length % 256) .. digits, math.floor(length / 256)
  end
  return string.char(tag, 0x80 + #digits) .. digits .. text
end

-- A positive integer from big-endian bytes.
local function write_integer(bytes)
  bytes = bytes:gsub("^%z+", "")
  if bytes == "" or bytes:byte() >= 0x80 then bytes = "\0" .. bytes end
  return write(INTEGER, bytes)
end

--- The signature of ECDSA in DER from r and s side by side, as tokens have it.
function der.write_ecdsa_signature(signature)
  local half = #signature / 2
  return write(SEQUENCE, write_integer(signature:sub(1, half)) .. write_integer(signature:sub(half + 1)))
end

--- An RSA key from modulus and exponent (big-endian bytes). A key has `kind` ("RSA" or "EC"), its parts, and `spki`,
-- its SubjectPublicKeyInfo in DER.
function der.make_rsa_key(modulus, exponent)
  local numbers = write(SEQUENCE, write_integer(modulus) .. write_integer(exponent))
  local algorithm = write(SEQUENCE, write(OID, RSA) .. "\5\0")
  return { kind = "RSA", modulus = modulus:gsub("^%z+", ""), exponent = exponent:gsub("^%z+", ""),
    spki = write(SEQUENCE, algorithm .. write(BIT_STRING, "\0" .. numbers)) }
end

--- An EC key on one of der.curves, from its coordinates.
function der.make_ec_key(curve, x, y)
  local algorithm = write(SEQUENCE, write(OID, EC) .. write(OID, curve.oid))
  return { kind = "EC", curve = curve, x = x, y = y,
    spki = write(SEQUENCE, algorithm .. write(BIT_STRING, "\0\4" .. x .. y)) }
end

local function read_rsa_key(bits)
  local numbers = open(bits)
  if not numbers or #numbers ~= 2 or numbers[1].tag ~= INTEGER or numbers[2].tag ~= INTEGER then return nil end
  return der.make_rsa_key(content(bits, numbers[1]), content(bits, numbers[2]))
end

local function read_ec_key(bits, oid)
  for _, curve in ipairs(der.curves) do
    if curve.oid == oid then
      if #bits ~= 1 + 2 * curve.bytes or bits:byte() ~= 4 then return nil end
      return der.make_ec_key(curve, bits:sub(2, 1 + curve.bytes), bits:sub(2 + curve.bytes))
    end
  end
end

-- A key from a SubjectPublicKeyInfo; nil for a kind that tokens are not signed with.
local function read_key(bytes)
  local parts = open(bytes)
  local algorithm = parts and #parts == 2 and parts[2].tag == BIT_STRING and list(bytes, parts[1])
  if not algorithm or not algorithm[1] then return nil end
  local oid, bits = content(bytes, algorithm[1]), content(bytes, parts[2]):sub(2)
  if oid == RSA then return read_rsa_key(bits) end
  if oid == EC and algorithm[2] then return read_ec_key(bits, content(bytes, algorithm[2])) end
end

-- The last common name of a subject, for messages.
local function read_common_name(subject)
  local name
  for position in subject:gmatch("()" .. COMMON_NAME) do
    local value = read(subject, position + #COMMON_NAME, #subject)
    name = value and content(subject, value) or name
  end
  return name
end

--- A certificate: `key` (nil for a kind that tokens are not signed with) and `name` (the common name, or nil). nil
-- where the bytes are no certificate.
function der.read_certificate(bytes)
  local parts = open(bytes)
  local fields = parts and #parts == 3 and parts[1].tag == SEQUENCE and list(bytes, parts[1])
  if not fields or not fields[1] then return nil end
  -- serial number, algorithm, issuer, validity, subject, key; in front of them the version, unless it is 1
  local skip = fields[1].tag == CONTEXT_0 and 1 or 0
  local subject, key = fields[5 + skip], fields[6 + skip]
  if not key then return nil end
  return { key = read_key(bytes:sub(key.start, key.last)), name = read_common_name(content(bytes, subject)) }
end

return der
