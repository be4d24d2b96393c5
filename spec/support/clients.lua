-- Clients of registries, each a real program, so that a spec can run all of them through the same steps.
-- A row of clients.DAEMONS or clients.PROGRAMS has:
--   name, programs   it is tested if these are installed
--   start(kit)       starts its daemon, if it has one; returns a function that stops it
--   log_in(kit, address, password, username)   absent if the program has no such command
--   keep_login(the same)                      in the place of log_in, if it is another program's or makes no request
--   log_out(kit, address)                     absent if the program has no such command
--   store(kit, name)                          imports the kit's image into the program, with this name
--   push(kit, name, password), pull(kit, name, password)
--   tag(kit, from, to)                        tags a pulled image with another name; absent if the client cannot
--                                             push it under that, with a mount from the first repository
--   copy(kit, from, to)                       copies between repositories of a registry; absent if it cannot
--   forget(kit)                               deletes the images that the program has
--   describe_lack()                           what the installed version lacks for this row; nil if it lacks nothing
--   takes_token                               whether it uses a registrytoken of docker's config.json; nil if that is
--                                             not tested
--   source                                    the Go package to build the program from, if Debian packages only that
-- A name is "127.0.0.1:PORT/repository:1". Steps return whether the command succeeded, and what it printed. The
-- password is for programs that take it as an argument; the others find it in the bed's authfile.

local cjson = require "cjson"
local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local registry_bed = require "support.registry_bed"
local shell = require "support.shell"
local testkit = require "testkit"

local clients = {}
local kit_methods = {}
local kit_meta = { __index = kit_methods }

local USER = "admin"
local IMAGE = "docker.io/icptoken/image:1"
local STOP_SECONDS = 60
-- Where scripts/build-go leaves the programs that a row's source is of.
local BUILT = "build/go"
-- Debian's packages of programs that have another name.
local PACKAGES = { docker = { "docker-cli", "docker.io" }, dockerd = { "docker.io" }, ctr = { "containerd" },
  crane = { "crane", "golang-github-google-go-containerregistry-dev" } }
-- docker 20.10 writes a key there, and has no option for another directory.
local HIDE_DIRECTORY = 'mkdir -p /etc/docker && mount -t tmpfs none /etc/docker && exec "$@"'

