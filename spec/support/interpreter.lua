-- Runs Lua code in a child process: the same runtime, the same module paths and, in a sanitized run,
-- the same preloaded sanitizer as the specs that call it. The child dies with its parent.
-- It owns the temporary files of a run and removes them.

local testkit = require "testkit"

local interpreter = {}

-- A child that takes longer hangs: no child that a spec starts takes that long, even on a slow machine.
local HANG_SECONDS = 300

local function runtime_path()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return arg[first]
end

--- Quotes a string as one word of a POSIX shell.
function interpreter.quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

-- The variables a child needs; false unsets one.
local function child_environment(preload)
  local sanitizer = os.getenv "ICPTOKEN_SANITIZED"
  local libraries = {}
  if sanitizer then libraries[#libraries + 1] = sanitizer end
  if preload then libraries[#libraries + 1] = preload end
  local environment = { LUA_PATH = package.path, LUA_CPATH = package.cpath, LUA_INIT = false }
  for _, version in ipairs { "5_2", "5_3", "5_4" } do
    environment["LUA_PATH_" .. version] = false
    environment["LUA_CPATH_" .. version] = false
    environment["LUA_INIT_" .. version] = false
  end
  environment.LD_PRELOAD = #libraries > 0 and table.concat(libraries, ":")
  return environment
end

--- Returns a shell command that runs a script of this tree as the specs are run, with further
-- arguments; for io.popen and os.execute.
function interpreter.command(script, ...)
  local unset, set = {}, {}
  for name, value in pairs(child_environment()) do
    if value then
      set[#set + 1] = name .. "=" .. interpreter.quote(value)
    else
      unset[#unset + 1] = "-u " .. name
    end
  end
  local words = { "exec env", table.concat(unset, " "), table.concat(set, " "),
    interpreter.quote(runtime_path()), interpreter.quote(script) }
  for _, argument in ipairs { ... } do words[#words + 1] = interpreter.quote(argument) end
  return table.concat(words, " ")
end

local function write_script(code)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  assert(file:write(code))
  assert(file:close())
  return path
end

local function read_all(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read "*a"
  file:close()
  return content
end

--- Starts a child and returns an object with its `pid` and `output()` (what it printed so far).
-- options: `code` (a string of Lua) or `script` (a path), `args` (a list of strings), `env` (name to
-- string, or false to unset), `preload` (a library for LD_PRELOAD), `descriptors` (how many it may
-- have). Call wait or kill at its end.
function interpreter.start(options)
  local output_path = os.tmpname()
  local environment = child_environment(options.preload)
  for name, value in pairs(options.env or {}) do environment[name] = value end
  local command = { env = environment, stdin = "/dev/null", stdout = output_path, stderr = output_path }
  if options.descriptors then
    for _, word in ipairs { "sh", "-c", 'ulimit -n "$0" && exec "$@"', tostring(options.descriptors) } do
      command[#command + 1] = word
    end
  end
  command[#command + 1] = runtime_path()
  local code_path = options.code and write_script(options.code)
  command[#command + 1] = code_path or options.script
  for _, argument in ipairs(options.args or {}) do command[#command + 1] = argument end

  local child = { pid = assert(testkit.spawn(command)) }

  function child.output()
    return read_all(output_path)
  end

  --- Waits at most `timeout` seconds (HANG_SECONDS), then kills. Returns "exited", "killed" or "timeout", the
  -- status or signal, and all it printed.
  function child.wait(timeout)
    local how, value = testkit.waitpid(child.pid, timeout or HANG_SECONDS)
    if how == "running" then
      testkit.kill(child.pid, "KILL")
      testkit.waitpid(child.pid)
      how = "timeout"
    end
    local output = read_all(output_path)
    -- scripts/specs looks for this line, as a spec need not show what its child printed
    local crash = output:match "Tracer caught signal[^\n]*"
    if crash then io.stdout:write("in a child: ", crash, "\n") end
    os.remove(output_path)
    if code_path then os.remove(code_path) end
    return how, value, output
  end

  return child
end

--- Runs a child to its end. options: those of start, and `timeout` in seconds (HANG_SECONDS).
-- Returns whether it exited with 0, its exit status (nil if a signal or the time limit ended it),
-- all it printed, and how it ended ("exited", "killed", "timeout").
function interpreter.run(options)
  local how, value, output = interpreter.start(options).wait(options.timeout)
  local status = how == "exited" and value or nil
  return status == 0, status, output, how
end

--- Runs body in a forked child and returns its exit status: 0 if body returned a true value.
function interpreter.fork(body)
  local pid = testkit.fork()
  if pid == 0 then
    local ok, good = pcall(body)
    testkit._exit(ok and good and 0 or 1)
  end
  local how, status = testkit.waitpid(pid, HANG_SECONDS)
  return how == "exited" and status
end

return interpreter
