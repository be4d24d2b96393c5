-- JSON by dkjson: reading files and answers, and writing with members in a given order.

local failure = require "icptoken.cli.failure"

local json = {}

local function load_library()
  local ok, library = pcall(require, "dkjson")
  if not ok then
    failure.fail("missing_library",
      "this needs dkjson, and %s has none. Install it (Debian: lua-dkjson; LuaRocks: dkjson)", _VERSION)
  end
  return library
end

--- A Lua value from JSON text, or nil and a message. Members that are null are left out. Objects and lists have no
-- metatable.
function json.decode(text)
  local library = load_library()
  -- text that nests deeper than the Lua stack raises
  local ok, value, position, message = pcall(library.decode, text, 1, nil, nil, nil)
  if not ok then return nil, "it nests too deep" end
  if message then return nil, message end
  local rest = text:find("%S", position)
  if rest then return nil, "there is more text after its end, at byte " .. rest end
  return value
end

--- A JSON object from text, or nil and a message.
function json.decode_object(text)
  local value, message = json.decode(text)
  if type(value) == "table" and text:find "^%s*{" then return value end
  return nil, message or "it is not a JSON object"
end

--- JSON text of a value. order: names of members that come first, in this order, at every depth. Indented with
-- `indent` true.
function json.encode(value, order, indent)
  return load_library().encode(value, { keyorder = order, indent = indent or false })
end

--- A list that is written as [] when it is empty.
function json.list(values)
  return setmetatable(values, { __jsontype = "array" })
end

return json
