-- docker's and podman's files: where they are, and how they are changed: under a lock, so that no other icptoken
-- overwrites the change; atomically; or only shown, as a diff.

local docker_text = require "icptoken.cli.docker_text"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local output = require "icptoken.cli.output"
local session = require "icptoken.cli.session"
local system = require "icptoken.cli.system"

local docker_files = {}

local ENOENT = 2
local CONTEXT_LINES = 3

local function home_path(variable, below, name)
  local base = system.environment(variable)
  if base then return base .. "/" .. name end
  local home = system.environment "HOME"
  if not home then failure.usage("configuration", "$HOME is not set; set $%s", variable) end
  return home .. "/" .. below .. "/" .. name
end

--- The path of docker's file.
function docker_files.docker_path()
  return home_path("DOCKER_CONFIG", ".docker", "config.json")
end

--- The paths of podman's files (and of skopeo and buildah): the one that login writes to, which does not survive a
-- reboot, and the permanent one. If $REGISTRY_AUTH_FILE is set, it is the only one.
function docker_files.podman_paths()
  local chosen = system.environment "REGISTRY_AUTH_FILE"
  if chosen then return { chosen } end
  local paths = {}
  local runtime = system.environment "XDG_RUNTIME_DIR"
  local user = system.load("unistd").geteuid()
  if runtime then
    paths[1] = runtime .. "/containers/auth.json"
  elseif user == 0 then
    paths[1] = "/run/containers/0/auth.json"
  end
  paths[#paths + 1] = home_path("XDG_CONFIG_HOME", ".config", "containers/auth.json")
  return paths
end

-- A short name for a path, always the same. If two paths have the same name, their changes wait for each other.
local function hash(text)
  local value = 5381
  for i = 1, #text do value = (value * 33 + text:byte(i)) % 4294967296 end
  return ("%08x"):format(value)
end

--- The text of a file that can be edited. Fails where it is no JSON object.
function docker_files.read(path)
  local text, message, number = files.read(path)
  if not text and number ~= ENOENT then failure.fail("file", "cannot read %s", message) end
  local prepared, problem = docker_text.prepare(text)
  if not prepared then failure.fail("file", "%s was not changed, as it is not JSON: %s", path, problem) end
  return prepared, text
end

-- Applies an edit (a function from text to text).
local function apply(path, text, edit)
  local ok, result = pcall(edit, text)
  if ok then return result end
  if type(result) == "table" and not failure.is(result) then
    failure.fail("file", "%s was not changed: %s", path, result.message)
  end
  error(result, 0)
end

local function lock_path(path)
  return session.directory() .. "/file-" .. hash(files.resolve(path)) .. ".lock"
end

--- Changes a file by an edit, a function from text to text. Returns whether it made a difference.
function docker_files.change(path, edit)
  files.make_private_directory(session.directory())
  return files.with_lock(lock_path(path), function()
    local text, before = docker_files.read(path)
    local changed = apply(path, text, edit)
    if changed == text then return false end
    if not before then files.make_private_directory(files.directory(path)) end
    files.replace(path, changed, { keep_mode = true })
    return true
  end)
end

local function split_lines(text)
  local lines = {}
  for line in (text:gsub("\n$", "") .. "\n"):gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  return lines
end

--- The difference between two texts as lines of a unified diff, without its head; "" if there is none. All changes
-- are shown as one.
function docker_files.compare(before, after)
  local old, new = split_lines(before), split_lines(after)
  local first = 1
  while old[first] and old[first] == new[first] do first = first + 1 end
  local last_old, last_new = #old, #new
  while last_old >= first and last_new >= first and old[last_old] == new[last_new] do
    last_old, last_new = last_old - 1, last_new - 1
  end
  if last_old < first and last_new < first then return "" end
  local lines = {}
  for i = math.max(1, first - CONTEXT_LINES), first - 1 do lines[#lines + 1] = " " .. old[i] end
  for i = first, last_old do lines[#lines + 1] = "-" .. old[i] end
  for i = first, last_new do lines[#lines + 1] = "+" .. new[i] end
  for i = last_old + 1, math.min(#old, last_old + CONTEXT_LINES) do lines[#lines + 1] = " " .. old[i] end
  return table.concat(lines, "\n") .. "\n"
end

--- Shows what change would do. Returns whether there is a difference.
function docker_files.preview(path, edit)
  local text, before = docker_files.read(path)
  local changed = apply(path, text, edit)
  if changed == text then return false end
  output.write("--- ", path, "\n+++ ", path, "\n",
    docker_files.compare(before and before:find "%S" and docker_text.mask(text) or "", docker_text.mask(changed)))
  return true
end

return docker_files
