-- Runs scripts on the Redis that gateways share (or on Valkey), within time limits, and not at all while it fails
-- (breaker.lua). Whatever Redis does, callers see a reply or a failure that has been counted and logged.
--
-- What Redis sends is bounded (resp.lua) but not trusted: callers must check each reply.

local breaker = require "icptoken.gateway.breaker"
local clock = require "icptoken.gateway.clock"
local log = require "icptoken.gateway.log"
local redis_address = require "icptoken.gateway.redis_address"
local redis_connection = require "icptoken.gateway.redis_connection"
local resp = require "icptoken.gateway.resp"
local sentinel = require "icptoken.gateway.sentinel"
local text = require "icptoken.gateway.text"

local now = clock.now

local redis = {}
local server_methods = {}
local server_meta = { __index = server_methods }

--- The most calls in one pipeline. The memory for replies is bounded by this and by resp.lua.
redis.MAX_CALLS = 128

--- What a null in a reply is: ngx.null.
redis.null = resp.null

--- The longest text in a reply, in bytes. A longer one counts as a failure of Redis.
redis.MAX_TEXT_BYTES = resp.MAX_TEXT_BYTES

--- The results that are counted in the metric of exchanges.
redis.RESULTS = { "ok", unpack(redis_connection.KINDS) }

--- Returns a script for run. code: in Lua, for Redis.
function redis.script(code)
  return { text = code, sha = text.to_hex(ngx.sha1_bin(code)) }
end

-- The script with which the breaker tests Redis. It runs every command that other scripts use, because Redis may refuse
-- only writes, or the user may lack the right to one command.
local TRIAL = redis.script [[
redis.call("set", KEYS[1], "1", "px", 1000)
redis.call("pexpire", KEYS[1], 1000)
redis.call("pttl", KEYS[1])
redis.call("get", KEYS[1])
return redis.call("del", KEYS[1])
]]
local TRIAL_KEY = "icptoken:1:trial"

-- The commands for calls { script, key_count, ... }.
local function list_commands(calls)
  local commands = {}
  for i, call in ipairs(calls) do commands[i] = { "EVALSHA", call[1].sha, unpack(call, 2) } end
  return commands
end

local function is_unknown_script(reply)
  return not reply.is_success and reply.value:find("^NOSCRIPT") ~= nil
end

