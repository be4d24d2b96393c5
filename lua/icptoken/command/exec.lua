-- icptoken exec: runs a command with files that log it in at a registry and are removed when it ends.
--
-- This process becomes the command, so signals, job control and the exit status are the command's own.

local cluster = require "icptoken.cli.cluster"
local configuration = require "icptoken.cli.configuration"
local credential = require "icptoken.cli.credential"
local docker_files = require "icptoken.cli.docker_files"
local docker_text = require "icptoken.cli.docker_text"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local output = require "icptoken.cli.output"
local reference = require "icptoken.cli.reference"
local scratch = require "icptoken.cli.scratch"
local system = require "icptoken.cli.system"

local command = {}

local HELPER = "icptoken"
local ENOENT = 2
-- What shells exit with for a program that is not there, and for one that cannot be run.
local NOT_FOUND, NOT_RUNNABLE = 127, 126

command.examples = {
  { "icptoken exec registry.example.com -- docker push registry.example.com/default/app:1.0" },
  { "icptoken exec registry.example.com -- skopeo list-tags docker://registry.example.com/default/app" },
}

--- Adds the options of this command to a parser.
function command.describe(parser)
  parser:argument "registry" :argname "REGISTRY" :description "host name of the registry, with its port"
  parser:argument "COMMAND" :target "words" :args "+" :description "behind --: the command and its arguments"
end

-- A function that puts what the registry needs into the text of docker's or podman's file.
local function make_edit(settings, arguments, registry)
  local entry = reference.find_registry(settings.registries, registry)
  if entry and entry.gateway_user then
    local chosen = cluster.choose(settings, arguments, registry)
    local id_token = credential.read_id_token((credential.find(chosen, arguments, false)))
    return function(text)
      local is_removed
      text, is_removed = docker_text.remove_field(text, "credsStore")
      if is_removed then
        output.note("the credentials of other registries are in the helper that credsStore names; the command does "
          .. "not see them")
      end
      return docker_text.set_password(text, registry, entry.gateway_user, id_token)
    end
  end
  if entry and (entry.credential_store or settings.credential_store) then
    return function(text) return docker_text.set_helper(text, registry, HELPER) end
  end
  failure.usage("configuration", "icptoken has no credential that clients can use for %s: run icptoken configure %s "
    .. "--gateway-user USER if it is behind the gateway, or name a helper as \"credential_store\" in %s", registry,
    registry, settings.path)
end

-- The command also sees everything else in docker's directory (contexts, plugins).
local function link_siblings(from, to)
  local unistd = system.load "unistd"
  local ok, names = pcall(system.load("dirent").dir, from)
  for _, name in ipairs(ok and names or {}) do
    if name ~= "." and name ~= ".." and name ~= "config.json" then
      unistd.link(system.load("stdlib").realpath(from) .. "/" .. name, to .. "/" .. name, true)
    end
  end
end

local function find_existing(paths)
  for _, path in ipairs(paths) do
    if system.load("sys.stat").stat(path) then return path end
  end
  return paths[1]
end

local function write_copy(from, to, edit)
  files.replace(to, edit((docker_files.read(from))))
end

local function become(words)
  local unistd = system.load "unistd"
  local arguments = {}
  for i = 2, #words do arguments[i - 1] = words[i] end
  local _, message, number = unistd.execp(words[1], arguments)
  failure.raise { code = "command", exit = number == ENOENT and NOT_FOUND or NOT_RUNNABLE,
    message = ("cannot run %s: %s"):format(output.clean(words[1]), tostring(message)) }
end

--- Runs the command.
function command.run(arguments)
  local registry = reference.normalise_server(arguments.registry)
  local edit = make_edit(configuration.read(), arguments, registry)
  local docker_path, podman_path = docker_files.docker_path(), find_existing(docker_files.podman_paths())
  local directory = scratch.make()
  local ok, problem = pcall(function()
    system.load("sys.stat").mkdir(directory .. "/docker", 448)
    link_siblings(files.directory(docker_path), directory .. "/docker")
    write_copy(docker_path, directory .. "/docker/config.json", edit)
    write_copy(podman_path, directory .. "/auth.json", edit)
    local stdlib = system.load "stdlib"
    stdlib.setenv("DOCKER_CONFIG", directory .. "/docker")
    stdlib.setenv("REGISTRY_AUTH_FILE", directory .. "/auth.json")
    output.finish()
    become(arguments.words)
  end)
  scratch.remove(directory)
  if not ok then error(problem, 0) end
end

return command
