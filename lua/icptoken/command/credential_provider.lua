-- icptoken credential-provider: the plugin of the kubelet's image credential providers. It reads a
-- CredentialProviderRequest on standard input and writes a CredentialProviderResponse.

local cluster = require "icptoken.cli.cluster"
local credential = require "icptoken.cli.credential"
local failure = require "icptoken.cli.failure"
local json = require "icptoken.cli.json"
local jwt = require "icptoken.cli.jwt"
local output = require "icptoken.cli.output"
local reference = require "icptoken.cli.reference"
local registry_login = require "icptoken.cli.registry_login"
local session = require "icptoken.cli.session"

local command = {}

local GROUP = "credentialprovider.kubelet.k8s.io/"
local VERSIONS = { [GROUP .. "v1"] = true, [GROUP .. "v1beta1"] = true, [GROUP .. "v1alpha1"] = true }
local ORDER = { "kind", "apiVersion", "cacheKeyType", "cacheDuration", "auth", "username", "password" }
local MAX_BYTES = 1024 * 1024
-- A pull that begins just before the kubelet's cache expires still has this long.
local LEEWAY_SECONDS = 60

command.examples = { { "icptoken credential-provider <request.json" } }

--- This command has no options of its own.
function command.describe() end

local function read_request()
  local text = io.stdin:read(MAX_BYTES + 1) or ""
  if #text > MAX_BYTES then failure.fail("usage", "the request on standard input has more than 1 MiB") end
  local request, message = json.decode_object(text)
  if not request then failure.fail("usage", "there is no request on standard input: %s", output.clean(message)) end
  if request.kind ~= "CredentialProviderRequest" then
    failure.fail("usage", "'%s' on standard input is not a CredentialProviderRequest", output.clean(request.kind))
  end
  if not VERSIONS[request.apiVersion] then
    failure.fail("usage", "the kubelet's apiVersion '%s' is not known: set apiVersion: %sv1 in the "
      .. "CredentialProviderConfig", output.clean(request.apiVersion), GROUP)
  end
  if type(request.image) ~= "string" or request.image == "" then
    failure.fail("usage", "the request on standard input names no image")
  end
  return request
end

-- Go's notation of a duration: how long an ID token may stay in the kubelet's cache. One that does not say when it
-- expires is not cached.
local function find_duration(id_token)
  local expiry = jwt.find_expiry(id_token)
  return ("%ds"):format(expiry and math.max(expiry - os.time() - LEEWAY_SECONDS, 0) or 0)
end

-- If the session has expired, logs in again with the password that another helper keeps.
local function find_id_token(chosen, entry, arguments, registry)
  if entry.credential_store and not session.is_valid(session.read(chosen.endpoint)) then
    registry_login.repeat_login(chosen, entry.credential_store, registry)
  end
  return credential.read_id_token((credential.find(chosen, arguments, false)))
end

-- User name, password and how long they may be cached (nil: as the kubelet is configured); nothing for a registry that
-- is not in the configuration.
local function find_credentials(arguments, registry)
  local settings, entry, chosen = registry_login.find(registry)
  if chosen then
    chosen = cluster.choose(settings, arguments, registry)
    local id_token = find_id_token(chosen, entry, arguments, registry)
    return entry.gateway_user, id_token, find_duration(id_token)
  end
  if not entry then
    output.note("%s is not among the registries of %s", output.clean(registry), settings.path)
    return nil
  end
  local store = entry.credential_store or settings.credential_store
  if store then return registry_login.read_stored(store, registry) end
  failure.fail("configuration", "the kubelet takes user name and password only, and icptoken keeps none for %s: "
    .. "reach the "
    .. "registry through the gateway (icptoken configure %s --gateway-user USER), or name a helper as "
    .. '"credential_store" in %s', output.clean(registry), output.clean(registry), settings.path)
end

local function respond(arguments)
  local request = read_request()
  local registry = reference.normalise_server(request.image)
  local username, password, duration = find_credentials(arguments, registry)
  local auth = username and { [registry] = { username = username, password = password } }
  output.write(json.encode({ kind = "CredentialProviderResponse", apiVersion = request.apiVersion,
    cacheKeyType = "Registry", cacheDuration = duration or not auth and "0s" or nil, auth = auth or nil }, ORDER), "\n")
end

--- Runs the command. The kubelet knows one exit status for failures.
function command.run(arguments)
  local ok, problem = pcall(respond, arguments)
  if ok then return 0 end
  if failure.is(problem) then problem.exit = 1 end
  error(problem, 0)
end

return command
