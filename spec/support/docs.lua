-- Reads the documentation: pages of Markdown, their headings, tables, links and code blocks.

local files = require "support.files"

local docs = {}

--- The beginning of a command that runs an example as a user does: without what the specs, or whoever runs them, set.
docs.AS_USER = "env -u MAKEFLAGS -u BUILD -u LUA_PATH -u LUA_CPATH -u LD_PRELOAD -u PREFIX -u INST_LIBDIR "
  .. "-u INST_LUADIR "

local function list(pattern)
  local process = assert(io.popen("ls " .. pattern))
  local names = {}
  for name in process:lines() do names[#names + 1] = name end
  process:close()
  return names
end

--- The paths of all pages.
function docs.list_pages()
  return list "*.md docs/*.md"
end

--- Replaces a plain text in a part of the documentation. Raises an error if the text does not occur.
function docs.replace(text, old, new)
  local replaced, count = text:gsub(old:gsub("%p", "%%%0"), (new:gsub("%%", "%%%%")))
  assert(count > 0, "the documentation does not have: " .. old)
  return replaced
end

--- The code blocks of a page, in order: { language, text, line }, where line is that of the first line of text.
function docs.read_blocks(page)
  local blocks, block, number = {}, nil, 0
  for line in (files.read(page) .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local language = line:match "^```(.*)$"
    if language and block then
      block.text = table.concat(block, "\n") .. "\n"
      blocks[#blocks + 1], block = block, nil
    elseif language then
      block = { language = language, line = number + 1, page = page }
    elseif block then
      block[#block + 1] = line
    end
  end
  assert(not block, page .. " has a code block without an end")
  return blocks
end

--- The blocks of a page in this language.
function docs.list_blocks(page, language)
  local found = {}
  for _, block in ipairs(docs.read_blocks(page)) do
    if block.language == language then found[#found + 1] = block end
  end
  return found
end

--- A page without its code blocks.
function docs.read_prose(page)
  return ("\n" .. files.read(page)):gsub("\n```.-\n```", "\n"):sub(2)
end

--- The headings of a page, as they are written.
function docs.list_headings(page)
  local headings = {}
  for heading in ("\n" .. docs.read_prose(page)):gmatch "\n#+ ([^\n]+)" do headings[#headings + 1] = heading end
  return headings
end

--- The anchor that GitHub generates for a heading.
function docs.make_anchor(heading)
  return (heading:lower():gsub("[^%w _-]", ""):gsub(" ", "-"))
end

--- The text below a heading, up to the next one of the same or a higher level.
function docs.read_section(page, heading)
  local level, found = nil, {}
  for line in (docs.read_prose(page) .. "\n"):gmatch "(.-)\n" do
    local marks, title = line:match "^(#+) (.+)$"
    if level and marks and #marks <= level then break end
    if level then found[#found + 1] = line end
    if title == heading then level = #marks end
  end
  assert(level, page .. " has no heading " .. heading)
  return table.concat(found, "\n") .. "\n"
end

--- The rows of the tables in a text, each a list of its cells, without the heads.
function docs.read_rows(text)
  local rows, head = {}, nil
  for line in text:gmatch "(.-)\n" do
    local cells = {}
    for cell in line:gmatch "|([^|]*)" do cells[#cells + 1] = cell:match "^%s*(.-)%s*$" end
    cells[#cells] = nil -- what follows the last bar
    if not line:find "^|" then
      head = nil
    elseif not head then
      head = cells
    elseif not line:find "^| %-%-%-" then
      rows[#rows + 1] = cells
    end
  end
  return rows
end

--- The words in code style in a text, as a sorted list.
function docs.list_names(text)
  local names = {}
  for name in text:gmatch "`([%w_]+)`" do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The names in the first column of the tables below a heading, sorted.
function docs.list_row_names(page, heading)
  local cells = {}
  for _, row in ipairs(docs.read_rows(docs.read_section(page, heading))) do cells[#cells + 1] = row[1] end
  return docs.list_names(table.concat(cells, " "))
end

--- The fields of a class in types/icptoken.lua, or the values of an alias, sorted.
function docs.list_types(name)
  local text, names = files.read "types/icptoken.lua", {}
  local class = text:match("%-%-%-@class icptoken%." .. name .. "%f[^%w].-\n\n")
  for field in (class or ""):gmatch "@field ([%w_]+)" do names[#names + 1] = field end
  local alias = text:match("%-%-%-@alias icptoken%." .. name .. "%f[^%w].-\n\n")
  for value in (alias or ""):gmatch '"([%w_]+)"' do names[#names + 1] = value end
  assert(#names > 0, name)
  table.sort(names)
  return names
end

--- The methods that types/icptoken.lua declares of a table, sorted. separator: "." or ":".
function docs.list_functions(name, separator)
  local found = {}
  for method in files.read "types/icptoken.lua":gmatch("\nfunction " .. name .. "%" .. separator .. "([%w_]+)%(") do
    found[#found + 1] = method
  end
  table.sort(found)
  return found
end

return docs
