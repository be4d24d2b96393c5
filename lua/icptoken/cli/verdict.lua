-- How a registry judges a token: the checks of distribution 2.8 (registry/auth/token), one by one, each with the reason
-- and what to do. The registry itself only says "invalid_token", whichever fails.

local crypto = require "icptoken.cli.crypto"
local der = require "icptoken.cli.der"
local go_json = require "icptoken.cli.go_json"
local output = require "icptoken.cli.output"
local signing_key = require "icptoken.cli.signing_key"
local times = require "icptoken.cli.times"

local verdict = {}

-- For clocks that differ: Leeway in distribution.
local LEEWAY_SECONDS = 60
-- A time beyond the range of Go's seconds since the year 1 wraps around to the distant past.
local MAX_TIME = "9223371974719179007"

local HEADER = { typ = go_json.string, alg = go_json.string, kid = go_json.string, x5c = go_json.strings,
  jwk = go_json.raw }
local ACCESS = { type = go_json.string, class = go_json.string, name = go_json.string, actions = go_json.strings }
local CLAIMS = { iss = go_json.string, sub = go_json.string, aud = go_json.string, exp = go_json.int64,
  nbf = go_json.int64, iat = go_json.int64, jti = go_json.string, access = go_json.structs(ACCESS) }

local function add(checks, name, ok, text, ...)
  checks[#checks + 1] = { name = name, ok = ok, text = text:format(...) }
  return ok
end

-- The three parts of a token, or nil.
local function split(token)
  local parts = {}
  for part in (token .. "."):gmatch "([^.]*)%." do parts[#parts + 1] = part end
  if #parts == 3 then return parts end
end

-- The token's header, claims and signature, or nil and why it is malformed.
local function read(token)
  local parts = split(token)
  if not parts then return nil, "it does not have three parts separated by dots" end
  local bytes = {}
  for i, name in ipairs { "header", "claims", "signature" } do
    bytes[i] = signing_key.decode_part(parts[i])
    if not bytes[i] then return nil, ("its %s is not base64url"):format(name) end
  end
  local header, message = go_json.decode(bytes[1], HEADER)
  if not header then return nil, "its header " .. message end
  local claims
  claims, message = go_json.decode(bytes[2], CLAIMS)
  if not claims then return nil, "its list of claims " .. message end
  return { header = header, header_text = bytes[1], claims = claims, signature = bytes[3],
    signed = parts[1] .. "." .. parts[2] }
end

local function quote(text)
  return "'" .. output.clean(text or "") .. "'"
end

local function check_name(checks, name, found, wanted, advice)
  if (found or "") == wanted then return add(checks, name, true, "%s", output.clean(wanted)) end
  return add(checks, name, false, "the token has %s, the registry takes %s: %s", quote(found), quote(wanted), advice)
end

-- A time of the claims: its value, and whether it wraps around.
local function read_time(claim)
  if not claim then return 0, false end
  return claim.value, claim.exceeds(MAX_TIME)
end

local function describe_time(point, now)
  return ("%s (%s)"):format(times.utc(point), times.relative(point, now))
end

local function check_expiry(checks, claim, now)
  local point, wraps = read_time(claim)
  local ok = not wraps and now < point + LEEWAY_SECONDS
  if not claim then return add(checks, "expiry", ok, "the token has no exp, which counts as 1970") end
  if wraps then return add(checks, "expiry", ok, "%s is beyond the calendar of the registry", claim.text) end
  if not ok then
    return add(checks, "expiry", ok, "%s; that is more than the %d s that the registry allows: get a new token",
      describe_time(point, now), LEEWAY_SECONDS)
  end
  local late = point <= now and (", within the %d s that the registry allows"):format(LEEWAY_SECONDS) or ""
  return add(checks, "expiry", ok, "%s%s", describe_time(point, now), late)
end

local function check_not_before(checks, claim, now)
  local point, wraps = read_time(claim)
  local ok = wraps or now >= point - LEEWAY_SECONDS
  if not claim then return add(checks, "not before", ok, "the token has no nbf") end
  if not ok then
    return add(checks, "not before", ok, "%s; the registry allows %d s: compare the clocks of this machine and of the "
      .. "cluster", describe_time(point, now), LEEWAY_SECONDS)
  end
  return add(checks, "not before", ok, "%s", describe_time(point, now))
end

-- The digest that a key uses for the algorithm that the header names, and the signature in OpenSSL's form; or nil and
-- the reason.
local function prepare_signature(key, algorithm, signature)
  local bits = algorithm:match "^RS(%d%d%d)$"
  if key.kind == "RSA" then
    if bits == "256" or bits == "384" or bits == "512" then return bits, signature end
    return nil, "an RSA key takes RS256, RS384 and RS512"
  end
  local wanted = ({ ["P-256"] = "256", ["P-384"] = "384", ["P-521"] = "512" })[key.curve.name]
  if algorithm ~= "ES" .. wanted then return nil, ("a key on %s takes ES%s"):format(key.curve.name, wanted) end
  if #signature ~= 2 * key.curve.bytes then
    return nil, ("it has %d bytes instead of %d"):format(#signature, 2 * key.curve.bytes)
  end
  return wanted, der.write_ecdsa_signature(signature)
end

local function check_signature(checks, token, key)
  local algorithm = token.header.alg or ""
  if token.signature == "" then return add(checks, "signature", false, "the token has none") end
  if not key then return add(checks, "signature", false, "it cannot be verified without a key") end
  local bits, signature = prepare_signature(key, algorithm, token.signature)
  if not bits then return add(checks, "signature", false, "algorithm %s: %s", quote(algorithm), signature) end
  if crypto.verify(key.spki, bits, token.signed, signature) then
    return add(checks, "signature", true, "%s, made with this key", algorithm)
  end
  return add(checks, "signature", false, "it is not one of this key over this text: the token was changed, or "
    .. "another key "
    .. "signed it")
end

-- What the token allows: "type:name" to a set of actions. nil if an entry is null.
local function collect_access(list)
  local granted = {}
  for _, entry in ipairs(list or {}) do
    if not entry then return nil end
    local resource = (entry.type or "") .. ":" .. (entry.name or "")
    granted[resource] = granted[resource] or {}
    for _, action in ipairs(entry.actions or {}) do granted[resource][action] = true end
  end
  return granted
end

local function list_granted(granted)
  local scopes = {}
  for resource, actions in pairs(granted) do
    local names = {}
    for action in pairs(actions) do names[#names + 1] = action end
    table.sort(names)
    scopes[#scopes + 1] = output.clean(resource .. ":" .. table.concat(names, ","))
  end
  table.sort(scopes)
  return #scopes > 0 and table.concat(scopes, " ") or "nothing"
end

local function check_access(checks, granted, scopes)
  local text, all_covered = list_granted(granted), true
  if #scopes == 0 then add(checks, "access", true, "%s", text) end
  for _, scope in ipairs(scopes) do
    local actions, missing = granted[scope.resource] or {}, {}
    for _, action in ipairs(scope.actions) do
      if not actions["*"] and not actions[action] then missing[#missing + 1] = action end
    end
    if #missing == 0 then
      add(checks, "access", true, "%s", scope.text)
    else
      all_covered = add(checks, "access", false, "%s: %s is missing; the token allows %s. Request a token with "
        .. "this scope, "
        .. "and see that the user's teams have the right", scope.text, table.concat(missing, ","), text)
    end
  end
  return all_covered
end

-- Where distribution 3 is known to decide differently.
local function compare_releases(notes, token, bundle)
  local header = token.header
  if not header.jwk and not (header.x5c and #header.x5c > 0) and header.kid
    and not signing_key.is_known_by_thumbprint(bundle, header.kid) then
    notes[#notes + 1] = "distribution 3 compares kid with the key's RFC 7638 thumbprint instead of libtrust's "
      .. "fingerprint, "
      .. "and refuses this token unless the registry's option jwks has its kid"
  end
end

--- Judges a token. options: `bundle` (of signing_key.read_bundle), `service`, `issuer`, `scopes` (a list of { text =,
-- resource = "type:name", actions = }). Returns `result` ("accepted", "invalid_token", "insufficient_scope", or "crash"
-- where the registry answers nothing), and lists of `checks` ({ name =, ok =, text = }) and `notes`.
function verdict.judge(text, options)
  local checks, notes, now = {}, {}, os.time()
  local token, reason = read(text)
  if not token then
    add(checks, "format", false, "this is not a token: %s", output.clean(reason))
    return { result = "invalid_token", checks = checks, notes = notes }
  end
  local claims = token.claims
  local ok = add(checks, "format", true, "header, claims and signature can be read")
  ok = check_name(checks, "issuer", claims.iss, options.issuer, "--issuer is the registry's auth.token.issuer") and ok
  ok = check_name(checks, "audience", claims.aud, options.service,
    "request the token with this service; --service is the registry's auth.token.service") and ok
  ok = check_expiry(checks, claims.exp, now) and ok
  ok = check_not_before(checks, claims.nbf, now) and ok
  -- the registry looks for the key last, so it crashes there only if the token has passed all other checks
  local key, about, is_crash = signing_key.find(options.bundle, token.header, token.header_text)
  is_crash = is_crash and ok and token.signature ~= ""
  add(checks, "key", key ~= nil, "%s", about)
  ok = check_signature(checks, token, key) and ok
  local result = is_crash and "crash" or not ok and "invalid_token" or "accepted"
  local granted = collect_access(claims.access)
  if not granted then
    add(checks, "access", false, "an entry is null, which crashes distribution 2")
    if result == "accepted" then result = "crash" end
  elseif not check_access(checks, granted, options.scopes) and result == "accepted" then
    result = "insufficient_scope"
  end
  compare_releases(notes, token, options.bundle)
  return { result = result, checks = checks, notes = notes }
end

return verdict
