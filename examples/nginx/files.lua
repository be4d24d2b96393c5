-- Whole files, and names of files in shell commands.

local files = {}

--- Returns the content of a file. Raises if the file cannot be read.
function files.read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read "*a"
  file:close()
  return content
end

--- Returns whether a file exists that this user can read.
function files.exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

--- Creates or replaces a file. Raises if that fails.
function files.write(path, content)
  local file = assert(io.open(path, "wb"))
  assert(file:write(content))
  assert(file:close())
end

--- Returns a text quoted as one word of a POSIX shell.
function files.quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

return files
