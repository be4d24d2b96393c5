-- The registry that a client asks a credential for, and the login at its cluster with what another helper keeps.
-- Modules are loaded when they are needed, because a client waits for each call of the helper.

local failure = require "icptoken.cli.failure"

local registry_login = {}

--- The configuration, the registry's entry in it, and its cluster; the last two only for a registry behind a gateway.
function registry_login.find(server)
  local settings = require("icptoken.cli.configuration").read()
  local entry = require("icptoken.cli.reference").find_registry(settings.registries, server)
  if not entry or not entry.gateway_user then return settings, entry end
  return settings, entry, require("icptoken.cli.cluster").of_registry(settings, entry)
end

--- The user name and password that another helper has for a server, or nil.
function registry_login.read_stored(store, server)
  local status, answer = require("icptoken.cli.credential_store").call(store, "get", server)
  local credentials = status == 0 and require("icptoken.cli.json").decode_object(answer)
  if credentials and type(credentials.Username) == "string" and type(credentials.Secret) == "string" then
    return credentials.Username, credentials.Secret
  end
end

--- Logs in with what another helper keeps, and returns the session; nil if it keeps nothing. A password that is refused
-- is erased there, because sending it again and again would lock the account.
function registry_login.repeat_login(chosen, store, server)
  local login, session = require "icptoken.cli.login", require "icptoken.cli.session"
  return session.with_lock(chosen.endpoint, function()
    local content = session.read(chosen.endpoint)
    if session.is_valid(content) then return content end
    local username, password = registry_login.read_stored(store, server)
    if not username then return nil end
    local ok, result = pcall(login.with_password, chosen, username, password)
    if ok then return result end
    if failure.is(result) and result.code == "unauthorized" then
      require("icptoken.cli.credential_store").call(store, "erase", server)
    end
    error(result, 0)
  end)
end

return registry_login
