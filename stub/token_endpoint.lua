-- The image manager's token endpoint: checks an ID token or Basic credentials and answers with a registry JWT for
-- the requested service and scopes. `icp` is the running stub (see icp.lua); answers.lua describes an answer.

local cjson = require "cjson"
local jwt = require "jwt"
local text = require "text"

local PATH = "/image-manager/api/v1/auth/token"

local function refuse(status, code, message)
  local errors = { errors = { { code = code, message = message } } }
  return { status = status, content_type = "application/json", body = cjson.encode(errors) }
end

local function check_id_token(icp, id_token)
  local known = icp.id_tokens[id_token]
  if known and not (known.expires_at and known.expires_at <= icp:now()) then
    return known.user
  end
end

local function check_password(icp, encoded)
  local user, password = text.decode_base64(encoded):match "^([^:]*):(.*)$"
  if user and icp.settings.users[user] == password then
    return user
  end
end

-- Returns the user's name, or nil if the credential is refused.
local function check_credential(icp, request)
  local scheme, credential = (text.find_header(request.headers, "Authorization") or ""):match "^(%S+) +(%S+)$"
  if not scheme then
    return nil
  elseif scheme:lower() == "bearer" then
    return check_id_token(icp, credential)
  elseif scheme:lower() == "basic" then
    return check_password(icp, credential)
  end
end

-- The type is what precedes the first colon, the actions follow the last one: a name may contain a port.
local function parse_scope(scope)
  local kind, name, actions = scope:match "^([^:]+):(.+):([^:]*)$"
  if not kind then
    return nil
  end
  local access = { type = kind, name = name, actions = {} }
  for action in actions:gmatch "[^,]+" do
    table.insert(access.actions, action)
  end
  return access
end

-- cjson writes an empty Lua table as an object, so lists are written here.
local function encode_list(list)
  local encoded = {}
  for i, item in ipairs(list) do
    encoded[i] = type(item) == "table" and ('{"type":%s,"name":%s,"actions":%s}'):format(
      cjson.encode(item.type), cjson.encode(item.name), encode_list(item.actions)) or cjson.encode(item)
  end
  return "[" .. table.concat(encoded, ",") .. "]"
end

-- Returns whether access is to a repository that is denied to all users.
local function is_denied(icp, access)
  for _, name in ipairs(icp.settings.denied) do
    if access.name == name then
      return true
    end
  end
  return false
end

-- Returns the requested access that is granted, and whether some was denied.
local function split_access(icp, scopes)
  local granted, some_denied = {}, false
  for _, value in ipairs(scopes or {}) do
    for scope in value:gmatch "%S+" do
      local access = parse_scope(scope)
      if access and is_denied(icp, access) then
        some_denied = true
      else
        table.insert(granted, access)
      end
    end
  end
  return granted, some_denied
end

local function encode_access(icp, scopes)
  return scopes and encode_list((split_access(icp, scopes))) or "null"
end

local CLAIM_ORDER = { "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "access" }

-- Changes claims as an order says: to a value; false removes one; `exp_in = n` sets exp to now + n.
local function apply_claims(encoded, ordered, now)
  local order = {}
  for i, name in ipairs(CLAIM_ORDER) do
    order[i] = name
  end
  for name, value in pairs(ordered or {}) do
    local base = name:match "^(.+)_in$"
    if base and type(value) == "number" then
      name, value = base, now + value
    end
    if encoded[name] == nil then
      table.insert(order, name)
    end
    encoded[name] = value ~= false and cjson.encode(value) or nil
  end
  return order
end

local function encode_object(names, encoded)
  local members = {}
  for _, name in ipairs(names) do
    if encoded[name] then
      table.insert(members, cjson.encode(name) .. ":" .. encoded[name])
    end
  end
  return "{" .. table.concat(members, ",") .. "}"
end

-- As in ICP's sample, a request without a service gets no subject; one with a service gets the user.
local function make_token(icp, request, order, user, lifetime)
  local now = icp:now()
  local service = text.first_field(request.query, "service") or ""
  local encoded = {
    iss = '"registry-token-issuer"', sub = cjson.encode(service ~= "" and user or ""), aud = cjson.encode(service),
    exp = cjson.encode(now + lifetime), nbf = cjson.encode(now), iat = cjson.encode(now),
    jti = cjson.encode(jwt.make_identifier(8)), access = encode_access(icp, request.query.scope),
  }
  return icp.signer:sign(encode_object(apply_claims(encoded, order.claims, now), encoded))
end

local function encode_ordered(ordered, normal)
  if ordered == nil then
    return cjson.encode(normal)
  end
  return ordered ~= false and cjson.encode(ordered) or nil
end

local function choose_token(icp, request, order, user)
  if order.token ~= nil then
    return order.token
  end
  local lifetime = type(order.expires_in) == "number" and order.expires_in or icp.settings.expires_in
  return make_token(icp, request, order, user, math.floor(lifetime))
end

-- Returns the body with its members in ICP's order, so that its length depends only on the request and the order.
local function encode_body(icp, request, order, user)
  local encoded = {
    expires_in = encode_ordered(order.expires_in, icp.settings.expires_in),
    issued_at = encode_ordered(order.issued_at, text.format_rfc3339(icp:now())),
    token = encode_ordered(choose_token(icp, request, order, user)),
  }
  if text.first_field(request.query, "offline_token") == "true" then
    encoded.refresh_token = cjson.encode(jwt.make_identifier(16))
  end
  local names = { "expires_in", "issued_at", "token", "refresh_token" }
  for name, value in pairs(order.extra or {}) do
    if encoded[name] == nil and name ~= "refresh_token" then
      table.insert(names, name)
    end
    encoded[name] = cjson.encode(value)
  end
  for _, name in ipairs(order.omit or {}) do
    encoded[name] = nil
  end
  return encode_object(names, encoded)
end

local function answer_request(icp, request, order)
  if request.method ~= "GET" then
    return refuse(405, "METHOD_NOT_ALLOWED", "only GET is allowed here")
  end
  local user = check_credential(icp, request)
  if not user then
    return refuse(401, "UNAUTHORIZED", "authentication required")
  end
  if icp.settings.denial == "403" and select(2, split_access(icp, request.query.scope)) then
    return refuse(403, "DENIED", "requested access to the resource is denied")
  end
  return { status = 200, content_type = "application/json", body = encode_body(icp, request, order, user) }
end

return { PATH = PATH, answer_request = answer_request }
