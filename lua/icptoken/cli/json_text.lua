-- Edits JSON text in place: a member is set or removed, and every other byte stays as it is. For files of other
-- programs, where order, numbers, white space, unknown and duplicate members are theirs.

local json_text = {}

-- Members and items are recorded down to this depth; deeper ones are only checked.
local RECORDED_DEPTH = 4
local MAX_DEPTH = 1000

local LITERALS = { t = "true", f = "false", n = "null" }
local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

-- The position after a string that begins at `first`, or nil.
local function skip_string(text, first)
  local position = first + 1
  while true do
    local stop = text:find('["\\%z\1-\31]', position)
    local byte = stop and text:byte(stop)
    if byte == 34 then return stop + 1 end
    if byte ~= 92 then return nil end
    local behind = text:match('^\\u%x%x%x%x()', stop) or text:match('^\\["\\/bfnrt]()', stop)
    if not behind then return nil end
    position = behind
  end
end

-- The position after a number, or nil: JSON has no leading zeros, plus signs or bare dots.
local function skip_number(text, first)
  local position = text:match("^%-?()", first)
  position = text:match("^0()", position) or text:match("^[1-9]%d*()", position)
  if not position then return nil end
  position = text:match("^%.%d+()", position) or position
  return text:match("^[eE][+-]?%d+()", position) or position
end

local function skip_space(text, position)
  return text:match("^[ \t\r\n]*()", position)
end

local function encode_utf8(point)
  if point < 0x80 then return string.char(point) end
  local bytes, limit = {}, 0x40
  repeat
    table.insert(bytes, 1, string.char(0x80 + point % 0x40))
    point, limit = math.floor(point / 0x40), limit / 2
  until point < limit
  table.insert(bytes, 1, string.char(0x100 - limit * 2 + point))
  return table.concat(bytes)
end

-- The bytes that a string of JSON represents. Unpaired surrogates become U+FFFD, as in Go.
local function decode_string(quoted)
  local text = quoted:sub(2, -2)
  if not text:find("\\", 1, true) then return text end
  text = text:gsub("\\u([dD][89aAbB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
    return encode_utf8(0x10000 + (tonumber(high, 16) - 0xD800) * 0x400 + tonumber(low, 16) - 0xDC00)
  end)
  return (text:gsub("\\(.)(%x?%x?%x?%x?)", function(kind, digits)
    if kind ~= "u" then return (ESCAPES[kind] or kind) .. digits end
    local point = tonumber(digits, 16)
    return encode_utf8(point >= 0xD800 and point <= 0xDFFF and 0xFFFD or point)
  end))
end

-- The scanner keeps its own stack, so that the depth of the text is not that of Lua's.
local scanner = {}

local function fail_at(position, what)
  error({ message = ("%s at byte %d"):format(what, position) }, 0)
end

