-- The grammar of bearer tokens: b64token of RFC 6750 section 2.1. nginx does not escape variables in a header, so
-- nothing else may get into $icptoken_authorization.

local find_regex = ngx.re.find

local bearer = {}

local TOKEN = [[[A-Za-z0-9._~+/-]+=*]]
local WHOLE_TOKEN = [[\A]] .. TOKEN .. [[\z]]
local AUTHORIZATION = [[\ABearer ]] .. TOKEN .. [[\z]]

--- Returns whether a text is a b64token.
function bearer.is_token(text)
  return find_regex(text, WHOLE_TOKEN, "jo") ~= nil
end

--- Returns whether a text is "Bearer " and a b64token.
function bearer.is_authorization(text)
  return find_regex(text, AUTHORIZATION, "jo") ~= nil
end

return bearer
