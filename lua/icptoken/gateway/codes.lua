-- The codes that a request can fail with, and what the client receives: the HTTP status, the code of the registry API
-- (https://distribution.github.io/distribution/spec/api/#errors), and a message. The endpoint's own words go to the
-- log only, as they name hosts that a client need not know.

local codes = {}

-- Codes of the gateway alone.
local OWN = {
  no_credential = { status = 401, registry_code = "UNAUTHORIZED", message = "authentication required" },
  name_invalid = { status = 404, registry_code = "NAME_INVALID",
    message = "not an endpoint of the registry API, or not a valid repository name" },
  method_not_allowed = { status = 405, registry_code = "UNSUPPORTED",
    message = "the registry API does not use this method" },
  internal = { status = 500, registry_code = "UNKNOWN", message = "internal error of the gateway" },
  client_gone = { status = 499, registry_code = "UNKNOWN", message = "the client closed the connection" },
  overloaded = { status = 503, registry_code = "UNAVAILABLE",
    message = "the cluster is too slow for the number of pending token requests" },
  queue_full = { status = 503, registry_code = "UNAVAILABLE", message = "too many requests are waiting for a token" },
  -- not 429, after which skopeo and podman wait silently and try again
  too_many_passwords = { status = 401, registry_code = "UNAUTHORIZED",
    message = "too many wrong passwords for this user from this address: try again in 15 minutes" },
  not_started = { status = 503, registry_code = "UNAVAILABLE", message = "the gateway is not ready" },
}

-- Codes of the module, with which a token request fails.
local OF_MODULE = {
  invalid_credential = { status = 401, registry_code = "UNAUTHORIZED",
    message = "the credential is incomplete or malformed" },
  unauthorized = { status = 401, registry_code = "UNAUTHORIZED",
    message = "the credential was rejected or has expired: log in again" },
  forbidden = { status = 403, registry_code = "DENIED", message = "requested access to the resource is denied" },
  rate_limited = { status = 429, registry_code = "TOOMANYREQUESTS",
    message = "the cluster is rate limiting requests" },
  timeout = { status = 504, registry_code = "UNAVAILABLE", message = "the cluster did not answer in time" },
  closed = { status = 500, registry_code = "UNKNOWN", message = "internal error of the gateway" },
  no_memory = { status = 502, registry_code = "UNAVAILABLE", message = "the gateway is out of memory" },
  resolve = { status = 502, registry_code = "UNAVAILABLE", message = "the cluster's host name cannot be resolved" },
  connect = { status = 502, registry_code = "UNAVAILABLE", message = "cannot connect to the cluster" },
  proxy = { status = 502, registry_code = "UNAVAILABLE", message = "the proxy to the cluster failed" },
  tls = { status = 502, registry_code = "UNAVAILABLE", message = "the TLS connection to the cluster failed" },
  network = { status = 502, registry_code = "UNAVAILABLE", message = "the connection to the cluster was lost" },
  redirect = { status = 502, registry_code = "UNAVAILABLE", message = "the cluster redirects token requests" },
  not_found = { status = 502, registry_code = "UNAVAILABLE",
    message = "the cluster has no token endpoint at this URL" },
  server_error = { status = 502, registry_code = "UNAVAILABLE", message = "the cluster reported an internal error" },
  http_status = { status = 502, registry_code = "UNAVAILABLE", message = "the cluster sent an unexpected response" },
  too_large = { status = 502, registry_code = "UNAVAILABLE", message = "the cluster sent an unexpected response" },
  invalid_response = { status = 502, registry_code = "UNAVAILABLE",
    message = "the cluster sent an unexpected response" },
  expired = { status = 502, registry_code = "UNAVAILABLE", message = "the cluster returned an expired token" },
}

-- Failures that concern one key, and say nothing about its credential or the endpoint.
local OF_ONE_KEY = { forbidden = true, not_found = true, http_status = true, rate_limited = true }

--- Returns whether a text is one of the codes.
function codes.is_code(text)
  return OWN[text] ~= nil or OF_MODULE[text] ~= nil
end

--- Returns whether a failure with this code says nothing about other keys with the same credential.
function codes.is_of_one_key(code)
  return OF_ONE_KEY[code] == true
end

--- Returns what a client receives for a failure: { status =, registry_code =, message = }. An unknown code counts as
-- "internal".
function codes.get(code)
  return OWN[code] or OF_MODULE[code] or OWN.internal
end

local function list_names(...)
  local names = {}
  for _, rows in ipairs { ... } do
    for name in pairs(rows) do names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- Returns two sorted lists: the codes that a request can fail with, and those that a token request can fail with.
function codes.list()
  return list_names(OWN, OF_MODULE), list_names(OF_MODULE, { internal = true })
end

return codes
