-- How a registry says no: https://distribution.github.io/distribution/spec/api/#errors. docker and skopeo show the
-- message, and come back with a credential after a 401 whose challenge they understand.

local cjson = require "cjson"

local answer = {}

-- Every code that a request can fail with: the HTTP status, the registry's code, the message for the client. The
-- endpoint's own words stay in the log, as they name machines that a client need not know.
-- First those of the gateway alone, then those of the module, which questions to the endpoint end with.
local OWN_FAILURES = {
  no_credential = { 401, "UNAUTHORIZED", "authentication required" },
  name_invalid = { 404, "NAME_INVALID", "no endpoint of the registry API, or not a name of a repository" },
  method_not_allowed = { 405, "UNSUPPORTED", "the registry API has no such method" },
  internal = { 500, "UNKNOWN", "the gateway failed" },
  client_gone = { 499, "UNKNOWN", "the client closed the connection" },
  overloaded = { 503, "UNAVAILABLE", "the cluster is too slow for the token requests that are waiting" },
  queue_full = { 503, "UNAVAILABLE", "too many requests wait for a token" },
  not_started = { 503, "UNAVAILABLE", "the gateway is not ready" },
}
local MODULE_FAILURES = {
  invalid_credential = { 401, "UNAUTHORIZED", "the credential is incomplete or malformed" },
  unauthorized = { 401, "UNAUTHORIZED", "the credential was refused or has ended: log in again" },
  forbidden = { 403, "DENIED", "requested access to the resource is denied" },
  rate_limited = { 429, "TOOMANYREQUESTS", "the cluster is asked too often" },
  timeout = { 504, "UNAVAILABLE", "the cluster did not answer in time" },
  closed = { 500, "UNKNOWN", "the gateway failed" },
  no_memory = { 502, "UNAVAILABLE", "the gateway is short of memory" },
  resolve = { 502, "UNAVAILABLE", "the name of the cluster is not known" },
  connect = { 502, "UNAVAILABLE", "the cluster cannot be reached" },
  proxy = { 502, "UNAVAILABLE", "the proxy before the cluster cannot be used" },
  tls = { 502, "UNAVAILABLE", "the cluster could not be verified" },
  network = { 502, "UNAVAILABLE", "the connection to the cluster broke" },
  redirect = { 502, "UNAVAILABLE", "the cluster sends its clients elsewhere" },
  not_found = { 502, "UNAVAILABLE", "the cluster has no token service where it should be" },
  server_error = { 502, "UNAVAILABLE", "the cluster failed" },
  http_status = { 502, "UNAVAILABLE", "the cluster gave an unexpected answer" },
  too_large = { 502, "UNAVAILABLE", "the cluster gave an unexpected answer" },
  invalid_response = { 502, "UNAVAILABLE", "the cluster gave an unexpected answer" },
  expired = { 502, "UNAVAILABLE", "the cluster gave a token that had ended" },
}

-- Nothing that goes in needs quoting.
local BODY = '{"errors":[{"code":"%s","message":"%s","detail":{"code":"%s"}}]}\n'

-- nginx's own status for its log.
local HTTP_CLIENT_CLOSED = 499

-- When to come back where nobody said.
local RETRY_SECONDS = 1

local function get_known(failure)
  return OWN_FAILURES[failure.code] or MODULE_FAILURES[failure.code] or OWN_FAILURES.internal
end

--- Whether a text is one of the codes.
function answer.is_code(text)
  return OWN_FAILURES[text] ~= nil or MODULE_FAILURES[text] ~= nil
end

local function list_names(...)
  local names = {}
  for _, failures in ipairs { ... } do
    for name in pairs(failures) do names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- The codes that a request can fail with, and those that a question to the endpoint can fail with; each sorted.
function answer.list_codes()
  local fetch_codes = list_names(MODULE_FAILURES, { internal = true })
  return list_names(OWN_FAILURES, MODULE_FAILURES), fetch_codes
end

--- The message of a failure for a client.
function answer.describe(failure)
  return get_known(failure)[3]
end

-- The status, and the seconds for Retry-After or nil.
local function choose_status(failure)
  local status = get_known(failure)[1]
  local retry_after = failure.retry_after
  if failure.code == "server_error" and retry_after then status = 503 end
  if status == 503 and not retry_after then retry_after = RETRY_SECONDS end
  if status ~= 503 and status ~= 429 then retry_after = nil end
  return status, retry_after and math.ceil(retry_after)
end

-- A quoted-string of RFC 9110 section 5.6.4, without what has no place in a header.
local function quote(text)
  return '"' .. text:gsub("%c", ""):gsub('["\\]', "\\%0") .. '"'
end

--- The gateway's own challenge for a request that needs these scopes ("" or nil for none), with a Bearer error or nil.
function answer.make_challenge(settings, scopes, error_code)
  if settings.challenge == "basic" then return "Basic realm=" .. quote(settings.realm) end
  local parts = { "Bearer realm=" .. quote(settings.realm) }
  if settings.service then parts[#parts + 1] = "service=" .. quote(settings.service) end
  if scopes and scopes ~= "" then parts[#parts + 1] = "scope=" .. quote(scopes) end
  if error_code then parts[#parts + 1] = "error=" .. quote(error_code) end
  return table.concat(parts, ",")
end

--- How a request is answered whose credential is good, but lacks the right: the status, and the challenge or nil. As a
-- registry does where clients are sent to a token service; a client of Basic could only ask its user for another
-- password.
function answer.choose_denial(settings, scopes)
  if settings.challenge == "basic" then return 403, nil end
  return 401, answer.make_challenge(settings, scopes, "insufficient_scope")
end

--- The body of a failure.
function answer.write_body(failure)
  local known = get_known(failure)
  return BODY:format(known[2], known[3], failure.code)
end

-- Sends the answer and ends the request.
local function send(status, body)
  local is_read = pcall(ngx.req.discard_body)
  if not is_read then return ngx.exit(ngx.HTTP_BAD_REQUEST) end -- its chunks are malformed
  ngx.status = status
  ngx.header["Content-Type"] = "application/json"
  ngx.header["Content-Length"] = #body
  ngx.header["Docker-Distribution-Api-Version"] = "registry/2.0"
  ngx.header["Cache-Control"] = "no-store"
  -- where the client has gone, ngx.exit(ngx.HTTP_OK) would be logged as a success
  if not ngx.send_headers() then return ngx.exit(HTTP_CLIENT_CLOSED) end
  if ngx.req.get_method() ~= "HEAD" then ngx.print(body) end
  return ngx.exit(ngx.HTTP_OK)
end

--- Answers a request that failed, and ends it. allow: the methods for a 405. scopes: what the request needs, if known.
function answer.refuse(settings, failure, scopes, allow)
  local status, retry_after = choose_status(failure)
  if status == HTTP_CLIENT_CLOSED then return ngx.exit(status) end
  if status == 401 then
    local error_code = failure.code ~= "no_credential" and "invalid_token" or nil
    ngx.header["WWW-Authenticate"] = answer.make_challenge(settings, scopes, error_code)
  elseif status == 403 then
    status, ngx.header["WWW-Authenticate"] = answer.choose_denial(settings, scopes)
  end
  if status == 405 then ngx.header["Allow"] = allow end
  if retry_after then ngx.header["Retry-After"] = retry_after end
  return send(status, answer.write_body(failure))
end

--- Answers with a JSON object, and ends the request.
function answer.give(object)
  return send(200, cjson.encode(object))
end

return answer
