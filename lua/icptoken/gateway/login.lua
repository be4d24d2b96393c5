-- Logins: from a client's user name and password to an ID token, for the token service that clients use with
-- challenge = "bearer".
--
-- The functions take `self`, a gateway: settings, keys, flights.

local answer = require "icptoken.gateway.answer"
local clock = require "icptoken.gateway.clock"
local credential = require "icptoken.gateway.credential"
local seal = require "icptoken.gateway.seal"

local now = clock.now

local login = {}

-- The purpose of a key that is derived from a user name and a password, see seal.derive_key.
local SEALED_IDENTITY = "icptoken sealed ID token "
-- A token service must not return a token with less left
-- (https://distribution.github.io/distribution/spec/auth/token/).
local MIN_IDENTITY_SECONDS = 60

--- Returns the ID token for a Basic credential (a text from a byte on), { token, expires_at (on clock.now() or nil) };
-- or nil and a failure; and then the key of the login, the flight that was waited for, and the user name, each or nil.
-- Waits for a login if the dict does not have it.
function login.find_identity(self, text, first)
  local request, expiry = credential.read("basic", text, first, self.settings.token_user)
  if not request then return nil, expiry end
  if not request.id_token then
    -- neither the login's key nor the sealing key follows from the other
    local login_key = self.keys:compute_login_key(text, first)
    local sealing_key = seal.derive_key(text:sub(first), SEALED_IDENTITY .. login_key)
    local credential_key = self.keys:compute_credential_key("basic", text, first)
    local username = request.username
    local identity, failure, flight = self.flights:log_in(login_key, credential_key, sealing_key, request)
    return identity, failure, login_key, flight, username
  end
  local seconds = expiry and expiry - clock.wall()
  if seconds and seconds < MIN_IDENTITY_SECONDS then return nil, { code = "unauthorized" } end
  return { token = request.id_token, expires_at = seconds and now() + seconds }
end

--- Returns the answer of a token service (see answer.lua) whose token is this ID token.
function login.make_answer(identity)
  local seconds = identity.expires_at and identity.expires_at - now() or 0
  return answer.for_object { token = identity.token, access_token = identity.token,
    expires_in = math.max(MIN_IDENTITY_SECONDS, math.floor(seconds)), issued_at = os.date("!%Y-%m-%dT%H:%M:%SZ") }
end

return login
