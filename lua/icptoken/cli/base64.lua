-- Base64 in both alphabets.

local base64 = {}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local values = { ["-"] = 62, ["_"] = 63 }
for i = 1, #ALPHABET do values[ALPHABET:sub(i, i)] = i - 1 end

--- Base64 of bytes, with padding.
function base64.encode(bytes)
  local parts = {}
  for i = 1, #bytes, 3 do
    local a, b, c = bytes:byte(i, i + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    for place = 3, 0, -1 do
      local digit = math.floor(bits / 64 ^ place) % 64 + 1
      parts[#parts + 1] = ALPHABET:sub(digit, digit)
    end
    if not b then parts[#parts] = "=" end
    if not c then parts[b and #parts or #parts - 1] = "=" end
  end
  return table.concat(parts)
end

--- Bytes of base64 or base64url, with or without padding; nil where it is neither.
function base64.decode(text)
  text = text:gsub("=+$", "")
  if text:find "[^%w+/_-]" or #text % 4 == 1 then return nil end
  local bytes, bits, count = {}, 0, 0
  for character in text:gmatch "." do
    bits, count = bits * 64 + values[character], count + 6
    if count >= 8 then
      count = count - 8
      local byte = math.floor(bits / 2 ^ count)
      bytes[#bytes + 1] = string.char(byte)
      bits = bits - byte * 2 ^ count
    end
  end
  return table.concat(bytes)
end

return base64
