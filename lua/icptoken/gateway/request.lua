-- The credential of the current request and the access that it needs: from the request itself, or from the functions
-- that the user passed as the options of the same names.

local credential = require "icptoken.gateway.credential"
local guard = require "icptoken.gateway.guard"
local scope = require "icptoken.gateway.scope"

local ngx = ngx
local variables = ngx.var
local get_method = ngx.req.get_method
local split_credential, compute_scopes = credential.split, scope.compute

local request = {}

--- Returns the credential of the request: its kind, a text, and the byte from which on the text is the credential; or
-- nil and a code. settings: the option credential.
function request.find_credential(settings)
  local callback = settings.credential
  if not callback then
    local value = variables.http_authorization
    local kind, text, first = split_credential(value)
    if kind then return kind, text, first end
    return nil, value and value ~= "" and "invalid_credential" or "no_credential"
  end
  local ok, value = guard.call_option("credential", callback)
  if not ok then return nil, "internal" end
  if value == nil then return nil, "no_credential" end
  local kind, text, first = credential.from_table(value)
  if kind then return kind, text, first end
  guard.log_fault("credential", "must return { id_token = }, { username =, password = } or nil: answering the request "
    .. "with 500")
  return nil, "internal"
end

--- Returns the scopes that the request needs, separated by spaces, and its query, if that may mount a blob; or nil and
-- a code. settings: the options scope and delete_actions. method: of the request (by default what nginx takes for it).
function request.compute_scopes(settings, method)
  local callback = settings.scope
  if not callback then return compute_scopes(method or get_method(), variables.request_uri, settings.delete_actions) end
  local ok, value = guard.call_option("scope", callback)
  if not ok then return nil, "internal" end
  if value == nil then return nil, "name_invalid" end
  local scopes = scope.normalise(value)
  if scopes then return scopes, nil end
  guard.log_fault("scope", "must return a list of scopes, a string or nil: answering the request with 500")
  return nil, "internal"
end

return request
