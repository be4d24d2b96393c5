-- Asks Redis's Sentinels where the master is, and remembers the answer in this worker.

local clock = require "icptoken.gateway.clock"
local redis_address = require "icptoken.gateway.redis_address"
local redis_connection = require "icptoken.gateway.redis_connection"

local now = clock.now

local sentinel = {}
local sentinel_methods = {}
local sentinel_meta = { __index = sentinel_methods }

local MASTER_SECONDS = 10
-- For this long after a failure the same master is not tried again: Sentinel needs some time to notice that it has
-- failed.
local FAILED_SECONDS = 1

--- Returns the Sentinels of a master. targets: of the Sentinels (redis_connection.make_target). master: its name.
-- connect_timeout: the longest time for one Sentinel, in seconds.
function sentinel.new(targets, master, connect_timeout)
  return setmetatable({ targets = { unpack(targets) }, master = master, connect_timeout = connect_timeout,
    address = nil, until_time = 0, failed = nil, failed_until = 0 }, sentinel_meta)
end

local function make_failure(target, text)
  return { kind = "sentinel", text = ("Sentinel at %s: %s"):format(redis_address.describe(target.address), text) }
end

-- Returns the address in a Sentinel's reply, or nil and what is wrong with it.
local function read_reply(self, reply)
  if not reply.is_success then return nil, redis_connection.make_refusal(reply.value).text end
  local pair = type(reply.value) == "table" and reply.value or {}
  local host, port = tostring(pair[1]), redis_address.read_port(tostring(pair[2]))
  if redis_address.is_host(host) and port then return { host = host, port = port } end
  return nil, ("it does not know a master named '%s'"):format(self.master)
end

local function ask(self, target, deadline)
  local connection, failure = redis_connection.open(target, deadline)
  if not connection then return nil, make_failure(target, failure.text) end
  local replies
  replies, failure = connection:exchange({ { "SENTINEL", "get-master-addr-by-name", self.master } }, deadline)
  if not replies then return nil, make_failure(target, failure.text) end
  connection:keep()
  local address, problem = read_reply(self, replies[1])
  if not address then return nil, make_failure(target, problem) end
  return address
end

-- Asks one after another, and from then on the one first that answered.
local function ask_all(self, deadline)
  local failure
  for i, target in ipairs(self.targets) do
    local address, problem = ask(self, target, math.min(deadline, now() + self.connect_timeout))
    if address then
      table.insert(self.targets, 1, table.remove(self.targets, i))
      return address
    end
    failure = failure or problem
    if now() >= deadline then break end
  end
  return nil, failure
end

--- Returns the address of the master, { host, port }, or nil and a failure. Yields. deadline: on clock.now().
function sentinel_methods:find(deadline)
  if self.address and now() < self.until_time then return self.address end
  local address, failure = ask_all(self, deadline)
  if not address then return nil, failure end
  if redis_address.describe(address) == self.failed and now() < self.failed_until then
    return nil, { kind = "sentinel", text = ("Sentinel still names %s as the master"):format(self.failed) }
  end
  self.address, self.until_time = address, now() + MASTER_SECONDS
  return address
end

--- Forgets the master, as it failed, so that the Sentinels are asked again. is_away: it could not be reached.
function sentinel_methods:forget(is_away)
  if is_away and self.address then
    self.failed, self.failed_until = redis_address.describe(self.address), now() + FAILED_SECONDS
  end
  self.address = nil
end

return sentinel
