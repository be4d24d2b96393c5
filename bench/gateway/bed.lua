-- What the benchmarks of the gateway that are written in Lua share: the answer that their endpoints give, and the rate
-- and CPU time of requests with a cached token.

local bed = {}

local CONNECTIONS = 32

--- Returns what a shell command prints.
function bed.read_command(command)
  local process = assert(io.popen(command))
  local text = process:read "*a"
  process:close()
  return text
end

--- Returns the answer of a fake ICP (from stub.client) to a token request.
function bed.read_answer(stub)
  local url = ("https://localhost:%d/image-manager/api/v1/auth/token?service=token-service"):format(stub.port)
  local body = bed.read_command(("curl -s --fail --cacert %s -H 'Authorization: Bearer %s' '%s'"):format(stub.ca,
    stub.id_token, url))
  assert(#body > 100, "the fake ICP returned no token")
  return body
end

--- Returns the sum of the numbers that a pattern finds in a file of /proc/PID of each worker of a gateway.
function bed.sum_of_workers(gateway, path, pattern)
  local sum = 0
  for _, pid in ipairs(gateway:workers()) do
    for number in bed.read_command(("cat /proc/%d/%s"):format(pid, path)):gmatch(pattern) do sum = sum + number end
  end
  return sum
end

--- Returns the CPU time in seconds that the workers have used, over all threads.
function bed.read_cpu(gateway)
  return bed.sum_of_workers(gateway, "task/*/schedstat", "(%d+) %d+ %d+") / 1e9
end

--- Requests /v2/cached/image/manifests/latest for some seconds. Returns the requests per second, and the CPU time of
-- each in seconds. Raises if a request fails.
function bed.run_wrk(gateway, seconds)
  local before = bed.read_cpu(gateway)
  local text = bed.read_command(("wrk -t 1 -c %d -d %d -H 'Authorization: Bearer good' "
    .. "http://127.0.0.1:%d/v2/cached/image/manifests/latest"):format(CONNECTIONS, seconds, gateway.port))
  local requests, rate = text:match "(%d+) requests in", text:match "Requests/sec:%s*([%d.]+)"
  if not requests or text:find "Non%-2xx" then error("wrk failed: " .. text, 0) end
  return tonumber(rate), (bed.read_cpu(gateway) - before) / tonumber(requests)
end

return bed
