-- The options and arguments of a parser of argparse, as lists for help texts and manual pages.

local describe = {}

-- "-o, --output FILE"
local function name_option(option)
  local names = table.concat(option._aliases, ", ")
  if option._maxargs == 0 then return names end
  local value = option._argname
  if type(value) == "table" then value = value[1] end
  if not value then value = table.concat(option._choices or {}, "|") end
  return names .. " " .. value
end

--- Options of a parser: a list of { name, description }.
function describe.list_options(parser)
  local list = {}
  for _, option in ipairs(parser._options) do
    local text = option._description or ""
    if option._choices and option._argname then
      text = text .. " (" .. table.concat(option._choices, ", ") .. ")"
    end
    if type(option._default) == "string" then text = text .. " (default: " .. option._default .. ")" end
    list[#list + 1] = { name_option(option), text }
  end
  return list
end

--- Positional arguments of a parser: a list of { name, description }.
function describe.list_arguments(parser)
  local list = {}
  for _, argument in ipairs(parser._arguments) do
    list[#list + 1] = { argument._argname or argument._name, argument._description or "" }
  end
  return list
end

--- The synopsis of a command without its name: "[OPTIONS] REPOSITORY ...".
function describe.synopsis(parser)
  local parts = {}
  if #parser._options > 0 then parts[1] = "[OPTION ...]" end
  for _, argument in ipairs(parser._arguments) do
    local name = argument._argname or argument._name
    if argument._maxargs > 1 then name = name .. " ..." end
    if argument._minargs == 0 then name = "[" .. name .. "]" end
    parts[#parts + 1] = name
  end
  return table.concat(parts, " ")
end

return describe
