-- icptoken token: a registry token on standard output.

local cluster = require "icptoken.cli.cluster"
local configuration = require "icptoken.cli.configuration"
local credential = require "icptoken.cli.credential"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local json = require "icptoken.cli.json"
local network = require "icptoken.cli.network"
local output = require "icptoken.cli.output"
local reference = require "icptoken.cli.reference"

local token = {}

-- What ICP's own registry calls itself.
local DEFAULT_SERVICE = "token-service"
local REGISTRY_PORT = 8500
local FIELD_ORDER = { "token", "expires_in", "issued_at", "received_at", "expires_at", "refresh_at" }

token.examples = {
  { "icptoken token default/app", "may pull" },
  { "icptoken token default/app:1.0 --push --output token.jwt" },
  { "icptoken token --catalog --format header | curl -H @- https://mycluster.icp:8500/v2/_catalog" },
}

--- Adds the options of this command to a parser.
function token.describe(parser)
  parser:argument "repository" :argname "REPOSITORY" :args "*"
    :description("what the token is for: NAMESPACE/NAME, with or without registry and tag; - takes the ID token from "
      .. "standard input")
  parser:flag "--push" :description "the token may push, too"
  parser:flag "--delete" :description "the token may delete, too"
  parser:option "-m --mount" :argname "REPOSITORY" :count "*"
    :description "the token may pull from this repository, too, to mount its layers"
  parser:option "--scope" :argname "SCOPE" :count "*" :description "a scope as registries write it"
  parser:flag "--catalog" :description "the token may list the repositories"
  parser:mutex(
    parser:option "--service" :argname "SERVICE" :description "the audience (token-service)",
    parser:flag "--no-service" :description "a token without an audience")
  parser:mutex(
    parser:option "--format" :choices { "token", "json", "header", "docker" } :default "token"
      :description "header is for curl -H @-, docker is a config.json",
    parser:flag "-H --header" :description "the same as --format header")
  parser:option "-o --output" :argname "FILE" :description "write to this file, which only you can read"
end

-- Splits the words: repositories, the one registry that they name (or nil), and whether "-" is among them.
local function read_words(words)
  local repositories, registry, uses_input = {}, nil, false
  for _, word in ipairs(words) do
    if word == "-" then
      uses_input = true
    else
      local host, repository = reference.parse(word)
      if host and registry and host ~= registry then
        failure.usage("usage", "the repositories are in two registries, %s and %s: run icptoken once for each",
          registry, host)
      end
      registry = host or registry
      repositories[#repositories + 1] = repository
    end
  end
  return repositories, registry, uses_input
end

-- registry 2.6 takes * for deleting, later ones take delete.
local function list_actions(arguments)
  return "pull" .. (arguments.push and ",push" or "") .. (arguments.delete and ",delete,*" or "")
end

local function list_scopes(arguments, repositories)
  local scopes = {}
  if #repositories == 0 and (arguments.push or arguments.delete or #arguments.mount > 0) then
    failure.usage("usage", "--push, --delete and --mount need the name of a repository")
  end
  for _, name in ipairs(repositories) do
    scopes[#scopes + 1] = ("repository:%s:%s"):format(name, list_actions(arguments))
  end
  for _, word in ipairs(arguments.mount) do
    local _, name = reference.parse(word)
    scopes[#scopes + 1] = ("repository:%s:pull"):format(name)
  end
  if arguments.catalog then scopes[#scopes + 1] = "registry:catalog:*" end
  for _, scope in ipairs(arguments.scope) do
    if not scope:find "^[%w_()]+:[^%s%c]+:[%w,*]+$" then
      failure.usage("usage", "'%s' is not a scope, such as repository:default/app:pull", output.clean(scope))
    end
    scopes[#scopes + 1] = scope
  end
  return scopes
end

-- The registry whose token this is: the one that was named, the only one of the cluster in the configuration, or ICP's
-- own.
local function find_registry(settings, chosen, registry)
  if registry then return registry end
  local found, count = nil, 0
  for name, entry in pairs(settings.registries) do
    if entry.cluster == chosen.name and not entry.gateway_user then found, count = name, count + 1 end
  end
  if count == 1 then return found end
  return ("%s:%d"):format(chosen.endpoint:match "^(.*):%d+$", REGISTRY_PORT)
end

local function render(answer, format, registry)
  if format == "json" then return json.encode(answer, FIELD_ORDER, true) end
  if format == "header" then return "Authorization: Bearer " .. answer.token end
  if format == "docker" then
    return json.encode({ auths = { [registry] = { registrytoken = answer.token } } }, nil, true)
  end
  return answer.token
end

--- Runs the command.
function token.run(arguments)
  local repositories, registry, uses_input = read_words(arguments.repository)
  local scopes = list_scopes(arguments, repositories)
  local settings = configuration.read()
  local chosen = cluster.choose(settings, arguments, registry)
  local found, hint = credential.find(chosen, arguments, uses_input)
  local service = arguments.service or chosen.options.service or DEFAULT_SERVICE
  if arguments.no_service then service, chosen.options.service = nil, nil end
  local answer = network.fetch_or_fail(chosen, found,
    { service = service, scope = #scopes > 0 and scopes or nil }, hint)
  local text = render(answer, arguments.header and "header" or arguments.format,
    find_registry(settings, chosen, registry)) .. "\n"
  if arguments.output and arguments.output ~= "-" and arguments.output ~= "/dev/stdout" then
    files.replace(arguments.output, text)
  else
    output.write(text)
  end
end

return token
