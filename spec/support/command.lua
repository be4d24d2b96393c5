-- Runs the programs in bin/ as a user does: the same runtime and module paths as the specs, a home directory of their
-- own, and none of this machine's environment variables that they read.

local files = require "support.files"
local shell = require "support.shell"
local stub_client = require "stub.client"
local testkit = require "testkit"

local command = {}
local bed_methods = {}
local bed_meta = { __index = bed_methods }

-- A limit for a program that hangs, not for one that is slow.
local HANG_SECONDS = 300

local CLEARED = { "ID_TOKEN", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "XDG_STATE_HOME",
  "XDG_RUNTIME_DIR", "NO_COLOR", "COLUMNS", "ICPTOKEN_CONFIG", "ICPTOKEN_CLUSTER", "ICPTOKEN_HOST", "ICPTOKEN_PORT",
  "ICPTOKEN_LOG", "LUA_INIT", "LUA_PATH_5_2", "LUA_PATH_5_3", "LUA_PATH_5_4", "LUA_PATH_5_5", "LUA_CPATH_5_2",
  "LUA_CPATH_5_3", "LUA_CPATH_5_4", "LUA_CPATH_5_5" }

local function runtime_path()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return arg[first]
end

-- The programs may run in any directory, so the paths of modules must not depend on it.
local function make_absolute(paths, root)
  return (paths:gsub("[^;]+", function(path) return path:find "^/" and path or root .. "/" .. path end))
end

--- Runs a shell command and returns what it printed.
command.shell = shell.run

--- An empty directory that is a user's home. Fields: `home`, `root` (of the repository).
function command.open()
  local directory = command.shell("mktemp -d"):match "[^\n]+"
  return setmetatable({ home = directory, root = command.shell("pwd"):match "[^\n]+", count = 0 }, bed_meta)
end

--- Removes it.
function bed_methods:close()
  os.execute("chmod -R u+rwX '" .. self.home .. "' && rm -rf '" .. self.home .. "'")
end

--- Removes all files of the programs.
function bed_methods:clear()
  os.execute(("find '%s' -mindepth 1 -delete"):format(self.home))
end

--- A path in the home directory.
function bed_methods:path(name)
  return self.home .. "/" .. name
end

--- Writes a file below the home directory, with a mode ("600", say) or the umask's.
function bed_methods:write(name, text, mode)
  os.execute(("mkdir -p '%s'"):format(self:path(name):match "^(.*)/"))
  files.write(self:path(name), text)
  if mode then os.execute(("chmod %s '%s'"):format(mode, self:path(name))) end
  return self:path(name)
end

--- The content of a file below the home directory, or nil.
function bed_methods:read(name)
  local file = io.open(self:path(name), "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

--- Writes the configuration file. text: its JSON.
function bed_methods:configure(text)
  return self:write(".config/icptoken/config.json", text)
end

--- The environment of a program: name to value, or false.
function bed_methods:environment(changes)
  local all = { HOME = self.home, LUA_PATH = make_absolute(package.path, self.root),
    LUA_CPATH = make_absolute(package.cpath, self.root), TERM = "dumb" }
  for _, name in ipairs(CLEARED) do all[name] = false end
  for name, value in pairs(changes or {}) do all[name] = value end
  return all
end

--- The words that start a program of bin/ ("icptoken") with arguments.
function bed_methods:words(program, ...)
  return { runtime_path(), self.root .. "/bin/" .. program, ... }
end

--- Starts a program. options: the arguments as a list, `program` ("icptoken"), `env`, `stdin` (text). Returns a process
-- for finish, with its `pid`.
function bed_methods:start(options)
  self.count = self.count + 1
  local prefix = os.tmpname()
  files.write(prefix, options.stdin or "")
  local words = self:words(options.program or "icptoken", (table.unpack or unpack)(options))
  words.env, words.stdin = self:environment(options.env), prefix
  words.stdout, words.stderr = prefix .. ".out", prefix .. ".err"
  return { pid = assert(testkit.spawn(words)), prefix = prefix }
end

--- Waits for a program. Returns its exit status (the signal's name for one that was killed), its standard output, and
-- its standard error.
function bed_methods.finish(_, process)
  local how, status = testkit.waitpid(process.pid, HANG_SECONDS)
  if how == "running" then
    testkit.kill(process.pid, "KILL")
    testkit.waitpid(process.pid)
  end
  local out, err = files.read(process.prefix .. ".out"), files.read(process.prefix .. ".err")
  for _, ending in ipairs { "", ".out", ".err" } do os.remove(process.prefix .. ending) end
  return how == "exited" and status or how .. " " .. tostring(status), out, err
end

--- Starts a program and waits for it.
function bed_methods:run(options)
  return self:finish(self:start(options))
end

--- Starts the stub and the home directory that most specs of the programs use. For busted's setup. Returns both.
function command.begin()
  return stub_client.share(), command.open()
end

--- Stops both. For busted's teardown, also if begin failed.
function command.finish(stub, bed)
  if bed then bed:close() end
  if stub then stub:stop() end
end

--- Resets both. For busted's before_each. more: if given, the configuration file is written, with these members (see
-- command.configuration).
function command.reset(stub, bed, more)
  stub:reset()
  bed:clear()
  if more then bed:configure(command.configuration(stub, more)) end
end

--- The options that name the stub.
function command.flags(stub)
  return "--host", "localhost", "--port", tostring(stub.port), "--cacert", stub.ca
end

--- The JSON of a configuration with the stub as cluster "prod". more: JSON of further members, with a comma in front.
function command.configuration(stub, more)
  return ('{"clusters":{"prod":{"host":"localhost","port":%d,"cacert":"%s"}}%s}'):format(stub.port, stub.ca, more or "")
end

return command
