-- icptoken docker-config: a registry token in docker's config.json, for clients that use one. It lasts as long as the
-- token; icptoken configure lasts as long as the login.

local cluster = require "icptoken.cli.cluster"
local configuration = require "icptoken.cli.configuration"
local credential = require "icptoken.cli.credential"
local docker_files = require "icptoken.cli.docker_files"
local docker_text = require "icptoken.cli.docker_text"
local network = require "icptoken.cli.network"
local output = require "icptoken.cli.output"
local reference = require "icptoken.cli.reference"
local times = require "icptoken.cli.times"

local command = {}

local DEFAULT_SERVICE = "token-service"

command.examples = {
  { "icptoken docker-config mycluster.icp:8500 --scope repository:default/app:pull" },
  { "icptoken docker-config mycluster.icp:8500 --remove" },
}

--- Adds the options of this command to a parser.
function command.describe(parser)
  parser:argument "registry" :argname "REGISTRY" :description "host name of the registry, with its port"
  parser:option "--scope" :argname "SCOPE" :count "*"
    :description "what the token allows, such as repository:default/app:pull,push"
  parser:flag "--remove" :description "remove the token"
end

local CLIENTS = [[
It works for docker, buildx, crane, ko, kaniko, cosign, oras and helm. Podman, skopeo, buildah, nerdctl and regctl do
not use such a token; icptoken configure serves them, and for as long as the login lasts.
]]

local function report(registry, token, scopes, path)
  output.write(("%s has a token for %s%s, good until %s (%s).\n"):format(path, registry,
    #scopes > 0 and " with " .. output.clean(table.concat(scopes, " ")) or "", times.utc(token.expires_at),
    times.relative(token.expires_at)))
  if #scopes == 0 then output.write "It allows nothing but to log in: name repositories with --scope.\n" end
  output.write(CLIENTS)
end

--- Runs the command.
function command.run(arguments)
  local registry, path = reference.normalise_server(arguments.registry), docker_files.docker_path()
  if arguments.remove then
    local is_changed = docker_files.change(path, function(text) return docker_text.remove_token(text, registry) end)
    output.write(is_changed and "removed the token from " or "there was no token in ", path, "\n")
    return
  end
  local settings = configuration.read()
  local chosen = cluster.choose(settings, arguments, registry)
  -- a file that cannot be edited is reported before a token is requested
  docker_files.read(path)
  local found, hint = credential.find(chosen, arguments, false)
  local token = network.fetch_or_fail(chosen, found, { service = chosen.options.service or DEFAULT_SERVICE,
    scope = #arguments.scope > 0 and arguments.scope or nil }, hint)
  docker_files.change(path, function(text) return docker_text.set_token(text, registry, token.token) end)
  report(registry, token, arguments.scope, path)
end

return command
