-- Credentials: an ID token (RFC 6750), or a user name and a password (RFC 7617), from a request's Authorization header
-- or from a function of the user. For a cached token only `split` runs; a credential is validated before it is first
-- sent to the endpoint.

local bearer = require "icptoken.gateway.bearer"
local jwt = require "icptoken.gateway.jwt"

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local credential = {}

--- The kinds of credentials: an ID token; a client's user name and password; and those that a function of the user
-- returned.
credential.KINDS = { "bearer", "basic", "password" }

local SPACE = 32
-- RFC 7617 section 2 forbids control characters in user name and password.
local CONTROL = "%c"

-- Returns a text without trailing white space. (A pattern with $ would backtrack at each space, in quadratic time.)
local function strip_end(text)
  local spaces = find(text:reverse(), "%S")
  return spaces and sub(text, 1, #text - spaces + 1) or ""
end

--- Splits an Authorization value. Returns its kind ("bearer" or "basic"), a text, and the byte from which on the text
-- is the credential (to cut it out would copy it for each request); or nil for any other scheme.
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

--- Does the same for what a function of the user returned: { id_token = } or { username =, password = }.
function credential.from_table(value)
  if type(value) ~= "table" then return nil end
  if type(value.id_token) == "string" then
    -- often the whole content of a file, or the output of a command
    local id_token = value.id_token:match "^%s*(.*)$"
    return "bearer", strip_end(id_token:gsub("^[Bb][Ee][Aa][Rr][Ee][Rr] +", "")), 1
  end
  if type(value.username) == "string" and type(value.password) == "string" then
    -- everything after a colon would count as part of the password, so such a name is not valid
    local username = value.username:find(":", 1, true) and "" or value.username
    -- not "basic": `token_user` applies to clients only
    return "password", ngx.encode_base64(username .. ":" .. value.password), 1
  end
  return nil
end

-- The characters of base64url whose last 4 bits, or last 2, are zero.
local LAST_OF_TWO, LAST_OF_THREE = "[AQgw]", "[AEIMQUYcgkosw048]"

-- Returns whether a JWT's signature is the only spelling that decodes to its bytes (RFC 7515 section 2, RFC 4648
-- section 3.5). Otherwise one ID token could be turned into many credentials. (The first two parts are signed as they
-- are.)
local function is_canonical_jwt(id_token)
  local signature = match(id_token, "^[^.]*%.[^.]*%.([^.]*)$")
  if not signature then return true end
  local last = sub(signature, -1)
  local rest = #signature % 4
  if last == "=" or rest == 1 then return false end
  return rest == 0 or find(last, rest == 2 and LAST_OF_TWO or LAST_OF_THREE) ~= nil
end

local function read_id_token(id_token)
  if not bearer.is_token(id_token) or not is_canonical_jwt(id_token) then
    return nil, { code = "invalid_credential" }
  end
  local expiry = jwt.read_expiry(id_token)
  if expiry and expiry <= ngx.time() then return nil, { code = "unauthorized" } end
  return { id_token = id_token }, expiry
end

--- Validates a split credential. token_user: the Basic user name whose password is an ID token, or nil. Returns
-- { id_token = } or { username =, password = }, and the expiry of the ID token in seconds since 1970 (nil if it has
-- none); or nil and a failure.
function credential.read(kind, text, first, token_user)
  local rest = sub(text, first)
  if kind == "bearer" then return read_id_token(rest) end
  local decoded = ngx.decode_base64(rest)
  -- nginx's decoder accepts spellings that RFC 4648 sections 3.2 and 3.5 forbid, and each would have another key
  if decoded and ngx.encode_base64(decoded) ~= rest then decoded = nil end
  if decoded == ":" then return nil, { code = "no_credential" } end -- skopeo sends this if it has none
  local username, password = (decoded or ""):match "^([^:]*):(.*)$"
  if not username or username == "" or password == "" or decoded:find(CONTROL) then
    return nil, { code = "invalid_credential" }
  end
  if kind == "basic" and username == token_user then return read_id_token(password) end
  return { username = username, password = password }
end

return credential
