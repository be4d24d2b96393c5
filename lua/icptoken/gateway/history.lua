-- The recent changes of state of a gateway, for its status page: a ring of records in the dict, which all workers write
-- and which outlives a reload. It needs no lock: two workers that record a change at the same moment get different
-- positions.

local clock = require "icptoken.gateway.clock"

local history = {}

-- When there are more, the oldest is overwritten.
local MAX_CHANGES = 50
-- Longer descriptions are cut, as they may quote an answer of the cluster.
local MAX_BYTES = 400

-- The kinds of changes, and the level of each. A change for the better is "ok".
local LEVELS = {
  started = "ok", reloaded = "ok", worker_replaced = "warning",
  endpoint_failing = "error", endpoint_answering = "ok", login_failing = "error", login_answering = "ok",
  renewals_paused = "warning", renewals_resumed = "ok",
  redis_failing = "warning", redis_answering = "ok",
  threads_short = "warning", queue_full = "warning", tokens_rejected = "error", tokens_evicted = "warning",
}

-- Two gateways with the same target share their history, and record a start once.
local START_SECONDS = 1
local STARTED = "nginx has started with %d workers"
local RELOADED = "nginx has loaded its configuration again and started %d new workers"
local REPLACED = "worker %d (process %d) exited unexpectedly and was replaced by process %d"

-- "h" and the key are the name of a counter; with a position behind it, that of a record.
local function name_of(target_key, position)
  return "h" .. target_key .. (position and ":" .. position % MAX_CHANGES or "")
end

--- Records a change. target_key: of the gateway's target. kind: a key of LEVELS. description: a sentence without a
-- credential or a token.
function history.add(dict, target_key, kind, description)
  assert(LEVELS[kind], kind)
  local position = dict:incr(name_of(target_key), 1, 0)
  if not position then
    dict:delete(name_of(target_key)) -- other code has written there
    return
  end
  dict:set(name_of(target_key, position), ("%d %.3f %s %s"):format(position, clock.wall(), kind,
    description:sub(1, MAX_BYTES)))
end

-- Returns the change of a position; or nil if the dict has none there, or something else.
local function read(dict, target_key, position)
  local value = dict:get(name_of(target_key, position))
  if type(value) ~= "string" then return nil end
  local number, time, kind, description = value:match "^(%d+) (%d+%.%d+) ([%l_]+) (.*)$"
  if tonumber(number) ~= position or not LEVELS[kind] then return nil end
  return { time = tonumber(time), kind = kind, level = LEVELS[kind], text = description }
end

--- Records that nginx has started or loaded its configuration again; or that this worker replaces one that crashed,
-- whose pid is pid_before. self: a gateway.
function history.record_start(self, pid_before)
  local store, target_key, worker = self.store, self.target.key, ngx.worker.id()
  if pid_before then
    return store:add_change(target_key, "worker_replaced", REPLACED:format(worker, pid_before, ngx.worker.pid()))
  end
  if worker ~= 0 then return end
  local is_reload = self.started_before ~= nil
  if not is_reload then store:note_start(clock.wall()) end
  store:add_first_change(target_key, is_reload and "reloaded" or "started",
    (is_reload and RELOADED or STARTED):format(ngx.worker.count()), START_SECONDS)
end

--- Returns the changes that are remembered, the latest first, each { time (seconds since 1970), kind, level ("ok",
-- "warning" or "error"), text }.
function history.list(dict, target_key)
  local changes, last = {}, dict:get(name_of(target_key))
  if type(last) ~= "number" then return changes end
  for position = last, math.max(1, last - MAX_CHANGES + 1), -1 do
    changes[#changes + 1] = read(dict, target_key, position)
  end
  return changes
end

return history
