-- What specs of the gateway under load observe: which worker answered, its metrics, its processes. Also a way to make
-- the tokens in its dict old.

local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"

local gateway_probe = {}

--- For the option `locations` of a gateway: every answer names the worker; /connections says how many clients are
-- connected and how many wait for an answer; and /age makes all tokens due for renewal, with `left` seconds until they
-- expire if that is given.
gateway_probe.LOCATIONS = [[
    add_header X-Worker $pid always;
    location = /connections { return 200 "$connections_active $connections_writing"; }
    location = /age {
      content_by_lua_block {
        local dict, aged, left = ngx.shared.icptoken, 0, tonumber(ngx.var.arg_left)
        local store = require "icptoken.gateway.store".new(dict, print)
        local new_end = left and require "icptoken.gateway.clock".now() + left
        for _, name in ipairs(dict:get_keys(0)) do
          local authorization, _, end_at = store:get_token(name)
          if #name == 32 and authorization then
            assert(store:put_token(name, authorization, 0, new_end or end_at))
            aged = aged + 1
          end
        end
        ngx.print(aged)
      }
    }
]]

--- Makes all tokens due for renewal, and expire in `left` seconds if that is given. Returns how many there are.
function gateway_probe.age_tokens(port, left)
  return tonumber(load.perform(port, { target = "/age" .. (left and "?left=" .. left or "") }).body)
end

--- The process id of the worker that answered.
function gateway_probe.read_worker(answer)
  return tonumber(answer.headers["x-worker"])
end

--- How many of the answers each worker sent, by its process id.
function gateway_probe.count_by_worker(answers)
  local counts = {}
  for _, answer in ipairs(answers) do
    local pid = gateway_probe.read_worker(answer)
    counts[pid] = (counts[pid] or 0) + 1
  end
  return counts
end

--- Connections (kept, for load.perform) to this many workers, the same number to each: lists by the process id.
function gateway_probe.reach_workers(port, workers, each)
  local reached, missing, spare = {}, workers * each, {}
  gateway_bed.await("all workers to take requests", function()
    local kept = {}
    local pid = gateway_probe.read_worker(load.perform(port, { target = "/elsewhere" }, kept))
    reached[pid] = reached[pid] or {}
    -- surplus connections to a worker stay open meanwhile, otherwise it would get the next one as well
    local is_spare = #reached[pid] == each
    table.insert(is_spare and spare or reached[pid], kept)
    missing = missing - (is_spare and 0 or 1)
    return missing == 0
  end)
  for _, kept in ipairs(spare) do kept.connection:close() end
  return reached
end

--- One number of a gateway's metrics, or the sum of a family's. label: as in the text, for instance `result="ok"`.
function gateway_probe.read_metric(port, name, label)
  local sum = 0
  for labels, value in load.perform(port, { target = "/metrics" }).body:gmatch("\n" .. name .. "{([^}]*)} (%S+)") do
    if not label or labels:find(label, 1, true) then sum = sum + tonumber(value) end
  end
  return sum
end

--- How many clients are connected, and how many of them wait for an answer, besides the one that asks.
function gateway_probe.count_clients(port)
  local connected, waiting = load.perform(port, { target = "/connections" }).body:match "^(%d+) (%d+)$"
  return connected - 1, waiting - 1
end

--- Kilobytes of memory that a process has.
function gateway_probe.read_memory(pid)
  return tonumber(files.read("/proc/" .. pid .. "/status"):match "VmRSS:%s*(%d+)")
end

--- More for the options of a gateway whose memory is read: `locations`, `lua_path` and `servers`. nginx would keep as
-- many coroutines as requests have ever been handled at once.
gateway_probe.IN_USE = {
  lua_path = "@ROOT@/spec/?.lua;", servers = "lua_thread_cache_max_entries 0;",
  locations = [[
    location = /in_use {
      content_by_lua_block { ngx.print(table.concat({ require "support.worker_memory".read() }, " ")) }
    }
  ]],
}

--- The kilobytes that each of a gateway's workers has in use: { lua = ..., malloc = ... } by its process id.
function gateway_probe.read_in_use(port, workers)
  local found = {}
  for pid, connections in pairs(gateway_probe.reach_workers(port, workers, 1)) do
    local answer = load.perform(port, { target = "/in_use" }, connections[1])
    local lua, malloc = answer.body:match "^(%S+) (%S+)$"
    found[pid] = { lua = tonumber(lua), malloc = tonumber(malloc) }
    connections[1].connection:close()
  end
  return found
end

--- How many descriptors a process has open.
function gateway_probe.count_descriptors(pid)
  local process = assert(io.popen("ls /proc/" .. pid .. "/fd"))
  local _, count = process:read("*a"):gsub("\n", "")
  process:close()
  return count
end

return gateway_probe
