-- icptoken.decode: the parts of a JWT, not verified.
describe("decode", function()
  local icptoken = require "icptoken"

  -- the example of the source document, which ICP signed in 2017
  local sample = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsImtpZCI6IjZMUDY6SFFJUjozVkg0OlZIUUk6TTRNMjpMSEFWOldGS0M6"
    .. "Mk9aQTpSTjRMOlQ3UUs6RzVLUTpKNkg1In0.eyJpc3MiOiJyZWdpc3RyeS10b2tlbi1pc3N1ZXIiLCJzdWIiOiIiLCJhdWQiOi"
    .. "IiLCJleHAiOjE1MTIwMjEyNjEsIm5iZiI6MTUxMjAxOTQ2MSwiaWF0IjoxNTEyMDE5NDYxLCJqdGkiOiJsYzVkRzVPVTI0anhj"
    .. "emVLIiwiYWNjZXNzIjpudWxsfQ.c2lnbmF0dXJl"

  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

  local function base64url(text)
    local digits = {}
    for i = 1, #text, 3 do
      local a, b, c = text:byte(i, i + 2)
      local group = a * 65536 + (b or 0) * 256 + (c or 0)
      for j = 1, b and (c and 4 or 3) or 2 do
        local digit = math.floor(group / 64 ^ (4 - j)) % 64
        digits[#digits + 1] = alphabet:sub(digit + 1, digit + 1)
      end
    end
    return table.concat(digits)
  end

  local function jwt(header, claims, signature)
    return base64url(header) .. "." .. base64url(claims) .. "." .. (signature or "c2ln")
  end

  it("returns header, claims and signature of ICP's example", function()
    local decoded = assert(icptoken.decode(sample))
    assert.same({ typ = "JWT", alg = "RS256",
      kid = "6LP6:HQIR:3VH4:VHQI:M4M2:LHAV:WFKC:2OZA:RN4L:T7QK:G5KQ:J6H5" }, decoded.header)
    assert.same({ iss = "registry-token-issuer", sub = "", aud = "", exp = 1512021261, nbf = 1512019461,
      iat = 1512019461, jti = "lc5dG5OU24jxczeK" }, decoded.claims)
    assert.equal("c2lnbmF0dXJl", decoded.signature)
  end)

  it("leaves a JSON null out", function()
    assert.is_nil(assert(icptoken.decode(sample)).claims.access)
  end)

  it("accepts every length of a part", function()
    for length = 0, 40 do
      local claims = '{"a":"' .. ("x"):rep(length) .. '"}'
      assert.same({ a = ("x"):rep(length) }, assert(icptoken.decode(jwt("{}", claims))).claims)
    end
  end)

  it("accepts all bytes that base64url can represent", function()
    local text = {}
    for byte = 32, 255 do
      local char = string.char(byte)
      if char ~= '"' and char ~= "\\" then text[#text + 1] = char end
    end
    local all = table.concat(text)
    assert.equal(all, assert(icptoken.decode(jwt("{}", '{"a":"' .. all .. '"}'))).claims.a)
  end)

  it("returns whole numbers as integers", function()
    local claims = assert(icptoken.decode(jwt("{}", '{"exp":1800.0,"list":[1,{"b":2.0}],"half":0.5}'))).claims
    assert.same({ exp = 1800, list = { 1, { b = 2 } }, half = 0.5 }, claims)
    if math.type then
      assert.equal("integer", math.type(claims.exp))
      assert.equal("integer", math.type(claims.list[2].b))
      assert.equal("float", math.type(claims.half))
    end
  end)

  it("strips white space and a leading Bearer", function()
    for _, text in ipairs { "Bearer " .. sample, " \n" .. sample .. "\r\n", "bearer\t" .. sample } do
      assert.is_table(icptoken.decode(text))
    end
  end)

  it("accepts a token without a signature", function()
    assert.equal("", assert(icptoken.decode(jwt('{"alg":"none"}', "{}", ""))).signature)
  end)

  local malformed = {
    "", ".", "..", "a", "a.b", "a.b.c", "a.b.c.d", sample .. ".x", sample .. "=", "Bearer", "Bearer ",
    sample:gsub("%.", "!", 1), jwt("[]", "{}"), jwt("{}", "[]"), jwt("1", "{}"), jwt("{}", "{"),
    jwt("{}", '{"a":1e999}'), jwt("{}", ""), "AAAAA.e30.x1", "e30.e30.a\0b", "\0", ("{"):rep(10) .. ".e30.",
    jwt("{}", ("["):rep(100)), jwt("{}", '{"a":' .. ("["):rep(100) .. ("]"):rep(100) .. "}"), "é.é.é",
  }
  it("returns nil and a message for text that is not a JWT", function()
    for i, text in ipairs(malformed) do
      local decoded, message, code, details = icptoken.decode(text)
      assert.is_nil(decoded, "case " .. i)
      assert.is_string(message)
      assert.equal("invalid_response", code)
      assert.is_false(details.retryable)
    end
  end)

  it("reads every number as Lua does", function()
    local numbers = { "0", "-0", "1", "-1", "10", "0.0", "-0.5", "0.05", "0.10", "10.01", "1e2", "1E+2", "1e-2", "0e5",
      "1.5e3", "1.5e-3", "0.5E+1", "123456789.123456789", "0.1", "0.30000000000000004", "2.2250738585072014e-308",
      "4.9e-324", "1.7976931348623157e308", "0." .. ("0"):rep(400) .. "1e401", "1" .. ("0"):rep(300) .. ".5e-300",
      "9007199254740993.0", "0.1e00001" }
    for _, number in ipairs(numbers) do
      local claims = assert(icptoken.decode(jwt("{}", ('{"a":[%s,%s],"b":%s}'):format(number, number, number)))).claims
      assert.equal(tonumber(number), claims.b, number)
      assert.same({ tonumber(number), tonumber(number) }, claims.a)
    end
  end)

  it("reads a number whose exponent is of any length", function()
    local claims = '{"a":1.5e-99999999999999999999,"b":0.0e99999999999999999999}'
    assert.same({ a = 0, b = 0 }, assert(icptoken.decode(jwt("{}", claims))).claims)
  end)

  it("does not change text in a string that looks like a number", function()
    local text = [[1.5,-2.5 \\ \" 3.5]]
    assert.same({ [ [[1.5,-2.5 \ " 3.5]] ] = [[1.5,-2.5 \ " 3.5]] },
      assert(icptoken.decode(jwt("{}", ('{"%s":"%s"}'):format(text, text)))).claims)
  end)

  it("refuses a number that is not written as in JSON", function()
    for _, number in ipairs { "01", "1.", ".5", "-", "-.5", "+1", "1e", "1e+", "1.5.2", "1 2", "0x10", "--1", "1.e5",
      "nan", "-inf", "Infinity", "-Infinity", "1-", "1,", "1.5e3.5" } do
      local decoded, message = icptoken.decode(jwt("{}", ('{"a":%s}'):format(number)))
      assert.is_nil(decoded, number)
      assert.is_string(message)
    end
  end)

  it("raises an error for a value that is not a string", function()
    for _, value in ipairs { 1, true, {} } do assert.is_false((pcall(icptoken.decode, value))) end
    assert.is_false((pcall(icptoken.decode)))
  end)
end)
