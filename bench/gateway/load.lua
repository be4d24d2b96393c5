-- The requests that wrk sends. Usage: wrk -t 1 -s load.lua URL -- cached|cold <ID token file>
-- cached: one user repeats requests for a few scopes, as when pulling an image.
-- cold: each request is for another repository, so each needs a token that is not cached.
-- luacheck: globals wrk init request done

local TARGETS = {
  "/v2/default/app/manifests/latest",
  "/v2/default/app/blobs/sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
  "/v2/default/base/manifests/1.4.2",
  "/v2/team-a/tools/build/tags/list",
}
local COLD_TARGET = "/v2/cold/app-%d/manifests/latest"

local function read_headers(path)
  local file = assert(io.open(path))
  local id_token = file:read "*l"
  file:close()
  return { Authorization = "Bearer " .. id_token, Accept = "application/json",
    ["User-Agent"] = "docker/20.10.24 go/go1.19.8 os/linux arch/amd64" }
end

local make = {}

function make.cached(headers)
  local requests, turn = {}, 0
  for i, target in ipairs(TARGETS) do requests[i] = wrk.format("GET", target, headers) end
  return function()
    turn = turn % #requests + 1
    return requests[turn]
  end
end

function make.cold(headers)
  local count = 0
  return function()
    count = count + 1
    return wrk.format("GET", COLD_TARGET:format(count), headers)
  end
end

function init(arguments)
  request = make[arguments[1]](read_headers(arguments[2]))
end

-- Prints the number of answered requests, the seconds that they took, and the number of failed ones.
function done(summary)
  local errors = summary.errors
  print("done", summary.requests, summary.duration / 1e6,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout)
end