local function join(first, more)
  local all = {}
  for _, list in ipairs { first, more } do
    for _, one in ipairs(list) do all[#all + 1] = one end
  end
  return all
end

local function succeeds(command)
  local result = os.execute(command .. " >/dev/null 2>&1")
  return result == 0 or result == true
end

--- What a row is tested with: the bed (support.registry_bed), a directory of its own for the program, and the variables
-- that make it use only that.
function clients.new_kit(bed, row)
  local directory = bed:make_directory("client-" .. row.name:gsub("%W", "-"))
  if row.source and not succeeds("command -v " .. row.programs[1]) then
    assert(bed:run { "scripts/build-go", BUILT .. "/" .. row.programs[1], row.source })
  end
  return setmetatable({ bed = bed, directory = directory, env = {
    PATH = ("%s:%s/%s"):format(os.getenv "PATH", io.popen "pwd":read "*l", BUILT),
    HOME = directory, XDG_DATA_HOME = directory, XDG_RUNTIME_DIR = directory, XDG_CONFIG_HOME = directory,
    DOCKER_CONFIG = bed.directory .. "/docker", REGISTRY_AUTH_FILE = bed.directory .. "/docker/config.json",
    DOCKER_HOST = "unix://" .. directory .. "/docker.socket", DOCKER_CONTEXT = false, CONTAINERD_NAMESPACE = false,
    -- skopeo keeps its cache of layers in XDG_DATA_HOME unless it believes that it is root
    _CONTAINERS_ROOTLESS_UID = row.name == "skopeo" and "1",
  } }, kit_meta)
end

local function is_packaged(program)
  for _, package in ipairs(PACKAGES[program] or { program }) do
    if succeeds(("apt-cache policy %s | grep 'Candidate: [^(]'"):format(package)) then return true end
  end
  return false
end

-- The results of describe_lack for a program that is not there.
local function name_lack(name, program)
  local has_package = is_packaged(program)
  return name .. (has_package and " is not installed" or " is not packaged in this release"), has_package
end

--- What a row lacks on this system; nil if it can be tested. The second result is whether a package source of this
-- system has it.
function clients.describe_lack(row)
  for _, program in ipairs(row.programs) do
    local is_there = succeeds("command -v " .. program)
      or row.source and succeeds("scripts/build-go --can-build " .. row.source)
    if not is_there then return name_lack(program, program) end
  end
  return row.describe_lack and row.describe_lack()
end

function kit_methods:run(...)
  return self:run_with_input(nil, ...)
end

--- Runs a program with a text on its standard input. `wrapper` of a kit, words, goes in front of each.
function kit_methods:run_with_input(input, ...)
  return self.bed:run(join(self.wrapper or {}, { ... }), self.env, input)
end

--- Replaces the kit's image by another one, which the program does not have.
function kit_methods:renew_image()
  assert(self:run("rm", "-rf", self.directory .. "/image"))
  self.image = registry_bed.image.write(self:make_directory "image", 1000)
  local layer, config = self.image.layer:match ":(.*)", self.image.config:match ":(.*)"
  files.write(self.directory .. "/manifest.json", cjson.encode { { Config = config .. ".json", Layers = { "layer.tar" },
    RepoTags = { IMAGE } } })
  files.write(self.directory .. "/" .. config .. ".json", self.image.contents[config])
  local command = "cd '%s' && gzip -dc image/%s >layer.tar && tar -cf image.tar manifest.json %s.json layer.tar"
  assert(self:run("sh", "-c", command:format(self.directory, layer, config)))
end

-- The image as `docker save` writes it.
function kit_methods:get_archive()
  return self.directory .. "/image.tar"
end

--- A directory below the kit's own.
function kit_methods:make_directory(name)
  return self.bed:make_directory(self.directory:match "[^/]*$" .. "/" .. name)
end

-- Starts a daemon, and waits until a command of its client succeeds. Its mounts are in a namespace of its own, so that
-- none is left behind however it exits; nor does it write below /etc.
function kit_methods:start_daemon(name, arguments, probe)
  local log = self.directory .. "/" .. name .. ".log"
  local command = join({ "unshare", "--mount", "sh", "-c", HIDE_DIRECTORY, name, name }, arguments)
  command.stdin, command.stdout, command.stderr, command.env = "/dev/null", log, log, self.env
  local pid = assert(testkit.spawn(command))
  gateway_bed.await(name, function()
    if testkit.waitpid(pid, 0) ~= "running" then error(name .. " did not start: " .. files.read(log), 0) end
    return (self.bed:run(probe, self.env))
  end)
  return function()
    testkit.kill(pid, "TERM")
    if testkit.waitpid(pid, STOP_SECONDS) ~= "running" then return end
    testkit.kill(pid, "KILL")
    testkit.waitpid(pid)
  end
end

-- A row that inherits the steps of another one.
local function derive(base, row)
  return setmetatable(row, { __index = base })
end

-- ---- containerd ----

local CONTAINERD = [[
version = 2
root = "%s/root"
state = "%s/state"
[grpc]
address = "%s/containerd.socket"
]]

local function start_containerd(kit)
  local directory = kit:make_directory "containerd"
  files.write(directory .. "/config.toml", CONTAINERD:format(directory, directory, kit.directory))
  return kit:start_daemon("containerd", { "--config", directory .. "/config.toml" },
    { "ctr", "--address", kit.directory .. "/containerd.socket", "version" })
end

local function ctr(kit, ...)
  return kit:run("ctr", "--address", kit.directory .. "/containerd.socket", "images", ...)
end

local CTR = { name = "ctr", programs = { "containerd", "ctr" }, start = start_containerd }

function CTR.store(kit, name)
  local ok, output = ctr(kit, "import", "--no-unpack", kit:get_archive())
  if not ok then return ok, output end
  return CTR.tag(kit, IMAGE, name)
end

function CTR.push(kit, name, password)
  return ctr(kit, "push", "--plain-http", "--user", USER .. ":" .. password, name)
end

function CTR.pull(kit, name, password)
  return ctr(kit, "pull", "--plain-http", "--platform", "linux/amd64", "--user", USER .. ":" .. password, name)
end

function CTR.tag(kit, from, to) return ctr(kit, "tag", "--force", from, to) end

function CTR.forget(kit)
  local _, names = ctr(kit, "ls", "--quiet")
  local list = { "rm", "--sync" }
  for name in names:gmatch "%S+" do list[#list + 1] = name end
  return ctr(kit, unpack(list))
end

-- ---- docker ----

local function start_docker(kit, has_containerd_store)
  local directory = kit.directory
  local stop_containerd = start_containerd(kit)
  files.write(directory .. "/daemon.json", ([[{ "features": { "containerd-snapshotter": %s } }]])
    :format(has_containerd_store))
  local stop = kit:start_daemon("dockerd", { "--config-file", directory .. "/daemon.json", "--host",
    kit.env.DOCKER_HOST, "--containerd", directory .. "/containerd.socket", "--data-root", directory .. "/data",
    "--exec-root", directory .. "/exec", "--pidfile", directory .. "/docker.pid", "--storage-driver",
    has_containerd_store and "native" or "vfs", "--iptables=false", "--bridge=none" }, { "docker", "version" })
  return function()
    stop()
    stop_containerd()
  end
end

local DOCKER = { name = "docker", takes_token = true, programs = { "containerd", "ctr", "dockerd", "docker" } }

function DOCKER.start(kit) return start_docker(kit, false) end

function DOCKER.log_in(kit, address, password, username)
  return kit:run_with_input(password, "docker", "login", "--username", username, "--password-stdin", address)
end

function DOCKER.log_out(kit, address) return kit:run("docker", "logout", address) end

function DOCKER.store(kit, name)
  local ok, output = kit:run("docker", "load", "--input", kit:get_archive())
  if not ok then return ok, output end
  return DOCKER.tag(kit, IMAGE, name)
end

function DOCKER.push(kit, name) return kit:run("docker", "push", name) end

function DOCKER.pull(kit, name) return kit:run("docker", "pull", name) end

function DOCKER.tag(kit, from, to) return kit:run("docker", "tag", from, to) end

function DOCKER.forget(kit) return kit:run("docker", "image", "prune", "--all", "--force") end

local DOCKER_CONTAINERD = derive(DOCKER, { name = "docker with containerd's image store" })

function DOCKER_CONTAINERD.start(kit)
  local stop = start_docker(kit, true)
  local _, status = kit:run("docker", "info", "--format", "{{.DriverStatus}}")
  if status:find("io.containerd.snapshotter", 1, true) then return stop end
  stop()
  error("docker has another image store than it was told to have: " .. status, 0)
end

function DOCKER_CONTAINERD.describe_lack()
  local version = shell.run "dockerd --version"
  if tonumber(version:match "version (%d+)") < 24 then return "docker has it from version 24 on" end
end

-- ---- buildx ----

-- It pushes what it builds, and pulls the image that it builds from.
local BUILDX = derive(DOCKER_CONTAINERD, { name = "docker buildx", tag = false, log_in = false,
  keep_login = DOCKER.log_in })

function BUILDX.describe_lack()
  if not succeeds "docker buildx version" then return name_lack("docker buildx", "docker-buildx") end
  return DOCKER_CONTAINERD.describe_lack()
end

local function build(kit, base, ...)
  local directory = kit:make_directory "context"
  files.write(directory .. "/Dockerfile", ("FROM %s\nCOPY file /\n"):format(base))
  return kit:run("docker", "buildx", "build", "--no-cache", "--provenance=false", "--progress=plain", ...)
end

function BUILDX.store(kit)
  local layer = kit.directory .. "/image/" .. kit.image.layer:match ":(.*)"
  return kit:run("cp", layer, kit:make_directory "context" .. "/file")
end

function BUILDX.push(kit, name)
  return build(kit, "scratch", "--push", "--tag", name, kit:make_directory "context")
end

function BUILDX.pull(kit, name) return build(kit, name, "--pull", kit:make_directory "context") end

function BUILDX.copy(kit, from, to) return kit:run("docker", "buildx", "imagetools", "create", "--tag", to, from) end

function BUILDX.forget(kit)
  local ok, output = kit:run("docker", "buildx", "prune", "--all", "--force")
  if not ok then return ok, output end
  return DOCKER.forget(kit)
end

-- ---- podman and buildah ----

local function derive_podman(row)
  local function run_with_input(input, kit, ...)
    return kit:run_with_input(input, row.name, "--root", kit.directory .. "/root", "--runroot", kit.directory
      .. "/runroot", "--storage-driver", "vfs", unpack(join(row.options, { ... })))
  end
  local function run(...) return run_with_input(nil, ...) end

  row.programs, row.takes_token = { row.name }, false
  function row.log_in(kit, address, password, username)
    return run_with_input(password, kit, "login", "--tls-verify=false", "--username", username, "--password-stdin",
      address)
  end
  function row.log_out(kit, address) return run(kit, "logout", address) end
  function row.store(kit, name)
    local ok, output = run(kit, "pull", "docker-archive:" .. kit:get_archive())
    if not ok then return ok, output end
    return run(kit, "tag", IMAGE, name)
  end
  function row.push(kit, name) return run(kit, "push", "--tls-verify=false", name) end
  function row.pull(kit, name) return run(kit, "pull", "--tls-verify=false", name) end
  function row.tag(kit, from, to) return run(kit, "tag", from, to) end
  function row.forget(kit) return run(kit, "rmi", "--all", "--force") end
  return row
end

local PODMAN = derive_podman { name = "podman",
  options = { "--cgroup-manager", "cgroupfs", "--events-backend", "none" } }
local BUILDAH = derive_podman { name = "buildah", options = {} }

-- ---- skopeo ----

local SKOPEO = { name = "skopeo", takes_token = false, programs = { "skopeo" } }

function SKOPEO.log_in(kit, address, password, username)
  return kit:run_with_input(password, "skopeo", "login", "--tls-verify=false", "--username", username,
    "--password-stdin", address)
end

function SKOPEO.log_out(kit, address) return kit:run("skopeo", "logout", address) end

function SKOPEO.store(kit) return kit:run("cp", "-rT", kit.directory .. "/image", kit.directory .. "/stored") end

function SKOPEO.push(kit, name)
  return kit:run("skopeo", "copy", "--dest-tls-verify=false", "dir:" .. kit.directory .. "/stored", "docker://" .. name)
end

function SKOPEO.pull(kit, name)
  return kit:run("skopeo", "copy", "--src-tls-verify=false", "docker://" .. name, "dir:" .. kit:make_directory "stored")
end

function SKOPEO.tag() return true end

function SKOPEO.copy(kit, from, to)
  return kit:run("skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://" .. from,
    "docker://" .. to)
end

function SKOPEO.forget(kit) return kit:run("rm", "-rf", kit.directory .. "/stored") end

-- ---- oras ----

local ORAS = { name = "oras", takes_token = true, programs = { "oras" } }

function ORAS.log_in(kit, address, password, username)
  return kit:run_with_input(password, "oras", "login", "--plain-http", "--username", username, "--password-stdin",
    address)
end

function ORAS.log_out(kit, address) return kit:run("oras", "logout", address) end

function ORAS.store() return true end

function ORAS.push(kit, name)
  return kit:run("oras", "push", "--plain-http", "--disable-path-validation", name, kit.directory .. "/image/"
    .. kit.image.layer:match ":(.*)")
end

function ORAS.pull(kit, name)
  return kit:run("oras", "pull", "--plain-http", "--allow-path-traversal", "--output", kit:make_directory "pulled",
    name)
end

function ORAS.copy(kit, from, to)
  return kit:run("oras", "cp", "--from-plain-http", "--to-plain-http", from, to)
end

function ORAS.forget(kit) return kit:run("rm", "-rf", kit.directory .. "/pulled") end

-- ---- crane ----

local CRANE = { name = "crane", takes_token = true, programs = { "crane" },
  source = "github.com/google/go-containerregistry/cmd/crane" }

function CRANE.keep_login(kit, address, password, username)
  return kit:run_with_input(password, "crane", "auth", "login", "--username", username, "--password-stdin", address)
end

function CRANE.log_out(kit, address) return kit:run("crane", "auth", "logout", address) end

function CRANE.store() return true end

function CRANE.push(kit, name) return kit:run("crane", "push", kit:get_archive(), name) end

function CRANE.pull(kit, name) return kit:run("crane", "pull", name, kit.directory .. "/pulled.tar") end

function CRANE.copy(kit, from, to) return kit:run("crane", "copy", from, to) end

function CRANE.forget(kit) return kit:run("rm", "-f", kit.directory .. "/pulled.tar") end

-- ---- cosign ----

-- It signs what skopeo has pushed: the signature is another image in the repository. To pull is to verify.
local COSIGN = { name = "cosign", programs = { "cosign", "skopeo" } }

function COSIGN.keep_login(kit, address, password, username)
  return kit:run_with_input(password, "cosign", "login", "--username", username, "--password-stdin", address)
end

function COSIGN.store(kit)
  local ok, output = SKOPEO.store(kit)
  if not ok then return ok, output end
  return kit:run("sh", "-c", 'cd "$HOME" && rm -f cosign.* && COSIGN_PASSWORD= exec cosign generate-key-pair')
end

function COSIGN.push(kit, name)
  local ok, output = SKOPEO.push(kit, name)
  if not ok then return ok, output end
  return kit:run("env", "COSIGN_PASSWORD=", "cosign", "sign", "--key", kit.directory .. "/cosign.key",
    "--tlog-upload=false", "--yes", name)
end

function COSIGN.pull(kit, name)
  return kit:run("cosign", "verify", "--key", kit.directory .. "/cosign.pub", "--insecure-ignore-tlog", name)
end

function COSIGN.copy(kit, from, to) return kit:run("cosign", "copy", from, to) end

COSIGN.forget = SKOPEO.forget

--- Those that work through a daemon, and those that work without one.
clients.DAEMONS = { CTR, DOCKER, DOCKER_CONTAINERD, BUILDX }
clients.PROGRAMS = { PODMAN, BUILDAH, SKOPEO, ORAS, CRANE }
--- Those that ask a credential helper.
clients.HELPED = { DOCKER, DOCKER_CONTAINERD, BUILDX, PODMAN, BUILDAH, SKOPEO, ORAS, CRANE, COSIGN }

return clients
