-- What a gateway sends its requests to: the cluster's token endpoint, and its identity provider. A target is a plain
-- table that can be passed to threads: `options` (of the module), `key` (which tells it from all other targets), and
-- `url` (for logs, without path for the token endpoint).

local icptoken = require "icptoken"
local key = require "icptoken.gateway.key"

local target = {}

-- The path of an ICP cluster's identity provider.
local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"

-- All keys of the gateway depend on the target's key, so tokens that another version of the module, or a gateway with
-- other options, has left in the dict are not found.
local function describe(options, path)
  local port = options.port
  local url = options.url or "https://" .. options.host .. (port and ":" .. port or "")
  return { key = key.fingerprint { icptoken._VERSION, options }, options = options,
    url = url:match "^%a+://[^/?]*" .. (path or "") }
end

--- Returns the target of token requests. options: those of icptoken.new, checked.
function target.for_tokens(options)
  return describe(options)
end

--- Returns the target of logins: the same cluster, at another path.
function target.for_logins(options)
  local derived = {}
  for name, value in pairs(options) do derived[name] = value end
  derived.path, derived.anonymous, derived.timeout, derived.certificates = nil, nil, nil, nil
  if derived.url then derived.url = derived.url:match "^%a+://[^/?]+" .. LOGIN_PATH end
  return describe(derived, LOGIN_PATH)
end

return target
