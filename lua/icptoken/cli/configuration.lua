-- The configuration file: where it is, what it may contain, and what is wrong with it, in messages that name the field.

local cluster_options = require "icptoken.cli.cluster_options"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local json = require "icptoken.cli.json"
local nearest = require "icptoken.cli.nearest"
local output = require "icptoken.cli.output"
local system = require "icptoken.cli.system"

local configuration = {}

local ENOENT, ENOTDIR = 2, 20

local FILE_FIELDS = { "clusters", "registries", "credential_store" }
local REGISTRY_FIELDS = { "cluster", "gateway_user", "credential_store" }

local function list_option_names()
  local names = {}
  for i, option in ipairs(cluster_options.list) do names[i] = option.name end
  return names
end

--- The user's directory for files of a kind. variable: such as XDG_CONFIG_HOME; below: the directory below the home
-- directory that is used if the variable is not set. Fails without a home directory.
function configuration.user_directory(variable, below)
  local base = system.environment(variable)
  if base and base:find "^/" then return base .. "/icptoken" end
  local home = system.environment "HOME"
  if not home then
    failure.usage("configuration", "$HOME is not set, so there is no place for icptoken's files; set $%s", variable)
  end
  return home .. "/" .. below .. "/icptoken"
end

local function exists(path)
  local file, _, number = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil or number ~= ENOENT and number ~= ENOTDIR
end

--- The path of the file that is used, and whether it exists. A file that $ICPTOKEN_CONFIG names must exist.
function configuration.find()
  local path = system.environment "ICPTOKEN_CONFIG"
  if path then return path, true end
  local own
  if system.environment "HOME" or system.environment "XDG_CONFIG_HOME" then
    own = configuration.user_directory("XDG_CONFIG_HOME", ".config") .. "/config.json"
    if exists(own) then return own, true end
  end
  local shared = "/etc/icptoken/config.json"
  if exists(shared) then return shared, true end
  return own or shared, false
end

local function fail_in(path, format, ...)
  failure.usage("configuration", "%s: " .. format, path, ...)
end

local function check_fields(path, place, value, fields)
  if type(value) ~= "table" or value[1] ~= nil then fail_in(path, "%s must be an object", place) end
  local known = {}
  for _, name in ipairs(fields) do known[name] = true end
  for name in pairs(value) do
    if not known[name] then
      local prefix, shown = place == "the file" and "" or place .. ".", output.clean(name)
      fail_in(path, "unknown field '%s%s'%s", prefix, shown, nearest(shown, fields))
    end
  end
end

local function check_refused(path, place, cluster)
  if type(cluster) ~= "table" then return end
  for name, reason in pairs(cluster_options.refused) do
    if cluster[name] ~= nil then fail_in(path, "field '%s.%s' is not supported here: %s", place, name, reason) end
  end
end

local function check_cluster(path, name, cluster)
  local place = "clusters." .. output.clean(name)
  check_refused(path, place, cluster)
  check_fields(path, place, cluster, list_option_names())
  for field, value in pairs(cluster) do
    local option = cluster_options.list[field]
    if not option.is_valid(value) then fail_in(path, "field '%s.%s' must be %s", place, field, option.wanted) end
  end
  if not cluster.host and not cluster.url then fail_in(path, "%s has no 'host'", place) end
  -- relative paths in the file start at its own directory, because a helper may run in any directory
  for field, value in pairs(cluster) do
    if cluster_options.list[field].is_path and not value:find "^/" then
      cluster[field] = files.directory(path) .. "/" .. value
    end
  end
end

local function check_registry(path, name, registry, clusters)
  local place = "registries." .. output.clean(name)
  check_fields(path, place, registry, REGISTRY_FIELDS)
  for _, field in ipairs(REGISTRY_FIELDS) do
    local value = registry[field]
    if value ~= nil and (type(value) ~= "string" or value == "" or value:find "%c") then
      fail_in(path, "field '%s.%s' must be a string", place, field)
    end
  end
  if not registry.cluster then fail_in(path, "%s has no 'cluster'", place) end
  if not clusters[registry.cluster] then
    fail_in(path, "%s names the cluster '%s', which is not in 'clusters'", place, output.clean(registry.cluster))
  end
end

local function check_names(path, place, value)
  if type(value) ~= "table" or value[1] ~= nil then fail_in(path, "field '%s' must be an object", place) end
  for name in pairs(value) do
    if type(name) ~= "string" or name == "" or name:find "%c" then
      fail_in(path, "'%s' has a name with control characters, or an empty one", place)
    end
  end
end

local function check_file(path, content)
  check_fields(path, "the file", content, FILE_FIELDS)
  content.clusters, content.registries = content.clusters or {}, content.registries or {}
  check_names(path, "clusters", content.clusters)
  check_names(path, "registries", content.registries)
  for name, cluster in pairs(content.clusters) do check_cluster(path, name, cluster) end
  for name, registry in pairs(content.registries) do check_registry(path, name, registry, content.clusters) end
  local store = content.credential_store
  if store ~= nil and (type(store) ~= "string" or store == "") then
    fail_in(path, "field 'credential_store' must be a string")
  end
end

--- Checks the text of a configuration file; path is for messages. Returns its content: `clusters`, `registries`,
-- `credential_store`.
function configuration.parse(path, text)
  local content, message = json.decode_object(text)
  if not content then fail_in(path, "this is not JSON: %s", output.clean(message)) end
  check_file(path, content)
  content.path = path
  return content
end

--- Reads the configuration. Without a file it is empty. Fails where the file is wrong or cannot be read.
function configuration.read()
  local path, is_there = configuration.find()
  if not is_there then return { clusters = {}, registries = {}, path = path, is_missing = true } end
  local text, message = files.read(path)
  if not text then failure.usage("configuration", "cannot read the configuration: %s", message) end
  output.trace("configuration: %s", path)
  return configuration.parse(path, text)
end

return configuration
