-- Whole files, read and written.
local files = {}

function files.read(path)
  local file = assert(io.open(path, "rb"), path)
  local content = file:read "*a"
  file:close()
  return content
end

function files.write(path, content)
  local file = assert(io.open(path, "wb"), path)
  assert(file:write(content))
  assert(file:close())
end

return files
