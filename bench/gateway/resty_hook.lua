-- A gateway as it is written with lua-resty-http: for each request a token request over a kept connection, or, with
-- lua-resty-lrucache, one for each scope as long as the answer says, without renewal. For bench/rivals.

local cjson = require "cjson"
local lrucache = require "resty.lrucache"

local resty_hook = {}

local POOL, IDLE_MS, SPARE_SECONDS = 64, 60000, 10
local cache = lrucache.new(1024)

local function fetch(url, credential, scope)
  local answer, problem = require("resty.http").new():request_uri(url, {
    query = { service = "token-service", scope = scope }, headers = { Authorization = credential },
    ssl_server_name = "localhost", -- nginx has no resolver for the name
    keepalive_pool = POOL, keepalive_timeout = IDLE_MS })
  if not answer or answer.status ~= 200 then
    ngx.log(ngx.ERR, problem or answer.status)
    return ngx.exit(ngx.HTTP_BAD_GATEWAY)
  end
  return cjson.decode(answer.body)
end

local function find_scope()
  return "repository:" .. ngx.var.uri:match "^/v2/(.*)/manifests/" .. ":pull"
end

function resty_hook.resty(url)
  ngx.var.icptoken_authorization = "Bearer " .. fetch(url, ngx.var.http_authorization, find_scope()).token
end

function resty_hook.resty_cache(url)
  local credential, scope = ngx.var.http_authorization, find_scope()
  local name = credential .. " " .. scope
  local authorization = cache:get(name)
  if not authorization then
    local answer = fetch(url, credential, scope)
    authorization = "Bearer " .. answer.token
    cache:set(name, authorization, answer.expires_in - SPARE_SECONDS)
  end
  ngx.var.icptoken_authorization = authorization
end

return resty_hook
