-- icptoken configure: has docker, podman and related tools ask icptoken for the credentials of a registry.

local cluster = require "icptoken.cli.cluster"
local cluster_options = require "icptoken.cli.cluster_options"
local configuration = require "icptoken.cli.configuration"
local docker_files = require "icptoken.cli.docker_files"
local docker_text = require "icptoken.cli.docker_text"
local failure = require "icptoken.cli.failure"
local json = require "icptoken.cli.json"
local output = require "icptoken.cli.output"
local process = require "icptoken.cli.process"
local reference = require "icptoken.cli.reference"
local system = require "icptoken.cli.system"

local command = {}

local HELPER = "icptoken"
local CLUSTER_ORDER = { "host", "port", "cacert" }

command.examples = {
  { "icptoken configure registry.example.com --gateway-user id-token" },
  { "icptoken configure registry.example.com --cluster prod --dry-run", "shows what would change" },
  { "icptoken configure registry.example.com --remove" },
}

--- Adds the options of this command to a parser.
function command.describe(parser)
  parser:argument "registry" :argname "REGISTRY" :args "+" :description "host name of a registry, with its port"
  parser:option "--gateway-user" :argname "USER"
    :description "the registry is behind icptoken's gateway, and this is the gateway's option token_user"
  parser:option "--for" :target "client" :choices { "docker", "podman", "all" } :default "all"
    :description "whose files are written"
  parser:flag "--dry-run" :description "show what would change, and change nothing"
  parser:flag "--remove" :description "take the registry out of the files"
end

local function check_registry(text)
  local name = reference.normalise_server(text)
  if name:find "^[%w%[][%w.:%[%]_-]*$" then return name end
  failure.usage("usage", "'%s' is not a registry, such as registry.example.com or mycluster.icp:8500",
    output.clean(text))
end

-- The options of a new cluster, as the command line has them.
local function describe_cluster(arguments)
  local fields = {}
  for _, option in ipairs(cluster_options.list) do
    local value = arguments[option.name]
    if value ~= nil and option.is_path and value ~= "-" then
      local path = system.load("stdlib").realpath(value)
      if not path then failure.usage("usage", "there is no file %s", output.clean(value)) end
      value = path
    end
    fields[option.name] = value
  end
  return json.encode(fields, CLUSTER_ORDER)
end

-- The name of the cluster, and its JSON if it is new.
local function choose_cluster(settings, arguments, registry)
  local name = arguments.cluster
  if arguments.host and not settings.clusters[name or ""] then
    if name or not cluster.choose(settings, arguments).name then
      return name or arguments.host, describe_cluster(arguments)
    end
  end
  local chosen = cluster.choose(settings, arguments, registry)
  if not chosen.name then return chosen.endpoint:match "^(.*):%d+$", describe_cluster(arguments) end
  return chosen.name
end

-- The edit of icptoken's own file for a registry.
local function edit_configuration(settings, arguments, registry)
  if arguments.remove then
    return function(text)
      return docker_text.remove(text, "registries", function(name)
        return reference.normalise_server(name) == registry
      end)
    end
  end
  local name, new_cluster = choose_cluster(settings, arguments, registry)
  local entry, key = reference.find_registry(settings.registries, registry)
  local gateway_user = arguments.gateway_user or entry and entry.gateway_user
  local store = entry and entry.credential_store
  local value = json.encode({ cluster = name, gateway_user = gateway_user, credential_store = store },
    { "cluster", "gateway_user", "credential_store" })
  local is_same = entry and entry.cluster == name and entry.gateway_user == gateway_user
  return function(text)
    if new_cluster then text = docker_text.set(text, "clusters", name, new_cluster) end
    return is_same and text or docker_text.set(text, "registries", key or registry, value)
  end, gateway_user ~= nil or store ~= nil or settings.credential_store ~= nil
end

local function edit_client(arguments, registry)
  return function(text)
    if arguments.remove then return docker_text.remove_helper(text, registry, HELPER) end
    return docker_text.set_helper(text, registry, HELPER)
  end
end

local function list_client_paths(client)
  local paths = {}
  if client ~= "podman" then paths[1] = docker_files.docker_path() end
  if client ~= "docker" then
    for _, path in ipairs(docker_files.podman_paths()) do paths[#paths + 1] = path end
  end
  return paths
end

local function make(arguments, path, edit)
  if arguments.dry_run then return docker_files.preview(path, edit) end
  local is_changed = docker_files.change(path, edit)
  output.write(is_changed and "changed    " or "unchanged  ", path, "\n")
  return is_changed
end

local function advise(registries, can_keep_login)
  -- docker and podman look for the helper in $PATH
  if not process.find("docker-credential-" .. HELPER) then
    output.note("docker-credential-%s is not in $PATH, where docker and podman look for it", HELPER)
  end
  if can_keep_login then
    output.write("Now log in: docker login ", registries[1], ", podman login ", registries[1], " or icptoken login\n")
  else
    output.note('%s takes a user name and a password, which icptoken does not keep: name a helper that does as '
      .. '"credential_store" in %s, or give --gateway-user if it is behind the gateway', registries[1],
      (configuration.find()))
  end
end

--- Runs the command.
function command.run(arguments)
  local registries, can_keep_login = {}, false
  for i, text in ipairs(arguments.registry) do registries[i] = check_registry(text) end
  for _, registry in ipairs(registries) do
    local settings = configuration.read()
    local edit
    edit, can_keep_login = edit_configuration(settings, arguments, registry)
    make(arguments, settings.path, edit)
    for _, path in ipairs(list_client_paths(arguments.client)) do
      make(arguments, path, edit_client(arguments, registry))
    end
  end
  if not arguments.remove and not arguments.dry_run then advise(registries, can_keep_login) end
end

return command
