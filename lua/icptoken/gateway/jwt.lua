-- What a JWT says of its own lifetime. Its signature is not verified.

local icptoken = require "icptoken"

local jwt = {}

--- Returns the expiry of a JWT in seconds since 1970, or nil. ICP issues JWTs whose exp equals their iat; that is no
-- expiry.
function jwt.read_expiry(text)
  local decoded = icptoken.decode(text)
  local claims = decoded and decoded.claims
  if type(claims) ~= "table" or type(claims.exp) ~= "number" then return nil end
  if type(claims.iat) == "number" and claims.exp <= claims.iat then return nil end
  return claims.exp
end

--- Returns when a JWT was issued, in seconds since 1970, or nil.
function jwt.read_issue(text)
  local decoded = icptoken.decode(text)
  local claims = decoded and decoded.claims
  return type(claims) == "table" and type(claims.iat) == "number" and claims.iat or nil
end

return jwt
