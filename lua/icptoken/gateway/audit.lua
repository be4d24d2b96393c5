-- Sets variables of nginx for its access log that say what the result of a request was: see "Audit" in docs/gateway.md.
-- A variable that nginx.conf does not declare costs nothing.
--
-- The values contain no credential. They consist of printable ASCII characters without double quotes, backslashes and
-- percent signs other than those of percent-encoding. So no client can forge a field in a log format that puts the
-- variables in double quotes. (A user name may contain spaces and single quotes.)
--
-- The functions take `self`, a gateway: settings, store, audited.

local icptoken = require "icptoken"
local client = require "icptoken.gateway.client"
local clock = require "icptoken.gateway.clock"

local now = clock.now
local variables = ngx.var

local audit = {}

local NAMES = { "result", "source", "user", "key", "scope", "wait", "request_id" }

-- Longer texts are cut.
local MAX_USER_BYTES, MAX_SCOPE_BYTES = 128, 1024
local UNSAFE = '[^]-~ !#$&-[]'

-- Users by Authorization value, up to twice MAX_USERS. A JWT is decoded once.
local MAX_USERS = 256
local users, user_count, older_users = {}, 0, {}

local function escape(text, limit)
  if not text:find(UNSAFE) and #text <= limit then return text end
  local cut = #text > limit and "..." or ""
  return text:sub(1, limit):gsub(UNSAFE, function(byte) return ("%%%02X"):format(byte:byte()) end) .. cut
end

-- Returns the set of the variables that nginx.conf declares, or false if there are none. `others` is in it if one of
-- them is not $icptoken_key, the only one that the example of an nginx.conf declares.
local function find_declared()
  local declared = {}
  for _, name in ipairs(NAMES) do
    if pcall(function() variables["icptoken_" .. name] = "" end) then declared[name] = true end
    if declared[name] and name ~= "key" then declared.others = true end
  end
  return next(declared) ~= nil and declared
end

-- Returns the user for whom the cluster issued a token: its claim `sub`, or nil.
local function find_user(authorization)
  local user = users[authorization] or older_users[authorization]
  if user == nil then
    local jwt = icptoken.decode(authorization:sub(#"Bearer " + 1))
    user = jwt and type(jwt.claims.sub) == "string" and escape(jwt.claims.sub, MAX_USER_BYTES) or false
    if user_count == MAX_USERS then older_users, users, user_count = users, {}, 0 end
    users[authorization], user_count = user, user_count + 1
  end
  return user or nil
end

local function set(trace, name, value)
  if trace.declared[name] and value then variables["icptoken_" .. name] = value end
end

--- Returns the trace of the current request, which the other functions take; or nil if no variable is declared.
function audit.begin(self)
  if self.audited == nil then self.audited = find_declared() end
  if not self.audited then return nil end
  local trace = { declared = self.audited }
  if self.audited.others and self.audited.wait then trace.began_at = now() end
  return trace
end

--- Notes the scopes that the request needs, or nil for a login. If its client disconnects while it waits, the handler
-- does not return, so that is noted beforehand.
function audit.note_wait(trace, scopes)
  if not trace.declared.others then return end
  if scopes and trace.declared.scope then set(trace, "scope", escape(scopes, MAX_SCOPE_BYTES)) end
  set(trace, "result", "client_gone")
end

-- Notes what all requests have in common at their end. flight: the one that it waited for or began, or nil.
local function note_end(self, trace, result, token_key, flight)
  if token_key and trace.declared.key then set(trace, "key", self.store:shorten(token_key)) end
  if not trace.declared.others then return end
  set(trace, "result", result)
  if trace.declared.wait then set(trace, "wait", ("%.3f"):format(now() - trace.began_at)) end
  if flight then set(trace, "request_id", flight:get_sent_id()) end
end

--- Notes that the request has a token. source: "cached", "stale" or "fresh".
function audit.note_token(self, trace, source, token_key, authorization, flight)
  note_end(self, trace, source, token_key, flight)
  if not trace.declared.others then return end
  if trace.declared.user then set(trace, "user", find_user(authorization)) end
  if not trace.declared.source then return end
  local is_own = flight and flight:get_sent_id() == client.find_request_id()
  set(trace, "source", source ~= "fresh" and "cache" or is_own and "request" or "joined")
end

--- Notes that the request failed, and its code.
function audit.note_failure(self, trace, code, token_key, flight)
  note_end(self, trace, code, token_key, flight)
end

--- Notes that the request has an ID token. username: whose, or nil if the client sent an ID token that it had already.
function audit.note_login(self, trace, login_key, username, flight)
  note_end(self, trace, "login", login_key, flight)
  if username then set(trace, "user", escape(username, MAX_USER_BYTES)) end
  set(trace, "source", flight and "request" or "cache")
end

return audit
