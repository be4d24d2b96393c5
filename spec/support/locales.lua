-- Locales that a spec makes for itself with localedef; whether the system has them does not matter. A child that is
-- started with env = { LOCPATH = directory } knows them by their names.
local interpreter = require "support.interpreter"

local locales = {}

--- Makes the locales { name = source }, as { ["de_DE.UTF-8"] = "de_DE" }, and gives their directory; remove(directory)
-- at the end.
function locales.make(sources)
  local directory = os.tmpname()
  os.remove(directory)
  assert(os.execute("mkdir " .. directory))
  for name, source in pairs(sources) do
    local command = ("localedef --no-archive -c -i %s -f %s %s/%s 2>&1"):format(source, name:match "%.(.*)$",
      directory, name)
    local process = assert(io.popen(command))
    local output = process:read "*a"
    process:close()
    local made = io.open(("%s/%s/LC_NUMERIC"):format(directory, name))
    if not made then error("localedef (package locales) did not make " .. name .. ": " .. output) end
    made:close()
  end
  return directory
end

function locales.remove(directory)
  os.execute("rm -rf " .. interpreter.quote(directory))
end

return locales
