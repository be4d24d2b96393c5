-- ICP's registry, as far as a client asks whether a token is good for it: GET /v2/ is refused with a challenge, and
-- allowed with a token that this stub has signed for its service. `icp` is the running stub (see icp.lua).

local cjson = require "cjson"
local text = require "text"
local token_endpoint = require "token_endpoint"

local PATH = "/v2/"
local LEEWAY_SECONDS = 60

local function read_claims(icp, token)
  local encoded = token:match "^[%w_-]+%.([%w_-]+)%.[%w_-]+$"
  local claims = encoded and text.decode_base64(encoded)
  -- RS256 is deterministic: what was signed here is the same when it is signed again
  return claims and icp.signer:sign(claims) == token and cjson.decode(claims) or nil
end

local function is_good(icp, token)
  local claims, now = read_claims(icp, token), icp:now()
  return claims ~= nil and claims.aud == icp.settings.registry_service and claims.exp + LEEWAY_SECONDS > now
    and claims.nbf - LEEWAY_SECONDS <= now
end

local function ping(icp, request)
  local token = (text.find_header(request.headers, "Authorization") or ""):match "^Bearer (%S+)$"
  if token and is_good(icp, token) then return { status = 200, content_type = "application/json", body = "{}" } end
  local realm = icp.settings.registry_realm
  if realm == "" then
    realm = "https://" .. (text.find_header(request.headers, "Host") or "localhost") .. token_endpoint.PATH
  end
  return { status = 401, content_type = "application/json",
    body = '{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}',
    challenge = ('Bearer realm="%s",service="%s"%s'):format(realm, icp.settings.registry_service,
      token and ',error="invalid_token"' or "") }
end

return { PATH = PATH, ping = ping }
