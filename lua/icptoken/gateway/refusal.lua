-- What becomes of a registry's 401: its challenge is replaced by the gateway's, and a token that the registry rejects
-- is dropped. For header_filter_by_lua and body_filter_by_lua.
--
-- The functions take `self`, a gateway: settings, token_bases, target, store, fleet, counters, has_filter,
-- is_checking_filter.

local icptoken = require "icptoken"
local answer = require "icptoken.gateway.answer"
local challenge = require "icptoken.gateway.challenge"
local client = require "icptoken.gateway.client"
local clock = require "icptoken.gateway.clock"
local log = require "icptoken.gateway.log"
local request = require "icptoken.gateway.request"
local tokens = require "icptoken.gateway.tokens"

local refusal = {}

-- A registry that rejects a key's tokens again and again causes one token request, and one line in the log, in this
-- time.
local DROP_SECONDS = 10
local DISAGREE_SECONDS = 60
local DISAGREE = "the registry rejects tokens that %s has just issued: check that option 'service' equals the "
  .. "registry's auth.token.service, that its issuer and rootcertbundle are this cluster's, that its clock is right, "
  .. "and that nginx.conf has \"proxy_set_header Authorization $icptoken_authorization\""

-- The line in the log for a token that is dropped, by the registry's error (RFC 6750 section 3.1).
local DROPPED = {
  invalid_token = "key %s: the registry rejected its token as invalid; the next request fetches another. If this "
    .. "repeats, compare the clocks of registry and cluster, option 'service' with the registry's auth.token.service, "
    .. "and its issuer and rootcertbundle with the cluster's (request %s)",
  insufficient_scope = "key %s: the registry requires more access than its token grants; the next request fetches "
    .. "another (request %s)",
}

-- Time after which filter() must have run.
local FILTER_SECONDS = 1
local NO_FILTER = "clients that are denied access receive the registry's message \"authentication required\", because "
  .. "the gateway's body filter is missing: add \"body_filter_by_lua_block { gateway:filter() }\" beside "
  .. "gateway:observe() in nginx.conf"

-- Returns the first Bearer challenge among the upstream's headers, or nil.
local function read_challenge()
  local value = ngx.header["WWW-Authenticate"]
  if type(value) == "table" then value = table.concat(value, ", ") end
  return value and icptoken.challenge(value)
end

-- Returns the method that the client sent. (nginx turns it into GET for the location of an error_page.)
local function find_method()
  return (ngx.var.request or ""):match "^%S+"
end

-- Drops the token that authorize() set, as the registry rejected it: it is invalid, or grants less than the user may do
-- by now. If it replaced another one a moment ago, requesting a new one would not help.
local function drop_token(self, reason)
  local authorization = ngx.var.icptoken_authorization
  if not authorization or authorization == "" then return end
  local token_key, stored_at = tokens.find_key(self, authorization, find_method())
  local is_new = token_key ~= nil and clock.now() - stored_at < DROP_SECONDS
  self.counters:add("rejected", reason .. (is_new and ",new" or ",old"))
  if not token_key then return end
  local _, _, expires_at = self.store:get_token(token_key)
  if not self.store:is_first("d" .. token_key, DROP_SECONDS) then
    local is_news = reason == "invalid_token" and self.store:is_first("g" .. self.target.key, DISAGREE_SECONDS)
    if is_news then
      local line = DISAGREE:format(self.target.url)
      log.write(ngx.ERR, line)
      self.store:add_change(self.target.key, "tokens_rejected", line)
    end
    return
  end
  if not self.store:drop_token(token_key, authorization) then return end
  if self.fleet then self.fleet:drop(token_key, authorization, expires_at) end
  self.counters:add "dropped"
  log.write(ngx.WARN, DROPPED[reason]:format(self.store:shorten(token_key), client.find_request_id()))
end

-- Logs that the line for filter() is missing in nginx.conf. The body of a timer.
local function check_filter(_, self)
  self.is_checking_filter = false
  if self.has_filter or not self.store:is_first("b" .. self.target.key, DISAGREE_SECONDS) then return end
  log.write(ngx.WARN, NO_FILTER)
end

-- Leaves the body of an answer that denies access to filter(). There is no Content-Length, so that the registry's own
-- body can pass if filter() is missing.
local function replace_body(self)
  local body = answer.write_body "forbidden"
  if not self.has_filter then
    -- one timer at a time: nginx has few, and token requests need them
    if not self.is_checking_filter then
      self.is_checking_filter = ngx.timer.at(FILTER_SECONDS, check_filter, self)
    end
    if ngx.header["Content-Encoding"] then return end
  end
  ngx.header["Content-Type"], ngx.header["Content-Encoding"] = "application/json", nil
  ngx.header["Content-Length"] = ngx.req.get_method() == "HEAD" and #body or nil
  ngx.ctx.icptoken_body = body
end

--- Rewrites the headers of a registry's 401. May raise.
function refusal.rewrite_headers(self)
  -- a 401 of nginx or of the gateway itself stays as it is
  if not (ngx.var.upstream_status or ""):find "401$" then return end
  local registry_challenge = read_challenge()
  local reason = registry_challenge and DROPPED[registry_challenge.error] and registry_challenge.error or nil
  if reason then drop_token(self, reason) end
  local scopes = request.compute_scopes(self.settings, find_method())
  if reason ~= "insufficient_scope" then
    return challenge.replace(answer.make_challenge(self.settings, scopes, reason))
  end
  local own_challenge
  ngx.status, own_challenge = answer.choose_denial(self.settings, scopes)
  replace_body(self)
  challenge.replace(own_challenge)
end

--- Sends the body of a denial in place of the registry's, in the first call for an answer, and nothing in later ones.
function refusal.rewrite_body()
  local body = ngx.ctx.icptoken_body
  if body == nil then return end
  ngx.arg[1], ngx.arg[2] = body or nil, true
  ngx.ctx.icptoken_body = false
end

return refusal
