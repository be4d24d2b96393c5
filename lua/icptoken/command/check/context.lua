-- What the checks share: the cluster, the registries, the results so far, and the secrets that must not be shown.

local base64 = require "icptoken.cli.base64"
local cluster = require "icptoken.cli.cluster"
local configuration = require "icptoken.cli.configuration"
local output = require "icptoken.cli.output"
local reference = require "icptoken.cli.reference"

local context = {}
local methods = {}

local SECONDS = 10
-- ICP's registry, and what it calls itself.
local REGISTRY_PORT, SERVICE = 8500, "token-service"
local TOKEN_PATH = "/image-manager/api/v1/auth/token"
-- A shorter secret cannot be told from an ordinary word.
local MIN_SECRET = 6

--- A context for the arguments of the command.
function context.new(arguments)
  return setmetatable({ arguments = arguments, secrets = {} }, { __index = methods })
end

--- Remembers a secret, so that no line shows it; nil is ignored.
function methods:add_secret(secret)
  if not secret or #secret < MIN_SECRET then return end
  local encoded = base64.encode(secret):gsub("=+$", "")
  for _, text in ipairs { secret, encoded, (encoded:gsub("[+/]", { ["+"] = "-", ["/"] = "_" })),
    (secret:gsub("[^%w._~-]", function(byte) return ("%%%02X"):format(byte:byte()) end)) } do
    table.insert(self.secrets, text)
  end
  -- a longer secret may contain a shorter one
  table.sort(self.secrets, function(a, b) return #a > #b end)
end

--- Text without secrets, and on one line.
function methods:hide(text)
  for _, secret in ipairs(self.secrets) do
    local first = text:find(secret, 1, true)
    while first do
      text = text:sub(1, first - 1) .. "[secret]" .. text:sub(first + #secret)
      first = text:find(secret, first + 8, true)
    end
  end
  text = text:gsub("eyJ[%w_-]+%.[%w_.-]*", "[token]"):gsub("(%a[%w+.-]*://)[^/@%s]*@", "%1")
  return (output.clean(text):gsub("\194[\128-\159]", "?"))
end

-- The scheme, host, port and path of the token endpoint.
local function read_endpoint(chosen)
  local options = chosen.options
  local host, port = chosen.endpoint:match "^(.*):(%d+)$"
  local url = options.url or ""
  local path = url:match "^%a+://[^/?#]*(/[^?#]*)" or options.path or TOKEN_PATH
  return { scheme = url:match "^[Hh][Tt][Tt][Pp]://" and "http" or "https", host = host, port = tonumber(port),
    path = path }
end

local function list_registries(self)
  local named = self.registry_name
  if named then
    local entry = reference.find_registry(self.settings.registries, named)
    return { { name = named, entry = entry or {}, is_named = true } }
  end
  local list = {}
  for name, entry in pairs(self.settings.registries) do
    if entry.cluster == self.chosen.name then
      list[#list + 1] = { name = reference.normalise_server(name), entry = entry, is_named = true }
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  if #list == 0 then list[1] = { name = self.endpoint.host .. ":" .. REGISTRY_PORT, entry = {} } end
  return list
end

-- REGISTRY may come with a repository: docker's rule tells them apart, but here the first word is a registry anyway.
local function split_registry(text)
  local rest = text:match "^%a[%w+.-]*://(.*)$" or text
  local repository = rest:match "^[^/]*/(.*%S)"
  if repository and repository:find "^v[12]/?$" then repository = nil end
  if repository then repository = select(2, reference.parse("localhost/" .. repository)) end
  return reference.normalise_server(text), repository
end

--- Reads the configuration, and finds cluster and registries. Fails if they are wrong.
function methods:load()
  local arguments = self.arguments
  if arguments.registry then self.registry_name, self.repository = split_registry(arguments.registry) end
  self.settings = configuration.read()
  self.chosen = cluster.choose(self.settings, arguments, self.registry_name)
  local options = self.chosen.options
  options.retries, options.hedge_after = 0, nil
  self.seconds = math.min(options.timeout or SECONDS, SECONDS)
  options.timeout, options.connect_timeout = self.seconds, nil
  self:add_secret(options.key_password)
  self.endpoint = read_endpoint(self.chosen)
  self.service = options.service or SERVICE
  self.scope = self.repository and ("repository:%s:pull"):format(self.repository)
  self.registries = list_registries(self)
end

--- The current time by the cluster's clock if it is known, else by this machine's.
function methods:now()
  return os.time() + (self.clock_offset or 0)
end

return context
