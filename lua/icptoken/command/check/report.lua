-- The report: a line for each check as soon as it is known, for people; or all of it at once, as JSON.

local json = require "icptoken.cli.json"
local output = require "icptoken.cli.output"

local report = {}
local methods = {}

local COLOURS = { ok = "green", warn = "yellow", fail = "red" }
local WORDS = { ok = "ok  ", warn = "warn", fail = "FAIL" }
local INDENT = "      "
local ORDER = { "ok", "cluster", "endpoint", "first", "id", "state", "cause", "registry", "message", "advice", "checks",
  "not_checked" }

--- A report. as_json: whether it is for programs.
function report.new(as_json)
  local is_terminal = output.is_terminal(1)
  return setmetatable({ checks = {}, not_checked = {}, as_json = as_json,
    width = is_terminal and output.count_columns() or nil }, { __index = methods })
end

--- Breaks text into lines of at most `width` columns, at spaces. A word that is longer stays whole, as it may be a path
-- or an address to copy. Without width it is one line.
function report.wrap(text, width)
  if not width then return { text } end
  local lines, current = {}, nil
  for word in text:gmatch "%S+" do
    if current and #current + 1 + #word <= width then
      current = current .. " " .. word
    else
      lines[#lines + 1] = current
      current = word
    end
  end
  lines[#lines + 1] = current
  return lines
end

local function write_indented(self, text, first)
  local width = self.width and self.width - #INDENT
  for i, part in ipairs(report.wrap(text, width)) do output.write(i == 1 and first or INDENT, part, "\n") end
end

--- Adds a line. id and title are those of the check; judged is as line.lua makes it, already without secrets.
function methods:add(id, title, judged)
  local check = { id = id, state = judged.state, cause = judged.cause, registry = judged.registry or judged.about,
    message = judged.message, advice = judged.advice }
  table.insert(self.checks, check)
  if judged.state == "fail" then self.first = self.first or check end
  if self.as_json then return end
  if judged.registry then title = title .. " " .. judged.registry end
  write_indented(self, ("%s: %s"):format(title, judged.message),
    output.colour(COLOURS[judged.state], WORDS[judged.state], 1) .. "  ")
  if judged.advice then write_indented(self, "-> " .. judged.advice, INDENT) end
  io.stdout:flush()
end

--- Notes a check that could not be made, because an earlier one failed.
function methods:skip(id, title)
  table.insert(self.not_checked, { id = id, title = title })
end

local function list_titles(skipped)
  local titles = {}
  for i, one in ipairs(skipped) do titles[i] = one.title end
  return table.concat(titles, ", ")
end

local function count(checks, state)
  local number = 0
  for _, check in ipairs(checks) do
    if check.state == state then number = number + 1 end
  end
  return number
end

local function finish_json(self, chosen)
  local ids = {}
  for i, one in ipairs(self.not_checked) do ids[i] = one.id end
  output.write(json.encode({ ok = self.first == nil, cluster = chosen and chosen.name,
    endpoint = chosen and chosen.endpoint, first = self.first, checks = json.list(self.checks),
    not_checked = json.list(ids) }, ORDER), "\n")
end

--- Ends the report. chosen: the cluster, or nil. Returns the exit status.
function methods:finish(chosen)
  if self.as_json then
    finish_json(self, chosen)
    return self.first and 1 or 0
  end
  local width = self.width
  output.write "\n"
  local texts = {}
  if not self.first then
    local warnings = count(self.checks, "warn")
    texts[1] = warnings == 0 and "All is well."
      or ("It works, with %d %s."):format(warnings, warnings == 1 and "warning" or "warnings")
  else
    texts[1] = count(self.checks, "fail") > 1 and "Start with the first FAIL: the others may follow from it."
      or "See the line with FAIL."
    if self.first.id == "configuration" then
      texts[1] = "Nothing else was checked."
    elseif #self.not_checked > 0 then
      texts[2] = "Not checked, because of it: " .. list_titles(self.not_checked) .. "."
    end
  end
  for _, text in ipairs(texts) do output.write(table.concat(report.wrap(text, width), "\n"), "\n") end
  return self.first and 1 or 0
end

return report