-- Reads the beginning of a value. Returns the position after it if it is complete, or nil for an object or a list.
function scanner.begin_value(text, position, node)
  local byte = text:sub(position, position)
  node.first = position
  if byte == "{" or byte == "[" then
    node.kind, node.members = byte == "{" and "object" or "list", {}
    return nil
  end
  local behind
  if byte == '"' then
    node.kind, behind = "string", skip_string(text, position)
  elseif LITERALS[byte] then
    local word = LITERALS[byte]
    node.kind = word
    behind = text:sub(position, position + #word - 1) == word and position + #word
  else
    node.kind, behind = "number", skip_number(text, position)
  end
  if not behind then fail_at(position, "no JSON value") end
  node.last = behind - 1
  return behind
end

-- Reads the name of a member and the colon after it. Returns the member and the position of its value.
function scanner.begin_member(text, position)
  local behind = text:sub(position, position) == '"' and skip_string(text, position)
  if not behind then fail_at(position, "no member name") end
  local colon = skip_space(text, behind)
  if text:sub(colon, colon) ~= ":" then fail_at(colon, "no colon") end
  local member = { name = decode_string(text:sub(position, behind - 1)), first = position, name_last = behind - 1,
    value = {} }
  return member, skip_space(text, colon + 1)
end

local function open_container(stack, node, position)
  if #stack >= MAX_DEPTH then fail_at(position, "too many levels") end
  stack[#stack + 1] = node
end

-- Continues inside the innermost container. Returns the position of the next value and its node, or the position after
-- the container, which is then complete.
function scanner.continue(text, position, stack)
  local node = stack[#stack]
  local close = node.kind == "object" and "}" or "]"
  position = skip_space(text, position)
  local byte = text:sub(position, position)
  if byte == close then
    node.last = position
    stack[#stack] = nil
    return position + 1
  end
  if node.has_values then
    if byte ~= "," then fail_at(position, "no comma") end
    position = skip_space(text, position + 1)
  end
  node.has_values = true
  if node.kind == "list" then
    local item = {}
    if #stack <= RECORDED_DEPTH then node.members[#node.members + 1] = item end
    return position, item
  end
  local member, value_position = scanner.begin_member(text, position)
  if #stack <= RECORDED_DEPTH then node.members[#node.members + 1] = member end
  return value_position, member.value
end

local function scan(text)
  local root, stack = {}, {}
  local position = skip_space(text, 1)
  local node = root
  repeat
    local behind = scanner.begin_value(text, position, node)
    if not behind then
      open_container(stack, node, position)
      behind = position + 1
    end
    node, position = nil, behind
    while #stack > 0 and not node do position, node = scanner.continue(text, position, stack) end
  until not node
  position = skip_space(text, position)
  if position <= #text then fail_at(position, "more text after the end") end
  return root
end

--- The tree of a JSON text, or nil and a message. A node has `kind` (object, list, string, number, true, false or
-- null), `first` and `last` (positions), and `members`: of an object, tables with `name`, `first` and `name_last` of
-- the name, and `value` (a node); of a list, nodes.
function json_text.parse(text)
  local ok, result = pcall(scan, text)
  if ok then return result end
  if type(result) == "table" then return nil, result.message end
  error(result, 0)
end

--- The bytes that a node of the kind "string" represents.
function json_text.read_string(text, node)
  return decode_string(text:sub(node.first, node.last))
end

local function equals(name, wanted) return name == wanted end

--- Members of an object that `matches` (a function of name and wanted; equality by default) finds, in order.
function json_text.find(node, wanted, matches)
  local found = {}
  if node.kind ~= "object" then return found end
  for i, member in ipairs(node.members) do
    if (matches or equals)(member.name, wanted) then found[#found + 1] = { member = member, index = i } end
  end
  return found
end

--- Valid JSON text with a line for each member; names, order, numbers and strings stay as they are written.
function json_text.indent(text)
  local parts, depth, position = {}, 0, 1
  local function break_line() parts[#parts + 1] = "\n" .. ("  "):rep(depth) end
  while position <= #text do
    local byte, behind = text:sub(position, position), position + 1
    if byte == '"' then
      behind = skip_string(text, position)
      parts[#parts + 1] = text:sub(position, behind - 1)
    elseif byte == "{" or byte == "[" then
      parts[#parts + 1] = byte
      local close = skip_space(text, behind)
      if text:find("^[%]}]", close) then
        parts[#parts + 1], behind = text:sub(close, close), close + 1
      else
        depth = depth + 1
        break_line()
      end
    elseif byte == "}" or byte == "]" then
      depth = depth - 1
      break_line()
      parts[#parts + 1] = byte
    elseif byte == "," then
      parts[#parts + 1] = byte
      break_line()
    elseif byte == ":" then
      parts[#parts + 1] = ": "
    elseif not byte:find "%s" then
      parts[#parts + 1] = byte
    end
    position = behind
  end
  return table.concat(parts)
end

--- A string as JSON.
function json_text.quote(text)
  return '"' .. text:gsub('[%z\1-\31"\\\127]', function(byte)
    if byte == '"' or byte == "\\" then return "\\" .. byte end
    return ("\\u%04x"):format(byte:byte())
  end) .. '"'
end

-- The layout of an object: the text `before` a member, the `colon` between name and value, and, if each member has a
-- line of its own, the `indent` of one and the `unit` that a level adds.
local function read_layout(text, root, node)
  local last = node.members[#node.members]
  local sample = last or root.members[#root.members]
  if not sample then return { before = "\n\t", colon = ": ", indent = "\t", unit = "\t", is_broken = true } end
  local colon = text:sub(sample.name_last + 1, sample.value.first - 1)
  local space = text:sub(1, sample.first - 1):match "[ \t\r\n]*$"
  local indent = space:match "\n([ \t]*)$"
  local root_space = text:sub(1, (root.members[1] or sample).first - 1):match "\n([ \t]*)$"
  local unit = root_space and root_space ~= "" and root_space or "\t"
  local newline = space:find "\r\n" and "\r\n" or "\n"
  if not indent then return { before = last and space or "", colon = colon, is_broken = false } end
  if not last then indent = (text:sub(1, node.first):match "\n([ \t]*)[^\n]*$" or "") .. unit end
  return { before = newline .. indent, colon = colon, indent = indent, unit = unit, newline = newline,
    is_broken = true }
end

-- A member with its value: text, or a { name, text } pair for an object with one member.
local function render_member(layout, name, value)
  if type(value) == "table" then
    if layout.is_broken then
      local newline = layout.newline or "\n"
      value = "{" .. newline .. layout.indent .. layout.unit .. json_text.quote(value[1]) .. layout.colon .. value[2]
        .. newline .. layout.indent .. "}"
    else
      value = "{" .. json_text.quote(value[1]) .. layout.colon .. value[2] .. "}"
    end
  end
  return json_text.quote(name) .. layout.colon .. value
end

--- Text with a member added to an object that does not have it. root: the tree of the text. value: JSON text, or
-- { name, JSON text } for an object that holds one member.
function json_text.add(text, root, node, name, value)
  local layout = read_layout(text, root, node)
  local last = node.members[#node.members]
  local rendered = render_member(layout, name, value)
  if last then
    return table.concat { text:sub(1, last.value.last), ",", layout.before, rendered, text:sub(last.value.last + 1) }
  end
  local closing = ""
  if layout.is_broken then
    closing = (layout.newline or "\n") .. layout.indent:sub(1, #layout.indent - #layout.unit)
  end
  return text:sub(1, node.first) .. layout.before .. rendered .. closing .. text:sub(node.last)
end

--- Text in which a node is replaced by other JSON text.
function json_text.replace(text, node, value)
  return text:sub(1, node.first - 1) .. value .. text:sub(node.last + 1)
end

--- Text without the member of an object that has this index, and without the comma and white space that belong to it.
function json_text.remove(text, node, index)
  local member, previous, following = node.members[index], node.members[index - 1], node.members[index + 1]
  if previous then return text:sub(1, previous.value.last) .. text:sub(member.value.last + 1) end
  if following then return text:sub(1, member.first - 1) .. text:sub(following.first) end
  return text:sub(1, node.first) .. text:sub(node.last)
end

return json_text
