-- The functions of the module that read what a caller has: no client, no network. Each is a function that sets up (see
-- driver.lua) and returns the function that calls it that many times. The loops are not shared, as in cached.lua.

local setup = ...

local icptoken = require "icptoken"

local clients = {}

function clients.decode()
  local decode, id_token = icptoken.decode, setup.id_token
  assert(decode(id_token).claims.sub)
  return function(count)
    for _ = 1, count do decode(id_token) end
  end
end

function clients.challenge()
  local challenge = icptoken.challenge
  local value = [[Bearer realm="https://mycluster.icp:8443/image-manager/api/v1/auth/token",]]
    .. [[service="token-service",scope="repository:default/app:pull,push",error="invalid_token"]]
  assert(challenge(value).error == "invalid_token")
  return function(count)
    for _ = 1, count do challenge(value) end
  end
end

return clients
