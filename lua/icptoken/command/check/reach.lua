-- Whether the token endpoint can be reached: its name, its addresses, its port; through a proxy, those of the proxy.

local line = require "icptoken.command.check.line"
local probe = require "icptoken.command.check.probe"
local proxies = require "icptoken.command.check.proxies"

local reach = {}

local MAX_ADDRESSES = 4

local function list_some(words)
  local shown = { (table.unpack or unpack)(words, 1, MAX_ADDRESSES) } -- luacheck: ignore 143
  return table.concat(shown, ", ") .. (#words > MAX_ADDRESSES and ", …" or "")
end

local function to_list(value)
  if type(value) == "table" then return value end
  local list = {}
  for address in (value or ""):gmatch "[^,%s]+" do list[#list + 1] = address end
  return list
end

--- Finds the addresses of a host. Returns { host =, addresses =, source = (resolve, literal, hosts or resolver),
-- reason = (if there are none), hosts = (what /etc/hosts has) }.
function reach.find_addresses(host, port, resolve, seconds)
  local fixed = to_list(resolve and resolve[("%s:%d"):format(host, port)])
  if #fixed > 0 then return { host = host, addresses = fixed, source = "resolve" } end
  if probe.is_address(host) then
    return { host = host, addresses = { (host:gsub("[%[%]]", "")) }, source = "literal" }
  end
  local hosts = probe.read_hosts(host)
  local addresses, reason = probe.resolve(host, seconds)
  return { host = host, addresses = addresses or {}, source = #hosts > 0 and "hosts" or "resolver", reason = reason,
    hosts = hosts }
end

local SOURCES = { resolve = " (by the option resolve)", literal = "", hosts = " (by /etc/hosts)", resolver = "" }

--- The line for what find_addresses found. proxy: the name of the proxy whose host this is, or nil.
function reach.judge_lookup(found, proxy)
  if #found.addresses > 0 then
    local text = found.source == "literal" and found.host .. " is an address"
      or ("%s is %s%s"):format(found.host, list_some(found.addresses), SOURCES[found.source])
    return line.ok(proxy and text .. ", the proxy" or text)
  end
  local message = found.reason == "timeout" and ("no answer about the name %s in time"):format(found.host)
    or ("no address is known for the name %s"):format(found.host)
  if proxy then
    return line.fail(found.reason, message .. ", the proxy", ("Check the proxy's name in %s."):format(proxy))
  end
  if found.reason == "timeout" then
    return line.fail("timeout", message, "Check the name servers in /etc/resolv.conf, or add the name to /etc/hosts.")
  end
  return line.fail("not_found", message,
    ("Add it to DNS or to /etc/hosts (ADDRESS %s), or pass --resolve %s:PORT:ADDRESS."):format(found.host, found.host))
end

--- Tries the addresses. Returns the first that works, or nil, and a list of { address =, reason = } of those before it.
function reach.find_working(addresses, port, seconds)
  local failed = {}
  for i = 1, math.min(#addresses, MAX_ADDRESSES) do
    local reason = probe.connect(addresses[i], port, seconds)
    if not reason then return addresses[i], failed end
    failed[#failed + 1] = { address = addresses[i], reason = reason }
  end
  return nil, failed
end

local REASONS = {
  refused = { "refuses connections on port %d", "Is the port right (ICP's is 8443), and is the service up?" },
  timeout = { "does not answer on port %d", "A firewall may be in between, or the address is not the cluster's." },
  unreachable = { "cannot be reached, so neither can its port %d", "Check the network, the VPN and the routes." },
  error = { "cannot be connected to on port %d", "Is a policy of this machine in the way?" },
}

--- The line for what find_working found. advice: for a port that is refused, in place of the general one.
function reach.judge_connection(address, failed, port, advice)
  local words = {}
  for i, one in ipairs(failed) do words[i] = one.address .. " " .. REASONS[one.reason][1]:format(port) end
  local text = table.concat(words, "; ")
  if not address then
    local reason = failed[1].reason
    return line.fail(reason, text, reason == "refused" and advice or REASONS[reason][2])
  end
  local is_slow = false
  for _, one in ipairs(failed) do is_slow = is_slow or one.reason == "timeout" end
  if is_slow then
    return line.warn("some_addresses", ("%s answers on port %d, but %s"):format(address, port, text),
      "Programs that try the other address first are slow, or fail: correct DNS or /etc/hosts.")
  end
  -- if a connection is refused at once, programs try the next address without a delay
  if #failed > 0 then return line.ok(("%s answers on port %d (%s)"):format(address, port, text)) end
  return line.ok(("%s answers on port %d"):format(address, port))
end

--- Looks up the endpoint's name, or the proxy's.
function reach.check_lookup(context)
  local endpoint, options = context.endpoint, context.chosen.options
  local proxy, problem = proxies.find(endpoint, options)
  if problem then return { line.fail("proxy", problem, "Correct the option proxy, or the environment.") } end
  context.proxy = proxy
  local target = proxy or endpoint
  context.found = reach.find_addresses(target.host, target.port, not proxy and options.resolve, context.seconds)
  return { reach.judge_lookup(context.found, proxy and proxy.source) }
end

--- Connects.
function reach.check_connection(context)
  local proxy, endpoint = context.proxy, context.endpoint
  local port = (proxy or endpoint).port
  local address, failed = reach.find_working(context.found.addresses, port, context.seconds / 2)
  local judged = reach.judge_connection(address, failed, port,
    proxy and ("Is the proxy in %s the right one?"):format(proxy.source))
  if address then
    local options = context.chosen.options
    local has_key = options.cert and not options.key_password
    context.peer = { host = endpoint.host, address = proxy and endpoint.host or address, port = endpoint.port,
      proxy = proxy and ("%s:%d"):format(address:find ":" and "[" .. address .. "]" or address, port),
      cert = has_key and options.cert, key = has_key and options.key }
  end
  return { judged }
end

return reach
