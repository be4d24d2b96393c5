-- A gateway as specs use it: nginx with icptoken's hooks, and behind it another nginx, the fake registry, which answers
-- with the request that it received.

local nginx = require "support.nginx"

local gateway = {}

-- Answers with the headers, method and target of the request as JSON. The headers X-Test-Status and X-Test-Challenge
-- of a request set the status and the challenge of the answer.
local UPSTREAM = [[
  server {
    listen 127.0.0.1:@PORT@ backlog=4096;
    client_max_body_size 0;
    keepalive_requests 1000000;
    location / {
      content_by_lua_block {
        ngx.req.discard_body()
        local headers = ngx.req.get_headers(0)
        ngx.status = tonumber(headers["x-test-status"]) or 200
        ngx.header["WWW-Authenticate"] = headers["x-test-challenge"]
        ngx.header["Content-Type"] = "application/json"
        ngx.print(require "cjson".encode {
          method = ngx.req.get_method(), target = ngx.var.request_uri, headers = headers })
      }
    }
  }
]]

--- Starts the fake registry.
function gateway.start_upstream()
  return nginx.start { http = UPSTREAM, workers = 1, log_level = "warn" }
end

-- Lua text of a plain value.
local function to_lua(value)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local parts = {}
  for name, member in pairs(value) do parts[#parts + 1] = ("[%s]=%s"):format(to_lua(name), to_lua(member)) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local HTTP = [[
  lua_shared_dict icptoken %s;
  lua_check_client_abort on;
  init_by_lua_block {
    gateway = require("icptoken.gateway").new(%s)
  }
  init_worker_by_lua_block { gateway:start() }
  upstream registry { server 127.0.0.1:%d; keepalive 64; }
  server {
    listen 127.0.0.1:@PORT@ backlog=4096;
    keepalive_requests 1000000;
    location /v2/ {
      set $icptoken_authorization "";
      set $icptoken_key "";
      access_by_lua_block { gateway:authorize() }
      header_filter_by_lua_block { gateway:observe() }
      body_filter_by_lua_block { gateway:filter() }
      client_max_body_size 0;
      proxy_request_buffering off;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization $icptoken_authorization;
      proxy_set_header Host $http_host;
      proxy_set_header Cookie "";
      proxy_pass http://registry;
    }
    location = /elsewhere { return 200 "elsewhere"; }
    location = /metrics { content_by_lua_block { ngx.print(gateway:metrics()) } }
    location = /empty { content_by_lua_block { ngx.shared.icptoken:flush_all() } }
    location = /dict {
      content_by_lua_block {
        local dict = ngx.shared.icptoken
        for _, name in ipairs(dict:get_keys(0)) do ngx.print(name, "\n", tostring(dict:get(name)), "\n") end
      }
    }
%s
  }
%s
]]

--- The http part of a configuration. options: `gateway` (a table of options that is added to the stub's endpoint, or
-- Lua text of a whole one), `stub`, `upstream`, `dict` ("4m"), `locations` and `servers` (more text).
function gateway.configure(options)
  local text = options.gateway
  if type(text) ~= "string" then
    local stub = options.stub
    local merged = { host = "localhost", port = stub.port, cacert = stub.ca, service = "token-service" }
    for name, value in pairs(options.gateway or {}) do merged[name] = value end
    text = to_lua(merged)
  end
  return HTTP:format(options.dict or "4m", text, options.upstream.port, options.locations or "", options.servers or "")
end

--- Starts the gateway. options: those of configure, and those of nginx.start other than `http`.
function gateway.start(options)
  return nginx.start { http = gateway.configure(options), workers = options.workers, log_level = options.log_level,
    connections = options.connections, lua_path = options.lua_path, user = options.user,
    main = "thread_pool icptoken threads=16;\n" .. (options.main or "") }
end

return gateway
