-- Reads and writes whole files.
local files = {}

--- Returns the content of a file.
function files.read(path)
  local file = assert(io.open(path, "rb"), path)
  local content = file:read "*a"
  file:close()
  return content
end

--- Creates or replaces a file.
function files.write(path, content)
  local file = assert(io.open(path, "wb"), path)
  assert(file:write(content))
  assert(file:close())
end

--- Returns whether a path can be opened for reading.
function files.exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

return files
