-- The identity provider: the password grant, which returns an ID token, and the exchange of an access token for one. ID
-- tokens are signed with the stub's key, and the token endpoint accepts them until they expire.

local cjson = require "cjson"
local jwt = require "jwt"
local text = require "text"

local function answer_json(status, fields)
  return { status = status, content_type = "application/json", body = cjson.encode(fields) }
end

local function refuse(status, code, description)
  return answer_json(status, { error = code, error_description = description })
end

--- Returns a new ID token for the user, which the token endpoint accepts.
local function issue_id_token(icp, user)
  local now, lifetime = icp:now(), icp.settings.id_token_expires_in
  local id_token = icp.signer:sign(cjson.encode {
    iss = "https://mycluster.icp:9443/oidc/endpoint/OP", sub = user, aud = "stub", iat = now, exp = now + lifetime,
    at_hash = jwt.make_identifier(11),
  })
  icp.id_tokens[id_token] = { user = user, expires_at = now + lifetime }
  return id_token
end

local function read_form(request)
  if request.method ~= "POST" then
    return nil, refuse(405, "invalid_request", "only POST is allowed here")
  end
  local content_type = text.find_header(request.headers, "Content-Type") or ""
  if not content_type:lower():find("^application/x%-www%-form%-urlencoded") then
    return nil, refuse(400, "invalid_request", "the body must be application/x-www-form-urlencoded")
  end
  return text.parse_form(request.body)
end

local function log_in(icp, request)
  local form, refusal = read_form(request)
  if not form then
    return refusal
  end
  if text.first_field(form, "grant_type") ~= "password" then
    return refuse(400, "unsupported_grant_type", "grant_type must be password")
  end
  local user, password = text.first_field(form, "username"), text.first_field(form, "password")
  if not user or not password or icp.settings.users[user] ~= password then
    return refuse(401, "invalid_grant", "the user name or password is not right")
  end
  local access_token = jwt.make_identifier(20)
  icp.access_tokens[access_token] = user
  return answer_json(200, {
    access_token = access_token, token_type = "Bearer", expires_in = icp.settings.id_token_expires_in,
    scope = text.first_field(form, "scope") or "openid", refresh_token = jwt.make_identifier(20),
    id_token = issue_id_token(icp, user),
  })
end

local function exchange_token(icp, request)
  local form, refusal = read_form(request)
  if not form then
    return refusal
  end
  local user = icp.access_tokens[text.first_field(form, "access_token") or ""]
  if not user then
    return refuse(401, "invalid_token", "the access token is not known")
  end
  return answer_json(200, { id_token = issue_id_token(icp, user), sub = user })
end

return {
  LOGIN_PATH = "/idprovider/v1/auth/identitytoken",
  EXCHANGE_PATH = "/idprovider/v1/auth/exchangetoken",
  log_in = log_in,
  exchange_token = exchange_token,
  issue_id_token = issue_id_token,
}
