-- JSON as Go's encoding/json reads it into a struct, which is how the registry reads a token: names match in any case,
-- the last of several members counts, null changes nothing, and a value of another type makes the whole text invalid.

local json_text = require "icptoken.cli.json_text"

local go_json = {}

local MAX_INT64, MIN_INT64 = "9223372036854775807", "9223372036854775808"

-- Whether a string of digits is more than another one; neither has leading zeros.
local function is_more(digits, limit)
  if #digits ~= #limit then return #digits > #limit end
  return digits > limit
end

-- A whole number as { text =, value =, exceeds = }: the value is a float, rounded if a float cannot represent it, and
-- exceeds is a function that says whether the number is greater than a limit (digits).
local function read_int64(text, node)
  local number = text:sub(node.first, node.last)
  local sign, digits = number:match "^(%-?)(%d+)$"
  if node.kind ~= "number" or not digits or is_more(digits, sign == "" and MAX_INT64 or MIN_INT64) then
    return nil, "is not a whole number of 64 bits"
  end
  local function exceeds(limit) return sign == "" and is_more(digits, limit) end
  return { text = number, value = tonumber(number) + 0.0, exceeds = exceeds }
end

local function read_string(text, node)
  if node.kind ~= "string" then return nil, "is not a string" end
  return json_text.read_string(text, node)
end

-- Two letters of Unicode equal k and s if case is ignored.
local function fold(name)
  return (name:gsub("\226\132\170", "k"):gsub("\197\191", "s"):lower())
end

local read_struct

-- A list of what `read` returns; `absent` stands for null.
local function make_list_reader(read, absent)
  return function(text, node)
    if node.kind ~= "list" then return nil, "is not a list" end
    local values = {}
    for i, item in ipairs(node.members) do
      local value, message = absent, nil
      if item.kind ~= "null" then value, message = read(text, item) end
      if value == nil then return nil, "has an item that " .. message end
      values[i] = value
    end
    return values
  end
end

--- Readers of values, for the fields of go_json.decode.
go_json.string, go_json.int64 = read_string, read_int64
go_json.strings = make_list_reader(read_string, "")

--- A list of structs; false stands for null.
function go_json.structs(fields)
  return make_list_reader(function(text, node) return read_struct(text, node, fields) end, false)
end

--- The tree of json_text for any value.
function go_json.raw(_, node)
  return node
end

function read_struct(text, node, fields)
  if node.kind == "null" then return {} end
  if node.kind ~= "object" then return nil, "is not an object" end
  local values = {}
  for _, member in ipairs(node.members) do
    local name = fields[member.name] and member.name or fold(member.name)
    local read = fields[name]
    if read and member.value.kind == "null" then
      if read ~= read_string and read ~= read_int64 then values[name] = nil end
    elseif read then
      local value, message = read(text, member.value)
      if value == nil then return nil, ("has a member '%s' that %s"):format(name, message) end
      values[name] = value
    end
  end
  return values
end

--- The values of a struct by name, nil for those that are absent; or nil and a message that continues a sentence whose
-- subject is the text: "has a member 'exp' that is not …". fields: name (in small letters) to reader.
function go_json.decode(text, fields)
  local root, message = json_text.parse(text)
  if not root then return nil, "is not JSON: " .. message end
  return read_struct(text, root, fields)
end

return go_json
