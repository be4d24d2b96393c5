-- Text for people and programs: for HTML, for JSON, and without what a terminal or a browser would act on.

local cjson = require "cjson"

local text = {}

-- Code points that a reader does not see, or that change how others are shown, in UTF-8: controls (U+0080 to U+009F),
-- marks and separators (U+200B to U+200F, U+2028 to U+202E), and isolates (U+2060 to U+206F).
local INVISIBLE = { "^\194[\128-\159]", "^\226\128[\139-\143\168-\174]", "^\226\129[\160-\175]" }
-- Valid sequences of more than one byte (RFC 3629 section 4).
local SEQUENCES = {
  "^[\194-\223][\128-\191]", "^\224[\160-\191][\128-\191]", "^[\225-\236\238\239][\128-\191][\128-\191]",
  "^\237[\128-\159][\128-\191]", "^\240[\144-\191][\128-\191][\128-\191]",
  "^[\241-\243][\128-\191][\128-\191][\128-\191]", "^\244[\128-\143][\128-\191][\128-\191]",
}

-- Returns the last byte of the visible character of more than one byte that begins at a byte, or nil.
local function find_character(bytes, first)
  local sequence = bytes:sub(first, first + 3)
  for _, pattern in ipairs(INVISIBLE) do
    if sequence:find(pattern) then return nil end
  end
  for _, pattern in ipairs(SEQUENCES) do
    local _, length = sequence:find(pattern)
    if length then return first + length - 1 end
  end
end

--- Returns the hexadecimal digits of any bytes.
function text.to_hex(bytes)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

--- Returns any bytes as visible UTF-8: what is not, or would not be seen, becomes \xHH.
function text.make_printable(bytes)
  if not bytes:find "[^\32-\126]" then return bytes end
  local parts, position = {}, 1
  while position <= #bytes do
    local last = select(2, bytes:find("^[\32-\126]+", position)) or find_character(bytes, position)
    parts[#parts + 1] = last and bytes:sub(position, last) or ("\\x%02X"):format(bytes:byte(position))
    position = (last or position) + 1
  end
  return table.concat(parts)
end

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- Returns a text as HTML shows it, in an element or in a quoted attribute.
function text.escape_html(plain)
  return (plain:gsub("[&<>\"']", ENTITIES))
end

-- cjson also escapes each slash, which is of use in a script of HTML only.
local function encode_scalar(value)
  return (cjson.encode(value):gsub("\\/", "/"))
end

local list_meta = {}

--- Marks a table as a list, so that it is one in JSON when it is empty, too. Returns it.
function text.list(values)
  return setmetatable(values, list_meta)
end

local function encode_list(values)
  local parts = {}
  for i, value in ipairs(values) do parts[i] = text.encode_json(value) end
  return "[" .. table.concat(parts, ",") .. "]"
end

--- Returns a plain value as JSON. The members of an object are sorted. Lists must be marked (see text.list).
function text.encode_json(value)
  if type(value) ~= "table" then return encode_scalar(value) end
  if getmetatable(value) == list_meta then return encode_list(value) end
  local names, parts = {}, {}
  for name in pairs(value) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do parts[i] = encode_scalar(name) .. ":" .. text.encode_json(value[name]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

return text
