-- Who asks. A request brings an ID token (RFC 6750) or a user name and a password (RFC 7617) in its Authorization
-- header. On the way to a cached token only `split` runs; the rest is looked at when the endpoint is to be asked.

local icptoken = require "icptoken"

local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local find_regex = ngx.re.find

local credential = {}

--- What a credential may be: an ID token, a client's user name and password, a function's.
credential.KINDS = { "bearer", "basic", "password" }

local SPACE = 32
local ID_TOKEN = [[\A[A-Za-z0-9._~+/-]+=*\z]]
-- RFC 7617 section 2: no control characters; and no colon in the name, which ends at the first.
local CONTROL = "%c"

-- A text without the white space at its end. (A pattern anchored there would try again at each space before.)
local function strip_end(text)
  local spaces = find(text:reverse(), "%S")
  return spaces and sub(text, 1, #text - spaces + 1) or ""
end

--- Splits an Authorization value into "bearer" or "basic", and a text and the byte in it from which on the credential
-- stands (to cut it out would be to copy it for each request); nil for any other.
function credential.split(value)
  if not value then return nil end
  if sub(value, 1, 7) == "Bearer " and byte(value, 8) ~= SPACE then return "bearer", value, 8 end
  if sub(value, 1, 6) == "Basic " and byte(value, 7) ~= SPACE then return "basic", value, 7 end
  local scheme, first = match(value, "^ *(%a+) +()")
  scheme = scheme and scheme:lower()
  if scheme ~= "bearer" and scheme ~= "basic" then return nil end
  value = strip_end(value)
  if #value < first then return nil end
  return scheme, value, first
end

--- The same for what a user's function gave: { id_token = } or { username =, password = }.
function credential.from_table(value)
  if type(value) ~= "table" then return nil end
  if type(value.id_token) == "string" then
    -- often the whole of a file, and sometimes what a command printed
    local id_token = value.id_token:match "^%s*(.*)$"
    return "bearer", strip_end(id_token:gsub("^[Bb][Ee][Aa][Rr][Ee][Rr] +", "")), 1
  end
  if type(value.username) == "string" and type(value.password) == "string" then
    -- with a colon in it, it would be read as another name, so then there is none
    local username = value.username:find(":", 1, true) and "" or value.username
    -- not "basic": `token_user` is for clients
    return "password", ngx.encode_base64(username .. ":" .. value.password), 1
  end
  return nil
end

-- The digits of base64url whose last 4 bits, and whose last 2, are zero.
local LAST_OF_TWO, LAST_OF_THREE = "[AQgw]", "[AEIMQUYcgkosw048]"

-- Does a JWT's signature, the third part, have no other form that is decoded to the same bytes (RFC 7515 section 2, RFC
-- 4648 section 3.5)? Else anybody with one ID token could make many credentials of it. (The first two parts are
-- signed as they are written.)
local function is_canonical_jwt(id_token)
  local signature = match(id_token, "^[^.]*%.[^.]*%.([^.]*)$")
  if not signature then return true end
  local last = sub(signature, -1)
  local rest = #signature % 4
  if last == "=" or rest == 1 then return false end
  return rest == 0 or find(last, rest == 2 and LAST_OF_TWO or LAST_OF_THREE) ~= nil
end

-- Some ID tokens of ICP carry an exp that equals their iat; it means nothing.
local function read_end(id_token)
  local jwt = icptoken.decode(id_token)
  local claims = jwt and jwt.claims
  if type(claims) ~= "table" or type(claims.exp) ~= "number" then return nil end
  if type(claims.iat) == "number" and claims.exp <= claims.iat then return nil end
  return claims.exp
end

local function read_id_token(id_token)
  if not find_regex(id_token, ID_TOKEN, "jo") or not is_canonical_jwt(id_token) then
    return nil, { code = "invalid_credential" }
  end
  local ends = read_end(id_token)
  if ends and ends <= ngx.time() then return nil, { code = "unauthorized" } end
  return { id_token = id_token }, ends
end

--- What icptoken is to be given for a split credential: { id_token = } or { username =, password = }, and when the ID
-- token ends, in seconds since 1970 (nil where it does not say). Or nil and a failure. token_user: the Basic user name
-- whose password is an ID token, or nil.
function credential.read(kind, text, first, token_user)
  local rest = sub(text, first)
  if kind == "bearer" then return read_id_token(rest) end
  local decoded = ngx.decode_base64(rest)
  -- nginx's decoder takes what RFC 4648 sections 3.2 and 3.5 do not, and each spelling would be another key
  if decoded and ngx.encode_base64(decoded) ~= rest then decoded = nil end
  if decoded == ":" then return nil, { code = "no_credential" } end -- from skopeo, where it has none
  local username, password = (decoded or ""):match "^([^:]*):(.*)$"
  if not username or username == "" or password == "" or decoded:find(CONTROL) then
    return nil, { code = "invalid_credential" }
  end
  if kind == "basic" and username == token_user then return read_id_token(password) end
  return { username = username, password = password }
end

return credential
