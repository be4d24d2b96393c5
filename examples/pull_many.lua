-- Gets tokens for 200 repositories in one call, from the fake ICP that ships with the project, and prints a table: the
-- repository, the expiry of its token, and the token's jti. No token is shown. To be run in the root of the project.
package.path = "./?.lua;" .. package.path
local icptoken = require "icptoken"
local stub = require "stub.client"

local REPOSITORIES = 200
local ROW = "%-28s %-13s %s"

local function list_requests()
  local requests = {}
  for n = 1, REPOSITORIES do
    requests[n] = { scope = ("repository:team-%d/app-%03d:pull"):format((n - 1) % 7 + 1, n) }
  end
  return requests
end

local function describe_token(token)
  local claims = assert(icptoken.decode(token.token)).claims
  local granted = claims.access[1]
  return ROW:format(granted.name, os.date("!%H:%M:%S", token.expires_at), claims.jti:sub(1, 8))
end

local function describe_failure(request, details)
  return ROW:format(request.scope, details.code, details.message)
end

local icp = stub.start()
local client = icptoken.new {
  host = "localhost", port = icp.port, cacert = icp.ca, id_token_file = icp.id_token_file,
  service = "token-service", http_version = "2",
}

local requests = list_requests()
local tokens, errors, code = client:fetch_all(requests)
if not tokens then -- no request was sent
  icp:stop()
  error(code .. ": " .. errors, 0)
end

print(ROW:format("repository", "expires (UTC)", "jti"))
local good = 0
for n, token in ipairs(tokens) do
  if token then
    good = good + 1
    print(describe_token(token))
  else
    print(describe_failure(requests[n], errors[n]))
  end
end
print(("\n%d of %d tokens, over %d connection(s)"):format(good, #requests, icp:accepted().https))

client:close()
icp:stop()
if errors then os.exit(1) end
