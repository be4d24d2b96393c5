-- Which cluster a command is for, and with which options: the command line takes precedence over the environment, and
-- the environment over the configuration file.

local cluster_options = require "icptoken.cli.cluster_options"
local failure = require "icptoken.cli.failure"
local output = require "icptoken.cli.output"
local reference = require "icptoken.cli.reference"
local system = require "icptoken.cli.system"

local cluster = {}

local DEFAULT_PORT = "8443"

-- The value of an option from the environment, or nil.
local function read_variable(option)
  local text = option.parse and system.environment(option.variable)
  if not text then return nil end
  local value = option.parse(text)
  if value == nil then failure.usage("usage", "$%s must be %s", option.variable, option.form) end
  return value
end

-- What the command line and the environment say: name to value.
local function read_given(flags)
  local given = {}
  for _, option in ipairs(cluster_options.list) do
    local value = flags[option.name]
    if value == nil then value = read_variable(option) end
    given[option.name] = value
  end
  return given
end

local function list_names(clusters)
  local names = {}
  for name in pairs(clusters) do names[#names + 1] = output.clean(name) end
  table.sort(names)
  return names
end

-- "host:port" of a cluster's options: which cluster it is, whatever it is called.
local function read_endpoint(options)
  local host, port = options.host, options.port and ("%d"):format(options.port)
  if options.url then
    local scheme, authority = options.url:match "^(%a+)://([^/?#]*)"
    authority = authority and authority:gsub("^.*@", "") or ""
    host, port = authority:match "^(.-):(%d+)$"
    host = host or authority
    port = port or (scheme or ""):lower() == "http" and "80" or "443"
  end
  return (host or ""):lower() .. ":" .. (port or DEFAULT_PORT)
end

local function find_by_host(clusters, given)
  for _, name in ipairs(list_names(clusters)) do
    local options = clusters[name]
    if options and options.host and options.host:lower() == given.host:lower()
      and (not given.port or given.port == (options.port or tonumber(DEFAULT_PORT))) then
      return name
    end
  end
end

local function fail_without_name(configuration, names)
  if #names == 0 then
    failure.usage("configuration", "no cluster is known: name it with --host mycluster.icp --cacert ca.crt, or let "
      .. "icptoken configure write it to %s", configuration.path)
  end
  failure.usage("usage", "%s has %d clusters: choose one with --cluster (%s)", configuration.path, #names,
    table.concat(names, ", "))
end

-- The name of the cluster in the configuration; nil where host or url were given for one that is not in it.
local function choose_name(configuration, flags, given, registry)
  local name = flags.cluster or system.environment "ICPTOKEN_CLUSTER"
  local names = list_names(configuration.clusters)
  if name then
    if configuration.clusters[name] then return name end
    failure.usage("usage", "%s has no cluster '%s'%s", configuration.path, output.clean(name),
      #names > 0 and "; it has " .. table.concat(names, ", ") or "")
  end
  local entry = registry and reference.find_registry(configuration.registries, registry)
  if entry then return entry.cluster end
  if given.host then return find_by_host(configuration.clusters, given) end
  if given.url then return nil end
  if #names == 1 then return names[1] end
  fail_without_name(configuration, names)
end

--- The cluster that a command is for: `name` (nil for one that is not in the configuration), `options` (for the
-- module), `endpoint` ("host:port"). flags: the command line's, by option name, and `cluster`. registry: the one that
-- the command names, or nil.
function cluster.choose(configuration, flags, registry)
  local given = read_given(flags)
  local name = choose_name(configuration, flags, given, registry)
  local options = {}
  for option, value in pairs(name and configuration.clusters[name] or {}) do options[option] = value end
  if given.host then options.url = nil end
  if given.url then options.host, options.port, options.path = nil, nil, nil end
  for option, value in pairs(given) do options[option] = value end
  local chosen = { name = name, options = options, endpoint = read_endpoint(options) }
  output.trace("cluster: %s%s", chosen.endpoint, name and " (" .. name .. ")" or "")
  return chosen
end

--- The cluster of a registry in the configuration, for a helper, which has no command line: only the configuration and
-- the environment count.
function cluster.of_registry(configuration, entry)
  return cluster.choose(configuration, { cluster = entry.cluster })
end

--- The options for icptoken.login, without user name and password.
function cluster.login_options(chosen)
  local options = {}
  for name, value in pairs(chosen.options) do
    if cluster_options.list[name].is_of_login then options[name] = value end
  end
  local url = chosen.options.url
  if url then
    options.host, options.port = nil, nil
    options.url = (url:match "^%a+://[^/?#]*" or url) .. "/idprovider/v1/auth/identitytoken"
  end
  return options
end

--- How to name the cluster on the command line: " --cluster prod", or " --host mycluster.icp --cacert ca.crt".
function cluster.flags(chosen)
  if chosen.name then return " --cluster " .. chosen.name end
  local host, port = chosen.endpoint:match "^(.*):(%d+)$"
  local words = " --host " .. host .. (port ~= DEFAULT_PORT and " --port " .. port or "")
  local cacert = chosen.options.cacert
  return cacert and ("%s --cacert %s"):format(words, output.clean(cacert)) or words
end

return cluster
