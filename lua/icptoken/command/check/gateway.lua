-- A registry behind icptoken's gateway: whether the gateway answers there, and accepts the ID token.

local base64 = require "icptoken.cli.base64"
local line = require "icptoken.command.check.line"
local output = require "icptoken.cli.output"
local registry = require "icptoken.command.check.registry"

local gateway = {}

local function split_challenge(answer)
  local basic = false
  for _, value in ipairs(answer.headers["www-authenticate"] or {}) do
    if value:lower():find "^basic" then basic = true end
  end
  return basic, registry.find_challenge(answer)
end

local function find_host(url)
  return (url:match "^%a[%w+.-]*://([^/?#]+)" or ""):lower():gsub("^.*@", ""):gsub(":443$", "")
end

--- The line for a gateway's answer to GET /v2/ without a credential, if something is wrong with it; nil if not.
-- facts: `name`, `endpoint` (of the cluster).
function gateway.judge_challenge(answer, facts)
  if not answer then return line.fail("no_answer", "it does not answer in HTTP", "Is the port right?") end
  if answer.status == 200 then
    return line.fail("open", "it grants access without a credential",
      "Does access_by_lua_block call gateway:authorize() for /v2/?")
  elseif answer.status == 503 then
    return line.fail("not_started", "it answers with 503", "Is init_worker_by_lua_block { gateway:start() } there, and "
      .. "lua_code_cache on? Its error log says why.")
  elseif answer.status ~= 401 then
    return line.fail("status", ("it answers /v2/ with %d"):format(answer.status), "Is the gateway there? Look at its "
      .. "error log.")
  end
  local basic, challenge = split_challenge(answer)
  if basic then return nil end
  if not challenge then
    return line.fail("no_challenge", "it refuses the request (401), and does not say which credential it wants",
      "Is this icptoken's gateway?")
  end
  local realm = find_host(challenge.realm or "")
  if realm == facts.name:gsub(":443$", "") then return nil end
  return line.fail("challenge", ("it sends clients to %s for tokens, not to itself"):format(output.clean(realm)),
    "The registry's own challenge comes through: header_filter_by_lua_block { gateway:observe() } is missing for /v2/.")
end

--- The line for a gateway's answer to GET /v2/ with the ID token. user: `gateway_user` of the configuration.
function gateway.judge_access(answer, user)
  if not answer then return line.fail("no_answer", "there is no answer to a request with the ID token",
    "Try again.") end
  if answer.status == 200 then return line.ok(("it takes the ID token of the user '%s'"):format(user)) end
  if answer.status == 401 then
    return line.fail("refused", ("it refuses the ID token of the user '%s' (401)"):format(user),
      "Is token_user of the gateway the same as gateway_user of the configuration? Is its cluster this one, and its "
      .. "option service the registry's?")
  end
  return line.fail("status", ("it answers the ID token with %d"):format(answer.status), "Look at its error log.")
end

local function check_one(context, one)
  local user = one.entry.gateway_user
  local problem = gateway.judge_challenge(one.answer, { name = one.name, endpoint = context.endpoint })
  if problem then return problem end
  if not context:has_passed "token" then return line.ok "it wants a credential" end
  local value = base64.encode(user .. ":" .. context.id_token)
  context:add_secret(user .. ":" .. context.id_token)
  return gateway.judge_access(one.connection:get("/v2/", "Basic " .. value), user)
end

--- Checks each registry that is behind a gateway.
function gateway.run(context)
  local lines = {}
  for _, one in ipairs(context.registries) do
    if one.entry.gateway_user and one.connection then
      local judged = check_one(context, one)
      judged.registry = one.name
      lines[#lines + 1] = judged
    end
  end
  return lines
end

return gateway
