-- Which CAs verify a certificate: those that were given, the system's, and those that docker and podman use.

local files = require "icptoken.cli.files"
local openssl = require "icptoken.command.check.openssl"
local system = require "icptoken.cli.system"

local trust = {}

--- A description of what options trust.
function trust.describe(options)
  return options.cacert or options.capath or "the system's CAs"
end

local function exists(path)
  return files.read(path, 16 * 1024 * 1024) ~= nil
end

--- The directories in which docker looks for the CAs of a registry, and those in which podman does.
function trust.list_directories()
  local home = system.environment "HOME"
  local docker, podman = { "/etc/docker/certs.d" }, { "/etc/containers/certs.d" }
  if home then
    docker[2] = home .. "/.config/docker/certs.d"
    podman[2] = home .. "/.config/containers/certs.d"
  end
  return docker, podman
end

--- The files with the CAs of a registry in such directories.
function trust.list_registry_files(directories, registry)
  local found = {}
  local dirent = system.load "dirent"
  for _, directory in ipairs(directories) do
    local path = directory .. "/" .. registry
    local ok, names = pcall(dirent.dir, path)
    for _, name in ipairs(ok and names or {}) do
      if name:find "%.crt$" then found[#found + 1] = path .. "/" .. name end
    end
  end
  return found
end

--- Files with CAs that may be the right ones for the cluster: those of its registries, and those that the configuration
-- has for other clusters.
function trust.list_files(context)
  local docker, podman = trust.list_directories()
  local found, seen = {}, {}
  local function add(path)
    if not seen[path] and exists(path) then found[#found + 1] = path end
    seen[path] = true
  end
  for _, directories in ipairs { docker, podman } do
    for _, registry in ipairs(context.registries) do
      for _, path in ipairs(trust.list_registry_files(directories, registry.name)) do add(path) end
    end
  end
  for _, options in pairs(context.settings.clusters) do
    if options.cacert then add(options.cacert) end
  end
  table.sort(found)
  return found
end

--- Whether a handshake with these trusted CAs succeeds without an error.
function trust.verifies(peer, trusted, seconds)
  local report = openssl.look(peer, trusted, seconds)
  return report.is_complete and #report.errors == 0
end

--- The first file that verifies a server's certificate, or "system" for the system's CAs, or nil.
function trust.find_fitting(peer, paths, seconds)
  for _, path in ipairs(paths) do
    if trust.verifies(peer, { cacert = path }, seconds) then return path end
  end
  return trust.verifies(peer, {}, seconds) and "system" or nil
end

return trust
