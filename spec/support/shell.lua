-- Shell commands whose output a spec reads.

local shell = {}

--- Runs a shell command and returns what it wrote to its standard output.
function shell.run(command)
  local process = assert(io.popen(command))
  local output = process:read "*a"
  process:close()
  return output
end

return shell
