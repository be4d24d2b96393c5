-- The parts of a JWT, unverified, without the module icptoken (and libcurl).

local base64 = require "icptoken.cli.base64"
local json = require "icptoken.cli.json"

local jwt = {}

--- A token without what is often pasted along with it: white space, "Bearer ", and the labels that `cloudctl tokens`
-- prints.
function jwt.strip(text)
  text = text:match "^%s*(.-)%s*$"
  text = text:gsub("^[Ii][Dd] [Tt]oken:%s*", ""):gsub("^[Aa]ccess [Tt]oken:%s*", "")
  return (text:gsub("^[Bb][Ee][Aa][Rr][Ee][Rr]%s+", ""))
end

--- { header =, claims =, header_text =, claims_text = } of a JWT: tables, and the JSON as it is in the token. Or
-- nil and a message that does not show the token.
function jwt.decode(text)
  local first, second = text:match "^([%w_=-]+)%.([%w_=-]+)%.[%w_=-]*$"
  if not first then return nil, "it does not have three base64url parts separated by dots" end
  local decoded = {}
  for name, part in pairs { header = first, claims = second } do
    local bytes = not part:find "[+/]" and base64.decode(part)
    if not bytes then return nil, ("its %s is not base64url"):format(name) end
    local value, message = json.decode_object(bytes)
    if not value then return nil, ("its %s is not JSON: %s"):format(name, message) end
    decoded[name], decoded[name .. "_text"] = value, bytes
  end
  return decoded
end

--- When a token expires, in seconds since the epoch, by its own claims; nil if they do not say. In some ID tokens exp
-- equals iat, which says nothing.
function jwt.find_expiry(text)
  local decoded = jwt.decode(text)
  local claims = decoded and decoded.claims or {}
  local expiry, issued = claims.exp, claims.iat
  if type(expiry) ~= "number" or expiry ~= expiry or expiry > 2 ^ 53 then return nil end
  if type(issued) == "number" and expiry <= issued then return nil end
  return math.floor(expiry)
end

return jwt
