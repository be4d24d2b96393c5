-- A registry: what it asks clients for, and whether it accepts the token.

local line = require "icptoken.command.check.line"
local network = require "icptoken.cli.network"
local output = require "icptoken.cli.output"
local transport = require "icptoken.command.check.transport"

local registry = {}

--- The answer's Bearer challenge: { realm =, service =, scope =, error = }, or nil.
function registry.find_challenge(answer)
  local challenge = network.load_module().challenge
  for _, value in ipairs(answer.headers["www-authenticate"] or {}) do
    local found = challenge(value)
    if found then return found end
  end
end

-- "host:port" of a URL, and its path.
local function split_url(url)
  local scheme, authority, path = url:match "^(%a[%w+.-]*)://([^/?#]+)([^?#]*)"
  if not scheme then return nil end
  scheme, authority = scheme:lower(), authority:gsub("^.*@", ""):lower()
  if not authority:find ":%d+$" then authority = authority .. (scheme == "http" and ":80" or ":443") end
  return authority, path ~= "" and path or "/", scheme
end

--- Whether a host is an address of a private network, of this machine or of a link.
function registry.is_private(host)
  local a, b = host:match "^(%d+)%.(%d+)%.%d+%.%d+$"
  a, b = tonumber(a), tonumber(b)
  if a then
    return a == 10 or a == 127 or a == 172 and b >= 16 and b <= 31 or a == 192 and b == 168 or a == 169 and b == 254
  end
  host = host:lower()
  return host:find "^%[f[cd]%x%x:" ~= nil or host:find "^%[fe[89ab]%x:" ~= nil or host == "[::1]"
end

-- The last two labels of a name, by which clients of 2026 decide to whom it belongs.
local function find_domain(host)
  if host:find "^%d+%.%d+%.%d+%.%d+$" or host:find "^%[" then return host end
  return host:match "([^.]+%.[^.]+)%.?$" or host
end

local function judge_realm(challenge, facts)
  local realm = output.clean(challenge.realm or "")
  local authority, path, scheme = split_url(realm)
  if not authority then
    return line.fail("realm", ("its challenge names no URL for tokens (realm '%s')"):format(realm),
      "Correct auth.token.realm of the registry.")
  end
  local host = authority:match "^(.*):%d+$"
  local own = facts.name:find ":%d+$" and facts.name or facts.name .. ":443"
  if registry.is_private(host) and authority ~= own then
    return line.fail("private_realm", ("it sends clients to a private address for tokens, %s"):format(authority),
      "crane, ko, kaniko and cosign refuse that. Use a name as auth.token.realm of the registry, or a gateway with "
      .. 'challenge = "basic".')
  end
  local endpoint = facts.endpoint
  if authority ~= ("%s:%d"):format(endpoint.host:lower(), endpoint.port) or path ~= endpoint.path then
    return line.fail("realm",
      ("it sends clients to %s%s for tokens, and this cluster's are at %s:%d%s"):format(authority,
      path, endpoint.host, endpoint.port, endpoint.path),
      "Is this the cluster's registry? Choose the other cluster (--cluster, --host), or correct auth.token.realm.")
  end
  if scheme ~= "https" and endpoint.scheme == "https" then
    return line.fail("realm", "it sends clients to its realm without TLS", "Correct auth.token.realm of the registry.")
  end
end

local function judge_challenge(challenge, facts)
  local problem = judge_realm(challenge, facts)
  if problem then return problem end
  local service = output.clean(challenge.service or "")
  if service ~= facts.service then
    return line.fail("service", ("its service is '%s', and tokens are requested for '%s'"):format(service,
      facts.service),
      ('Set "service": "%s" for the cluster in the configuration, or correct auth.token.service.'):format(service))
  end
  local realm_host = facts.endpoint.host:lower()
  local own_host = transport.split(facts.name)
  if find_domain(realm_host) ~= find_domain(own_host) then
    return line.warn("realm_domain", ("it asks for tokens of this cluster, of another domain (%s)"):format(realm_host),
      "crane, ko, kaniko and cosign of 2026 refuse that. docker, podman and skopeo do not.")
  end
  return line.ok(("it asks for tokens of this cluster, for '%s'"):format(service))
end

