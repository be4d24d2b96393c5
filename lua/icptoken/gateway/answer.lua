-- Answers in a registry's form: https://distribution.github.io/distribution/spec/api/#errors. docker and skopeo show
-- the message, and repeat the request with a credential after a 401 whose challenge they understand.
--
-- An answer is a plain table: status, headers (name to value), body. `send` is the only function that touches the
-- request.

local cjson = require "cjson"
local codes = require "icptoken.gateway.codes"

local answer = {}

-- No code and no message has a character that JSON would escape.
local BODY = '{"errors":[{"code":"%s","message":"%s","detail":{"code":"%s"}}]}\n'

-- nginx's own status for its access log.
local HTTP_CLIENT_CLOSED = 499

-- Seconds in Retry-After where the server named none.
local RETRY_SECONDS = 1

-- Returns the status, and the seconds for Retry-After or nil.
local function choose_status(failure)
  local status = codes.get(failure.code).status
  local retry_after = failure.retry_after
  if failure.code == "server_error" and retry_after then status = 503 end
  if status == 503 and not retry_after then retry_after = RETRY_SECONDS end
  if status ~= 503 and status ~= 429 then retry_after = nil end
  return status, retry_after and math.ceil(retry_after)
end

-- A quoted-string of RFC 9110 section 5.6.4, without characters that a header must not contain.
local function quote(text)
  return '"' .. text:gsub("%c", ""):gsub('["\\]', "\\%0") .. '"'
end

--- Returns the gateway's own challenge. settings: challenge, realm, service. scopes: what the request needs, separated
-- by spaces ("" or nil for none). error_code: an error of RFC 6750 section 3.1, or nil.
function answer.make_challenge(settings, scopes, error_code)
  if settings.challenge == "basic" then return "Basic realm=" .. quote(settings.realm) end
  local parts = { "Bearer realm=" .. quote(settings.realm) }
  if settings.service then parts[#parts + 1] = "service=" .. quote(settings.service) end
  if scopes and scopes ~= "" then parts[#parts + 1] = "scope=" .. quote(scopes) end
  if error_code then parts[#parts + 1] = "error=" .. quote(error_code) end
  return table.concat(parts, ",")
end

--- Returns the status, and the challenge or nil, for a valid credential without the right to do what the request wants.
-- With Bearer it is that of a registry. A client of Basic would answer a challenge by prompting for another password,
-- so it gets a 403 without one.
function answer.choose_denial(settings, scopes)
  if settings.challenge == "basic" then return 403, nil end
  return 401, answer.make_challenge(settings, scopes, "insufficient_scope")
end

--- Returns the body for a failure's code.
function answer.write_body(code)
  local known = codes.get(code)
  return BODY:format(known.registry_code, known.message, code)
end

--- Returns the answer to a request that failed. failure: code, and retry_after (seconds) or nil. scopes: what the
-- request needs, if known. allow: the methods for a 405.
function answer.for_failure(settings, failure, scopes, allow)
  local status, retry_after = choose_status(failure)
  local headers = { ["Retry-After"] = retry_after }
  if status == 401 then
    local error_code = failure.code ~= "no_credential" and "invalid_token" or nil
    headers["WWW-Authenticate"] = answer.make_challenge(settings, scopes, error_code)
  elseif status == 403 then
    status, headers["WWW-Authenticate"] = answer.choose_denial(settings, scopes)
  elseif status == 405 then
    headers["Allow"] = allow
  end
  return { status = status, headers = headers, body = answer.write_body(failure.code) }
end

--- Returns the answer that is a JSON object. status: 200 if omitted.
function answer.for_object(object, status)
  return { status = status or 200, headers = {}, body = cjson.encode(object) }
end

--- Sends an answer and ends the request; does not return. Where the client has gone, only the status for nginx's log is
-- set.
function answer.send(chosen)
  if chosen.status == HTTP_CLIENT_CLOSED then return ngx.exit(HTTP_CLIENT_CLOSED) end
  for name, value in pairs(chosen.headers) do ngx.header[name] = value end
  local is_read = pcall(ngx.req.discard_body)
  if not is_read then return ngx.exit(ngx.HTTP_BAD_REQUEST) end -- the request body's chunks are malformed
  ngx.status = chosen.status
  ngx.header["Content-Type"] = "application/json"
  ngx.header["Content-Length"] = #chosen.body
  ngx.header["Docker-Distribution-Api-Version"] = "registry/2.0"
  ngx.header["Cache-Control"] = "no-store"
  -- where the client has gone, ngx.exit(ngx.HTTP_OK) would be logged as a success
  if not ngx.send_headers() then return ngx.exit(HTTP_CLIENT_CLOSED) end
  if ngx.req.get_method() ~= "HEAD" then ngx.print(chosen.body) end
  return ngx.exit(ngx.HTTP_OK)
end

return answer