-- Runs those calls again whose script Redis did not know, with its text: once for each script, as it is known then.
-- Replaces their replies. Returns true, or nil and a failure.
local function repeat_unknown(connection, calls, replies, deadline)
  local commands, indexes, is_sent = {}, {}, {}
  for i, call in ipairs(calls) do
    if is_unknown_script(replies[i]) then
      local script = call[1]
      commands[#commands + 1] = is_sent[script.sha] and { "EVALSHA", script.sha, unpack(call, 2) }
        or { "EVAL", script.text, unpack(call, 2) }
      indexes[#indexes + 1], is_sent[script.sha] = i, true
    end
  end
  if #commands == 0 then return true end
  local repeated, failure = connection:exchange(commands, deadline)
  if not repeated then return nil, failure end
  for i, reply in ipairs(repeated) do replies[indexes[i]] = reply end
  return true
end

-- Returns a connection to Redis, or nil and a failure.
local function open(self, deadline)
  local settings, target = self.settings, self.target
  if self.sentinel then
    local address, failure = self.sentinel:find(deadline)
    if not address then return nil, failure end
    address = { host = address.host, port = address.port, database = settings.address.database }
    target = redis_connection.make_target(address, settings.address.is_tls, settings.address.user, settings.password,
      settings.server_name)
  end
  return redis_connection.open(target, math.min(deadline, now() + settings.connect_timeout))
end

-- Returns the failure for the first error among replies, or nil.
local function find_refusal(replies)
  for _, reply in ipairs(replies) do
    if not reply.is_success then return redis_connection.make_refusal(reply.value) end
  end
end

-- Runs calls in one pipeline. Returns a list of { is_success, value }, nil, and the first error of Redis, if there is
-- one; or nil and a failure.
local function perform(self, calls)
  local settings = self.settings
  local deadline = now() + settings.connect_timeout + settings.timeout
  local connection, failure = open(self, deadline)
  if not connection then return nil, failure end
  deadline = math.min(deadline, now() + settings.timeout)
  local replies, is_complete
  replies, failure = connection:exchange(list_commands(calls), deadline)
  if not replies then return nil, failure end
  is_complete, failure = repeat_unknown(connection, calls, replies, deadline)
  if not is_complete then return nil, failure end
  local refusal = find_refusal(replies)
  -- the reason may be the connection: its user, or its server, which may be a replica now
  if refusal then connection:close() else connection:keep() end
  return replies, nil, refusal
end

-- The same, counted.
local function perform_counted(self, calls)
  local replies, failure, refusal = perform(self, calls)
  local problem = failure or refusal
  self.metrics:add("redis", problem and problem.kind or "ok")
  if problem and self.sentinel then self.sentinel:forget(problem.kind ~= "refused" and problem.kind ~= "sentinel") end
  return replies, failure, refusal
end

-- One attempt of the breaker.
local function try(self)
  local replies, failure, refusal = perform_counted(self, { { TRIAL, 1, TRIAL_KEY } })
  return replies ~= nil and not refusal, failure or refusal
end

-- A failure of TLS is logged as emerg, because it lasts until an operator changes a certificate or an option.
local function log_change(self, failure, seconds)
  local line
  if failure then
    line = ("Redis at %s cannot be used: %s. This machine requests its tokens without the fleet until Redis works "
      .. "again; it tries again in %d s"):format(self.place, failure.text, seconds)
    log.write(failure.kind == "tls" and ngx.EMERG or ngx.ERR, line)
  else
    line = ("Redis at %s answers again: this machine shares tokens with the fleet again"):format(self.place)
    log.write(ngx.NOTICE, line)
  end
  if self.on_change then self.on_change(failure and "redis_failing" or "redis_answering", line) end
end

local function describe_place(settings)
  if not settings.master then return redis_address.describe(settings.address) end
  return ("Sentinel's master '%s'"):format(settings.master)
end

local function new_sentinel(settings)
  local targets = {}
  for i, address in ipairs(settings.sentinels) do
    targets[i] = redis_connection.make_target(address, address.is_tls, address.user, settings.sentinel_password,
      settings.server_name)
  end
  return sentinel.new(targets, settings.master, settings.connect_timeout)
end

--- Returns what runs scripts on a Redis. settings: see fleet_options.lua. store: see store.lua. metrics: see
-- metrics.lua, with the family "redis". on_change: nil, or a function that takes a kind of change (history.lua) and a
-- sentence.
function redis.new(settings, store, metrics, on_change)
  local self = setmetatable({ settings = settings, store = store, metrics = metrics, on_change = on_change,
    place = describe_place(settings) }, server_meta)
  if settings.sentinels then
    self.sentinel = new_sentinel(settings)
  else
    self.target = redis_connection.make_target(settings.address, settings.address.is_tls, settings.address.user,
      settings.password, settings.server_name)
  end
  self.breaker = breaker.new(store, settings.key, function() return try(self) end,
    function(failure, seconds) log_change(self, failure, seconds) end)
  return self
end

--- Returns where Redis is, for people: without user name and password.
function server_methods:get_place()
  return self.place
end

--- Returns whether Redis is to be used now. Does not wait.
function server_methods:is_available()
  return self.breaker:is_closed()
end

-- Returns a list of replies, each a reply or false, and the text of the first error; or nil and a text.
local function run_some(self, calls)
  local replies, failure, refusal = perform_counted(self, calls)
  if failure or refusal then
    self.breaker:note_failure(failure or refusal)
  else
    self.breaker:note_success()
  end
  if not replies then return nil, failure.text end
  local values = {}
  for i, reply in ipairs(replies) do values[i] = reply.is_success and reply.value end
  return values, refusal and refusal.text
end

-- Returns the calls from a position on that go into one pipeline.
local function cut_pipeline(calls, first)
  return { unpack(calls, first, math.min(#calls, first + redis.MAX_CALLS - 1)) }
end

--- Runs scripts in one pipeline (in several if they are very many). Yields, for at most connect_timeout and timeout.
-- calls: a list of { script, key_count, ... }, the keys and arguments of which are strings or numbers. Returns a list
-- with the reply of each: a string, a number, redis.null, a list of these, or false if Redis returned an error; or nil
-- and a text that says why there are none. Failures have been counted and logged.
function server_methods:run_all(calls)
  local all = {}
  for first = 1, #calls, redis.MAX_CALLS do
    if not self:is_available() then return nil, "Redis is not used, as it has failed" end
    local values, problem = run_some(self, cut_pipeline(calls, first))
    if not values then return nil, problem end
    for i, value in ipairs(values) do all[first + i - 1] = value end
  end
  return all
end

--- Runs scripts whose replies are not needed. Yields, and may send several pipelines; those that find Redis failing are
-- dropped. calls: as for run_all. Failures have been counted and logged.
function server_methods:send_all(calls)
  for first = 1, #calls, redis.MAX_CALLS do
    if self:is_available() then run_some(self, cut_pipeline(calls, first)) end
  end
end

--- Runs one script, as run_all does. Returns its reply, or nil and a text.
function server_methods:run(script, key_count, ...)
  if not self:is_available() then return nil, "Redis is not used, as it has failed" end
  local values, problem = run_some(self, { { script, key_count, ... } })
  if not values or values[1] == false then return nil, problem end
  return values[1]
end

-- The body of a timer.
local function check(is_premature, self)
  if is_premature or not self:is_available() then return end
  local ok, failure = try(self)
  if not ok then self.breaker:note_failure(failure, true) end
end

--- Logs which Redis this machine is to use, and tests it, so that a wrong setting is logged at the start. For
-- init_worker_by_lua, in one worker.
function server_methods:start()
  local address = self.settings.address
  log.write(ngx.NOTICE, ("this machine will share tokens with the fleet through Redis at %s, database %d, %s, %s")
    :format(self.place, address.database, address.is_tls and "with verified TLS" or "without TLS",
      address.user and ("as user '%s'"):format(address.user) or "as the default user"))
  ngx.timer.at(0, check, self)
end

return redis
