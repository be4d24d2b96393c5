-- Reads logs of valgrind for a program that loads the module.
--
-- A leak is the module's if one of its frames is in the stack; memory that nginx has not freed at exit is only counted.
-- An invalid access is always a finding, as code that LuaJIT compiled has no name in a stack.

local shell = require "support.shell"
local valgrind_log = {}

local function list_sources()
  local sources = {}
  local process = assert(io.popen "scripts/list-c")
  for path in process:lines() do sources[path:match "[^/]+$"] = true end
  process:close()
  return sources
end

-- Returns the kind of a block: "crash", "access", "ours" or "elsewhere" (leaks), or nil.
local function classify(block, sources)
  if block:find "Process terminating with default action of signal" then return "crash" end
  if not block:find "\n +at 0x" then return nil end
  if not block:find "^[%d,]+.- bytes in [%d,]+ blocks are %a+ lost" then return "access" end
  if block:find "icptoken%.so" then return "ours" end
  for name in block:gmatch "%(([^():]+):%d+%)" do
    if sources[name] then return "ours" end
  end
  return "elsewhere"
end

-- Returns the blocks of a log, in which lines of several processes may be mixed.
local function split_blocks(text)
  local blocks, open = {}, {}
  for pid, line in text:gmatch "==(%d+)== ?([^\n]*)\n" do
    if line:find "%S" then
      open[pid] = (open[pid] or "") .. line .. "\n"
    elseif open[pid] then
      table.insert(blocks, open[pid])
      open[pid] = nil
    end
  end
  for _, block in pairs(open) do table.insert(blocks, block) end
  return blocks
end

-- Returns the text of all logs in a directory.
local function read_logs(dir)
  local text = shell.run("cat " .. dir .. "/*.log")
  return text
end

--- Reads all logs (*.log) in a directory. Calls show(block) for each finding, but for leaks elsewhere only if
-- shows_all. Returns how many findings of each kind there are ({ crash =, access =, ours =, elsewhere = }), and how
-- many processes have written a summary.
function valgrind_log.read(dir, show, shows_all)
  local text = read_logs(dir)
  local sources, counts = list_sources(), { crash = 0, access = 0, ours = 0, elsewhere = 0 }
  for _, block in ipairs(split_blocks(text)) do
    local kind = classify(block, sources)
    if kind then counts[kind] = counts[kind] + 1 end
    if kind and (kind ~= "elsewhere" or shows_all) then show(block) end
  end
  local _, processes = text:gsub("== ERROR SUMMARY", "")
  return counts, processes
end

return valgrind_log
