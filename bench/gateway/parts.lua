-- The hooks that bench/gateway/parts compares with gateway:authorize(): the least that looks up a token, and the same
-- steps as authorize() up to a certain one. Each sets $icptoken_authorization to a valid value, as nginx's part of the
-- work depends on that. init_by_lua runs this file; the globals are those of gateway.conf.
-- luacheck: read globals gateway constant

local audit = require "icptoken.gateway.audit"
local errlog = require "ngx.errlog"
local key = require "icptoken.gateway.key"
local request_reader = require "icptoken.gateway.request"

local variables, INFO = ngx.var, ngx.INFO
local begin_audit, get_log_level, compute_key = audit.begin, errlog.get_sys_filter_level, key.compute
local find_credential, compute_scopes = request_reader.find_credential, request_reader.compute_scopes
local dict = ngx.shared.icptoken

local parts = {}

-- Reads what a token depends on, computes a key from which a credential cannot be read, looks that up in memory that
-- the workers share, and sets the variable. It does not check, count or renew anything.
function parts.least()
  local token_key = compute_key(gateway.token_bases.bearer, variables.http_authorization, 8, variables.request_uri)
  local authorization = dict:get(token_key)
  if not authorization then
    authorization = constant
    dict:set(token_key, authorization)
  end
  variables.icptoken_authorization = authorization
end

-- For the filters of nginx beside it.
function parts.nothing() end

-- The steps of authorize(), in order.

function parts.level()
  if get_log_level() < INFO then variables.icptoken_authorization = constant end
end

function parts.audit()
  if get_log_level() < INFO and begin_audit(gateway) then variables.icptoken_authorization = constant end
end

function parts.credential()
  if get_log_level() >= INFO or not begin_audit(gateway) then return end
  if find_credential(gateway.settings) then variables.icptoken_authorization = constant end
end

function parts.scopes()
  if get_log_level() >= INFO or not begin_audit(gateway) then return end
  local kind = find_credential(gateway.settings)
  if kind and compute_scopes(gateway.settings) then variables.icptoken_authorization = constant end
end

function parts.key()
  if get_log_level() >= INFO or not begin_audit(gateway) then return end
  local kind, text, first = find_credential(gateway.settings)
  local scopes = compute_scopes(gateway.settings)
  if compute_key(gateway.token_bases[kind], text, first, scopes) then variables.icptoken_authorization = constant end
end

function parts.dict()
  if get_log_level() >= INFO or not begin_audit(gateway) then return end
  local kind, text, first = find_credential(gateway.settings)
  local scopes = compute_scopes(gateway.settings)
  if dict:get(compute_key(gateway.token_bases[kind], text, first, scopes)) then
    variables.icptoken_authorization = constant
  else
    gateway:authorize()
  end
end

function parts.token()
  if get_log_level() >= INFO or not begin_audit(gateway) then return end
  local kind, text, first = find_credential(gateway.settings)
  local scopes = compute_scopes(gateway.settings)
  local authorization = gateway.store:get_token(compute_key(gateway.token_bases[kind], text, first, scopes))
  if not authorization then return gateway:authorize() end
  variables.icptoken_authorization = authorization
end

function parts.whole()
  gateway:authorize()
end

return parts
