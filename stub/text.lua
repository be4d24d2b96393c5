-- Formats of HTTP: base64, percent-encoding, queries, dates, header lists. A header list is { {name, value}, … } in the
-- order in which the headers were received.

local text = {}

local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

-- Encodes bytes in groups of `width` bits, the last one padded with zeros, each as a character of the alphabet.
local function encode_groups(bytes, width, alphabet)
  local out, held, held_bits = {}, 0, 0
  for i = 1, #bytes do
    held, held_bits = held * 256 + bytes:byte(i), held_bits + 8
    while held_bits >= width do
      held_bits = held_bits - width
      local group = math.floor(held / 2 ^ held_bits)
      held = held - group * 2 ^ held_bits
      out[#out + 1] = alphabet:sub(group + 1, group + 1)
    end
  end
  if held_bits > 0 then
    local group = held * 2 ^ (width - held_bits)
    out[#out + 1] = alphabet:sub(group + 1, group + 1)
  end
  return table.concat(out)
end

function text.encode_base64(bytes)
  local encoded = encode_groups(bytes, 6, BASE64)
  return encoded .. ("="):rep(-#encoded % 4)
end

--- Returns base64url without padding, as in a JWT.
function text.encode_base64url(bytes)
  return (encode_groups(bytes, 6, BASE64):gsub("[+/]", { ["+"] = "-", ["/"] = "_" }))
end

function text.encode_base32(bytes)
  return encode_groups(bytes, 5, BASE32)
end

--- Decodes base64 and base64url; skips other characters.
function text.decode_base64(encoded)
  local out, held, held_bits = {}, 0, 0
  for character in encoded:gsub("[-_]", { ["-"] = "+", ["_"] = "/" }):gmatch "[%w+/]" do
    held, held_bits = held * 64 + BASE64:find(character, 1, true) - 1, held_bits + 6
    if held_bits >= 8 then
      held_bits = held_bits - 8
      local byte = math.floor(held / 2 ^ held_bits)
      held = held - byte * 2 ^ held_bits
      out[#out + 1] = string.char(byte)
    end
  end
  return table.concat(out)
end

local function decode_component(value)
  return (value:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

--- Returns the fields of a query or a form, { name = { value, … } }.
function text.parse_form(form)
  local fields = {}
  for pair in form:gmatch "[^&]+" do
    local key, value = pair:match "^([^=]*)=?(.*)$"
    key = decode_component(key)
    fields[key] = fields[key] or {}
    table.insert(fields[key], decode_component(value))
  end
  return fields
end

--- Returns the path and the query fields of a request target.
function text.parse_target(target)
  local path, query = target:match "^([^?]*)%??(.*)$"
  return path, text.parse_form(query)
end

function text.first_field(fields, key)
  return fields[key] and fields[key][1]
end

function text.find_header(headers, name)
  name = name:lower()
  for _, header in ipairs(headers) do
    if header[1]:lower() == name then
      return header[2]
    end
  end
end

local DAYS = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" }
local MONTHS = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }

--- Returns a time in the form of a Date header, in any locale.
function text.format_http_date(epoch)
  local at = os.date("!*t", epoch)
  return ("%s, %02d %s %d %02d:%02d:%02d GMT"):format(DAYS[at.wday], at.day, MONTHS[at.month], at.year,
    at.hour, at.min, at.sec)
end

function text.format_rfc3339(epoch)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", epoch)
end

return text
