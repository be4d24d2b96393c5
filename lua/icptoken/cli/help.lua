-- The help texts. Each begins with what most readers need: command lines to copy.

local describe = require "icptoken.cli.describe"
local options = require "icptoken.cli.options"
local output = require "icptoken.cli.output"

local help = {}

local HEAD = [[
Registry tokens from IBM Cloud Private, for docker, podman, curl and scripts.

  icptoken login --host mycluster.icp --cacert ca.crt -u admin
  icptoken token default/app --push        # a registry token, and nothing else
  icptoken configure registry.example.com  # for docker and podman

Commands (icptoken COMMAND --help tells more):
]]

local TAIL = [[
Options of all commands:
  --cluster NAME, --host HOST, --port PORT, --cacert FILE, --insecure,
  --resolve HOST:PORT:ADDRESS, --timeout SECONDS, --id-token-file FILE,
  --json, -v, --version
]]

--- The help of the program: commands is a list of { name, summary }.
function help.render_program(commands)
  local lines = {}
  for i, row in ipairs(commands) do lines[i] = ("  %-20s %s\n"):format(row[1], row[2]) end
  return HEAD .. table.concat(lines) .. TAIL
end

-- "  icptoken token default/app   # explanation", with the explanation below where the width is short.
local function render_example(example, width)
  local line = "  " .. example[1]
  if not example[2] then return line .. "\n" end
  if #line + #example[2] + 4 <= width then return line .. "  # " .. example[2] .. "\n" end
  return "  # " .. example[2] .. "\n" .. line .. "\n"
end

local NAME_WIDTH = 26

-- The words of a text in lines of this many columns.
local function wrap(text, width)
  local lines, line = {}, ""
  for word in text:gmatch "%S+" do
    if line ~= "" and #line + 1 + #word > width then
      lines[#lines + 1], line = line, word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return lines
end

-- Names in a column, with their descriptions beside it, or below it if there is no room.
local function render_table(title, rows, width)
  if #rows == 0 then return "" end
  local column = width >= 60 and NAME_WIDTH or 6
  local parts = { title, ":\n" }
  for _, row in ipairs(rows) do
    local lines = wrap(row[2], math.max(20, width - column - 2))
    local name = "  " .. row[1]
    if #name < column then
      name = name .. (" "):rep(column - #name) .. table.remove(lines, 1)
    end
    parts[#parts + 1] = name .. "\n"
    for _, line in ipairs(lines) do parts[#parts + 1] = (" "):rep(column) .. line .. "\n" end
  end
  parts[#parts + 1] = "\n"
  return table.concat(parts)
end

--- The help of a command. name and summary are its; parser is its parser of argparse.
function help.render_command(name, summary, parser)
  local width = options.help_width(output.count_columns())
  local parts = { ("icptoken %s: %s\n\n"):format(name, summary) }
  for _, example in ipairs(options.load_command(name).examples or {}) do
    parts[#parts + 1] = render_example(example, width)
  end
  if #parts > 1 then parts[#parts + 1] = "\n" end
  parts[#parts + 1] = ("Usage: icptoken %s %s\n\n"):format(name, describe.synopsis(parser))
  parts[#parts + 1] = render_table("Arguments", describe.list_arguments(parser), width)
  parts[#parts + 1] = render_table("Options", describe.list_options(parser), width)
  parts[#parts + 1] = "icptoken --help lists the options of all commands.\n"
  return table.concat(parts)
end

return help
