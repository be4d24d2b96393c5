-- Locales that a spec creates with localedef, whether the system has them or not. A child that is started with
-- env = { LOCPATH = directory } finds them by their names.
local interpreter = require "support.interpreter"
local shell = require "support.shell"

local locales = {}

-- Compiled locales have the byte order of the machine that reads them, which may be emulated.
local is_big_endian = string.pack and string.pack("=I2", 1):byte(1) == 0
local BYTE_ORDER = is_big_endian and "--big-endian" or "--little-endian"

--- Makes the locales { name = source }, as { ["de_DE.UTF-8"] = "de_DE" }, and returns their directory. The caller must
-- call remove(directory).
function locales.make(sources)
  local directory = os.tmpname()
  os.remove(directory)
  assert(os.execute("mkdir " .. directory))
  for name, source in pairs(sources) do
    local command = ("localedef %s --no-archive -c -i %s -f %s %s/%s 2>&1"):format(BYTE_ORDER, source,
      name:match "%.(.*)$", directory, name)
    local output = shell.run(command)
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
