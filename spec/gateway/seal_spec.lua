-- Sealing: compared with the test vectors of NIST and of the RFCs, and with sealed texts that were changed in all ways.

local ffi = require "ffi"
local files = require "support.files"
require "icptoken" -- loads libcurl, which loads libcrypto

-- In nginx the symbols of libcrypto are global; here they belong to a library that was loaded for libcurl only.
ffi.load(assert(files.read("/proc/self/maps"):match "%S*/libcrypto%.so%S*"), true)

local seal = require "icptoken.gateway.seal"

local function from_hex(text)
  return (text:gsub("%s", ""):gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function to_hex(bytes)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

-- AES-256-GCM: key, nonce, plaintext, associated text, ciphertext, tag. The first two are of NIST's
-- gcmEncryptExtIV256.rsp (CAVP), the others test cases 13 to 16 of the GCM specification that SP 800-38D is made of.
local VECTORS = {
  { "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4", "516c33929df5a3284ff463d7", "", "", "",
    "bdc1ac884d332457a1d2664f168c76f0" },
  { "31bdadd96698c204aa9ce1448ea94ae1fb4a9a0b3c9d773b51bb1822666b8f22", "0d18e06c7c725ac9e362e1ce",
    "2db5168e932556f8089a0622981d017d", "", "fa4362189661d163fcd6a56d8bf0405a", "d636ac1bbedd5cc3ee727dc2ab4a9489" },
  { ("00"):rep(32), ("00"):rep(12), "", "", "", "530f8afbc74536b9a963b4f1c4cb738b" },
  { ("00"):rep(32), ("00"):rep(12), ("00"):rep(16), "", "cea7403d4d606b6e074ec5d3baf39d18",
    "d0d1c8a799996bf0265b98b5d48ab919" },
  { "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
    [[d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
      1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255]], "",
    [[522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad]], "b094dac5d93471bdec1a502270e3cc6c" },
  { "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
    [[d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
      1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39]], "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    [[522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662]], "76fc6ece0f4e1768cddf8853bb2d551b" },
}

-- This many bytes, counting up from 0, in hex.
local function count_up(count)
  local bytes = {}
  for i = 1, count do bytes[i] = ("%02x"):format(i - 1) end
  return table.concat(bytes)
end

-- HMAC with SHA-256: key, text, digest; NIST's examples for FIPS 198-1 (keys of a block, of less and of more), and RFC
-- 4231, test cases 1, 2 and 6.
local DIGESTS = {
  { count_up(64), to_hex "Sample message for keylen=blocklen",
    "8bb9a1db9806f20df7f77b82138c7914d174d59e13dc4d0169c9057b133e1d62" },
  { count_up(32), to_hex "Sample message for keylen<blocklen",
    "a28cf43130ee696a98f14a37678b56bcfcbdd9e5cf69717fecf5480f0ebdf790" },
  { count_up(100), to_hex "Sample message for keylen=blocklen",
    "bdccb6c72ddeadb500ae768386cb38cc41c63dbb0878ddb9c7a38a431b78378d" },
  { ("0b"):rep(20), "4869205468657265", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
  { "4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
  { ("aa"):rep(131), to_hex "Test Using Larger Than Block-Size Key - Hash Key First",
    "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54" },
}

describe("sealing", function()
  for i, vector in ipairs(VECTORS) do
    local bytes = {}
    for j, hex in ipairs(vector) do bytes[j] = from_hex(hex) end
    local key, nonce, text, associated, ciphertext, tag = unpack(bytes)

    it("is AES-256-GCM, vector " .. i, function()
      local got, got_tag = seal.encrypt(key, nonce, text, associated)
      assert.same({ to_hex(ciphertext), to_hex(tag) }, { to_hex(got), to_hex(got_tag) })
      assert.equal(text, seal.decrypt(key, nonce, ciphertext, tag, associated))
    end)
  end

  for i, case in ipairs(DIGESTS) do
    it("derives keys with HMAC-SHA-256, vector " .. i, function()
      assert.equal(case[3], to_hex(seal.derive_key(from_hex(case[1]), from_hex(case[2]))))
    end)
  end

  local key = seal.derive_key("secret", "purpose")

  it("returns the original text, whatever it is", function()
    for _, length in ipairs { 0, 1, 15, 16, 17, 1000, 65536 } do
      local text = ("\0\255a"):rep(length):sub(1, length)
      for _, associated in ipairs { "", "\0", ("name"):rep(100) } do
        local sealed = seal.seal(key, text, associated)
        assert.equal(length + 28, #sealed)
        assert.equal(text, seal.open(key, sealed, associated))
      end
    end
  end)

  it("makes another sealed text each time", function()
    local seen = {}
    for _ = 1, 1000 do
      local sealed = seal.seal(key, "text", "")
      assert.is_nil(seen[sealed:sub(1, 12)])
      seen[sealed:sub(1, 12)] = true
    end
  end)

  it("detects every changed bit, and every missing or added byte", function()
    local sealed = seal.seal(key, "an ID token", "name")
    for i = 1, #sealed do
      for bit = 0, 7 do
        local byte = sealed:byte(i)
        local changed = byte % 2 ^ (bit + 1) >= 2 ^ bit and byte - 2 ^ bit or byte + 2 ^ bit
        assert.is_nil(seal.open(key, sealed:sub(1, i - 1) .. string.char(changed) .. sealed:sub(i + 1), "name"))
      end
      assert.is_nil(seal.open(key, sealed:sub(1, i - 1), "name"))
    end
    assert.is_nil(seal.open(key, sealed .. "\0", "name"))
    assert.equal("an ID token", seal.open(key, sealed, "name"))
  end)

  it("opens only with its own key and associated text", function()
    local sealed = seal.seal(key, "an ID token", "name")
    assert.is_nil(seal.open(seal.derive_key("secret", "another purpose"), sealed, "name"))
    assert.is_nil(seal.open(seal.derive_key("another secret", "purpose"), sealed, "name"))
    for _, other in ipairs { "", "nam", "name ", "Name" } do assert.is_nil(seal.open(key, sealed, other)) end
    for _, no_key in ipairs { "", "short", key .. "\0" } do
      assert.is_nil(seal.open(no_key, sealed, "name"))
      assert.is_nil(seal.seal(no_key, "text", ""))
    end
  end)

  it("can be loaded twice", function()
    package.loaded["icptoken.gateway.seal"] = nil
    local again = require "icptoken.gateway.seal"
    assert.are_not.equal(seal, again)
    assert.equal("text", again.open(key, seal.seal(key, "text", ""), ""))
  end)
end)