--- The line for a registry's answer to GET /v2/ without a credential. answer: as http.parse returns it, or nil. facts:
-- `name` (of the registry), `endpoint` (of the cluster), `service`, `challenge` (its Bearer challenge, or nil).
function registry.judge(answer, facts)
  if not answer then return line.fail("no_answer", "it does not answer in HTTP", "Is the port right?") end
  local kind = (answer.headers["content-type"] or {})[1] or ""
  local schemes = answer.headers["www-authenticate"]
  if answer.status == 401 and facts.challenge then return judge_challenge(facts.challenge, facts) end
  if answer.status == 401 and schemes and schemes[1]:lower():find "^basic" then
    return line.fail("basic", "it wants user name and password, as a gateway or another registry does",
      'If it is icptoken\'s gateway, say so: icptoken configure REGISTRY --gateway-user USER.')
  elseif answer.status == 401 then
    return line.fail("no_challenge", "it refuses the request (401), and does not say where to get a token",
      "Is this a registry?")
  elseif answer.status == 200 then
    return line.warn("open", "it grants access without a token", "Is this the cluster's registry?")
  elseif kind:find "^text/html" or answer.status == 404 then
    return line.fail("not_a_registry", ("the server is not a registry (it answers %d for /v2/)"):format(answer.status),
      "Is the name right, with its port (ICP's registry has 8500)?")
  end
  return line.fail("status", ("it answers with %d"):format(answer.status), "Look at its log.")
end

--- The line for the answer to a request with a token. challenge: the answer's, or nil. facts: `service`, `repository`
-- (or nil).
function registry.judge_access(answer, challenge, facts)
  if not answer then return line.fail("no_answer", "there is no answer to a request with the token", "Try again.") end
  local what = facts.repository or "/v2/"
  if answer.status == 200 or answer.status == 404 and facts.repository then
    return line.ok(("it takes the token%s"):format(facts.repository and ", for " .. what or ""))
  end
  local reason = challenge and challenge.error
  if reason == "insufficient_scope" or answer.status == 403 then
    return line.fail("access", ("it takes the token, but not for %s"):format(what),
      "Is the repository's name right, and may this user pull from it?")
  elseif answer.status == 401 then
    return line.fail("refused", ("it refuses the token (401%s)"):format(reason and ", " .. output.clean(reason) or ""),
      "Compare its rootcertbundle, issuer and service with those of the token (icptoken verify --cert), and its clock.")
  end
  return line.fail("status", ("it answers the token with %d"):format(answer.status), "Look at its log.")
end

-- Says of which registry the line is.
local function name_it(one, judged)
  judged.registry = one.name
  return judged
end

local function check_one(context, one)
  local connection, problem = transport.open(context, one.name)
  local lines = {}
  if problem then
    if not one.is_named and not connection then
      return { line.warn("unnamed",
        ("no registry is named, and there is none at %s, where ICP has its own"):format(one.name),
        "Name yours: icptoken check REGISTRY") }
    end
    lines[1] = name_it(one, problem)
  end
  if not connection then return lines end
  one.connection, one.answer = connection, connection:get "/v2/"
  if one.entry.gateway_user then return #lines > 0 and lines or { name_it(one, line.ok "it can be reached") } end
  local judged = registry.judge(one.answer, { name = one.name, endpoint = context.endpoint, service = context.service,
    challenge = one.answer and registry.find_challenge(one.answer) })
  one.is_usable = judged.state ~= "fail" and judged.cause ~= "open"
  lines[#lines + 1] = name_it(one, judged)
  return lines
end

--- Checks each registry.
function registry.run(context)
  local lines = {}
  for _, one in ipairs(context.registries) do
    for _, judged in ipairs(check_one(context, one)) do lines[#lines + 1] = judged end
  end
  return lines
end

--- Tries the token at each registry that accepts such tokens.
function registry.try_token(context)
  local lines = {}
  local repository = context.repository
  local target = repository and "/v2/" .. repository .. "/tags/list" or "/v2/"
  for _, one in ipairs(context.registries) do
    if one.is_usable then
      local answer = one.connection:get(target, "Bearer " .. context.trial.token.token)
      local judged = registry.judge_access(answer, answer and registry.find_challenge(answer),
        { service = context.service, repository = repository })
      lines[#lines + 1] = name_it(one, judged)
    end
  end
  return lines
end

return registry
