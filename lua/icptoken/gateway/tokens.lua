-- From a credential and scopes to a token: out of the dict, or from a flight that requests one.
--
-- The functions take `self`, a gateway: settings, keys, token_bases, store, flights, counters. A credential is a kind,
-- a text, and the byte from which on the text is the credential (see credential.split). `base` is the beginning of a
-- key (see key.compute), `defaults` what goes with the token request (see options.choose_defaults).

local icptoken = require "icptoken"
local clock = require "icptoken.gateway.clock"
local credential = require "icptoken.gateway.credential"
local key = require "icptoken.gateway.key"
local request_reader = require "icptoken.gateway.request"
local scope = require "icptoken.gateway.scope"

local find, sub = string.find, string.sub
local compute_key = key.compute

local tokens = {}

-- Returns the token request, the key of its credential, and the expiry of the credential on clock.now() or nil; or nil
-- and a failure.
local function make_request(self, kind, text, first, scopes, defaults)
  local request, expiry = credential.read(kind, text, first, self.settings.token_user)
  if not request then return nil, expiry end
  request.service, request.account = defaults.service, defaults.account
  request.client_id, request.offline_token = defaults.client_id, defaults.offline_token
  request.scope = scopes ~= "" and scopes or nil
  local credential_key = self.keys:compute_credential_key(kind, text, first)
  return request, credential_key, expiry and clock.now() + expiry - clock.wall()
end

-- Returns a function that does the same later. (LuaJIT does not compile a function that creates a closure, so obtain
-- must not create one.)
local function prepare_request(self, kind, text, first, scopes, defaults)
  return function() return make_request(self, kind, text, first, scopes, defaults) end
end

--- Returns a token's Authorization value, its source ("cached", "stale" or "fresh"), its key, and the flight that was
-- waited for, or a renewal that begins; or nil, a failure, the key, and the flight or nil. Waits for a token that is
-- not in the dict.
local function obtain(self, base, kind, text, first, scopes, defaults)
  local token_key = compute_key(base, text, first, scopes)
  local authorization, is_due, expires_at, stored_at, time = self.store:get_token(token_key)
  if authorization then self.counters:note_age(stored_at, time) end
  if authorization and not is_due then return authorization, "cached", token_key end
  local prepared = prepare_request(self, kind, text, first, scopes, defaults)
  if authorization then
    local is_renewing, renewal = self.flights:renew(token_key, expires_at, prepared)
    if is_renewing then return authorization, "cached", token_key, renewal end
    self.counters:observe("stale_seconds", math.max(0, expires_at - time))
    return authorization, "stale", token_key
  end
  local failure, flight
  authorization, failure, flight = self.flights:obtain(token_key, prepared)
  if not authorization then return nil, failure, token_key, flight end
  return authorization, "fresh", token_key, flight
end

-- Returns whether a token grants pull access to a repository. A token service may leave access out that it does not
-- grant (https://distribution.github.io/distribution/spec/auth/token/). A token that cannot be decoded counts as
-- granting it: the registry decides.
local function allows_pull(authorization, name)
  local jwt = icptoken.decode(sub(authorization, #"Bearer " + 1))
  if not jwt then return true end
  for _, access in ipairs(type(jwt.claims.access) == "table" and jwt.claims.access or {}) do
    if type(access) == "table" and access.type == "repository" and access.name == name then
      for _, action in ipairs(type(access.actions) == "table" and access.actions or {}) do
        if action == "pull" or action == "*" then return true end
      end
    end
  end
  return false
end

-- Removes the mount from the current request, so that its client uploads the blob, as with a registry that does not
-- mount.
local function drop_mount(query)
  ngx.req.set_uri_args(scope.drop_mount(query))
end

--- Does the same as obtain for a request whose query (or nil) may mount a blob from another repository. A mount only
-- saves an upload, so if access to that repository is not granted, the request is passed on as an upload.
function tokens.obtain_with_query(self, query, base, kind, text, first, scopes, defaults)
  if not query then return obtain(self, base, kind, text, first, scopes, defaults) end
  local source = scope.find_source(query)
  if source and source ~= "" and not find(scopes, scope.for_pull(source), 1, true) then
    local both = scopes .. " " .. scope.for_pull(source)
    local authorization, from, token_key, flight = obtain(self, base, kind, text, first, both, defaults)
    if authorization and allows_pull(authorization, source) then return authorization, from, token_key, flight end
    if not authorization and from.code ~= "forbidden" then return nil, from, token_key, flight end
    source = nil
  end
  if not source then drop_mount(query) end
  return obtain(self, base, kind, text, first, scopes, defaults)
end

--- Returns the key of the token that the current request was given, and when that was stored; or nil if the dict no
-- longer has it. method: of the request. Request handlers may have replaced the request's method, but not its first
-- line.
function tokens.find_key(self, authorization, method)
  local kind, text, first = request_reader.find_credential(self.settings)
  local scopes, query = request_reader.compute_scopes(self.settings, method)
  if not kind or not scopes then return nil end
  local source = query and scope.find_source(query)
  for _, wanted in ipairs { scopes, source and scopes .. " " .. scope.for_pull(source) } do
    local token_key = compute_key(self.token_bases[kind], text, first, wanted)
    local current, _, _, stored_at = self.store:get_token(token_key)
    if current == authorization then return token_key, stored_at end
  end
end

tokens.obtain = obtain

return tokens
