-- The scripts that Redis runs for the fleet (fleet.lua), each atomic and one round trip. Their four keys have one hash
-- tag, so they are in one slot of a cluster: the token, the lease, the refusal, the report. They use GET, SET, DEL,
-- PTTL and PEXPIRE only.

local redis = require "icptoken.gateway.redis"

local scripts = {}

--- The length of an owner, and of a token that is shared, in bytes: no gateway writes a longer one.
scripts.MAX_OWNER_BYTES, scripts.MAX_TOKEN_BYTES = 64, 32768

-- Longer texts were written by other code. They count as absent, and so are not sent to gateways again and again.
local LIMITS = {
  MAX_OWNER = scripts.MAX_OWNER_BYTES,
  MAX_TOKEN = scripts.MAX_TOKEN_BYTES + 256, -- the record of one
  MAX_FAILURE = 256,                         -- the record of a refusal or a report
}

-- Returns a script whose text has the limits by their names.
local function make_script(text)
  return redis.script((text:gsub("MAX_%u+", LIMITS)))
end

--- ARGV: owner, lease in ms, tag ("" for none), and the owner of the lease that was awaited ("" for none).
-- Returns { "token", value, PTTL } if there is a token with another tag; { "refusal", value, PTTL };
-- { "report", value, PTTL } if the awaited owner left one; { "lease" } if the owner has it now; or
-- { "held", its owner }.
-- A lease that does not expire, or expires later than any lease of a gateway, or has a longer owner, was written by
-- other code and is replaced.
scripts.begin = make_script [[
local token = redis.call("get", KEYS[1])
if token and #token <= MAX_TOKEN and (ARGV[3] == "" or string.sub(token, 1, #ARGV[3]) ~= ARGV[3]) then
  return { "token", token, redis.call("pttl", KEYS[1]) }
end
local refusal = redis.call("get", KEYS[3])
if refusal and #refusal <= MAX_FAILURE then return { "refusal", refusal, redis.call("pttl", KEYS[3]) } end
local holder = redis.call("get", KEYS[2])
if ARGV[4] ~= "" and holder ~= ARGV[4] then
  local report = redis.call("get", KEYS[4])
  if report and #report <= MAX_FAILURE and string.sub(report, 1, #ARGV[4] + 1) == ARGV[4] .. " " then
    return { "report", report, redis.call("pttl", KEYS[4]) }
  end
end
if holder and holder ~= ARGV[1] and #holder <= MAX_OWNER then
  local left = redis.call("pttl", KEYS[2])
  if left >= 0 and left <= tonumber(ARGV[2]) then return { "held", holder } end
end
redis.call("set", KEYS[2], ARGV[1], "px", ARGV[2])
return { "lease" }
]]

--- ARGV: owner, what to store ("token", "refusal", "report" or "nothing"), its value, its life in ms, and a tag ("" for
-- none). Stores it and deletes the lease, if it is the owner's. A token is stored only if it outlives the one that is
-- there, or if that one has the tag or is too long.
scripts.finish = make_script [[
local kind, value, life = ARGV[2], ARGV[3], ARGV[4]
if kind == "token" then
  local token = redis.call("get", KEYS[1])
  local has_tag = token and ARGV[5] ~= "" and string.sub(token, 1, #ARGV[5]) == ARGV[5]
  local is_replaced = has_tag or token and #token > MAX_TOKEN
  if is_replaced or redis.call("pttl", KEYS[1]) < tonumber(life) then
    redis.call("set", KEYS[1], value, "px", life)
  end
  redis.call("del", KEYS[3])
elseif kind == "refusal" then
  redis.call("set", KEYS[3], value, "px", life)
  redis.call("del", KEYS[1])
elseif kind == "report" then
  redis.call("set", KEYS[4], value, "px", life)
end
if redis.call("get", KEYS[2]) == ARGV[1] then redis.call("del", KEYS[2]) end
return 1
]]

--- KEYS: the token. ARGV: a tag. Deletes the token if it has this tag.
scripts.drop = redis.script [[
local token = redis.call("get", KEYS[1])
if token and string.sub(token, 1, 8) == ARGV[1] then return redis.call("del", KEYS[1]) end
return 0
]]

--- KEYS: the lease. ARGV: owner, lease in ms. Extends the lease if it is the owner's.
scripts.extend = redis.script [[
if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("pexpire", KEYS[1], ARGV[2]) end
return 0
]]

return scripts
