-- Logging in: the password is exchanged for a session and then forgotten. If several processes do so at once, one of
-- them logs in and the others use its session.

local cluster = require "icptoken.cli.cluster"
local failure = require "icptoken.cli.failure"
local jwt = require "icptoken.cli.jwt"
local network = require "icptoken.cli.network"
local session = require "icptoken.cli.session"
local terminal = require "icptoken.cli.terminal"

local login = {}

--- Logs in with a password and keeps the session, which is returned. The caller has the session's lock.
function login.with_password(chosen, username, password)
  local identity, message, code, details = network.login(chosen, username, password)
  if not identity then failure.raise_result(message, code, details) end
  local content = { username = username, id_token = identity.id_token, refresh_token = identity.refresh_token,
    expires_at = identity.expires_at or jwt.find_expiry(identity.id_token) }
  if type(content.refresh_token) ~= "string" then content.refresh_token = nil end
  session.write(chosen.endpoint, content)
  return content
end

--- Keeps an ID token that the user already has as the session, which is returned.
function login.with_id_token(chosen, id_token)
  id_token = jwt.strip(id_token)
  local decoded = jwt.decode(id_token)
  local subject = decoded and decoded.claims.sub
  if type(subject) ~= "string" or subject:find "%c" then subject = nil end
  local content = { username = subject, id_token = id_token, expires_at = jwt.find_expiry(id_token) }
  if not id_token:find "^[%w._~+/-]+=*$" then
    failure.fail("invalid_credential", "this is not an ID token: it contains characters that an ID token cannot have")
  end
  session.write(chosen.endpoint, content)
  return content
end

--- Asks for user name (unless it is given) and password at the terminal. Fails with the hint if there is no terminal.
function login.ask(chosen, username, hint)
  local tty = terminal.open()
  if not tty then failure.fail("no_credential", "%s", hint) end
  local password
  local ok, problem = pcall(function()
    username = username or terminal.ask(tty, ("User name at %s: "):format(chosen.endpoint))
    if not username or username == "" then failure.fail("no_credential", "no user name was given") end
    password = terminal.ask_secretly(tty, ("Password of %s at %s: "):format(username, chosen.endpoint))
    if not password or password == "" then failure.fail("no_credential", "no password was given") end
  end)
  terminal.close(tty)
  if not ok then error(problem, 0) end
  return username, password
end

--- A session that is valid: the existing one, else that of a login that asks at the terminal.
function login.provide_session(chosen)
  local content = session.read(chosen.endpoint)
  if session.is_valid(content) then return content end
  local what = content and "the session has expired" or "nobody is logged in"
  local hint = ("%s at %s: log in with icptoken login%s, or pass an ID token in $ID_TOKEN, with --id-token-file FILE, "
    .. "or on standard input (-)"):format(what, chosen.endpoint, cluster.flags(chosen))
  return session.with_lock(chosen.endpoint, function()
    content = session.read(chosen.endpoint)
    if session.is_valid(content) then return content end
    local username, password = login.ask(chosen, content and content.username, hint)
    return login.with_password(chosen, username, password), true
  end)
end

return login
