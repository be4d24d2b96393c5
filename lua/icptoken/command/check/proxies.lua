-- Which proxy a request takes, as libcurl decides it.

local system = require "icptoken.cli.system"

local proxies = {}

local DEFAULT_PORT = 1080

local function read_either(name)
  for _, variable in ipairs { name, name:upper() } do
    local value = os.getenv(variable)
    if value then return value, "$" .. variable end
  end
end

-- The words of a list of hosts without a proxy match whole names, and the domains above them.
local function is_exempt(host, list)
  host = host:lower()
  for word in (list or ""):lower():gmatch "[^,%s]+" do
    if word == "*" then return true end
    word = word:gsub("^%.", "")
    if host == word or host:sub(-#word - 1) == "." .. word then return true end
  end
  return false
end

--- The proxy for an endpoint: { host =, port =, source = (where it is named) }; nil for none; nil and a message if its
-- URL is malformed. options: `proxy`, `no_proxy`.
function proxies.find(endpoint, options)
  local value, source = options.proxy, "the option proxy"
  if not value then
    -- a web server passes a client's header to its programs as HTTP_PROXY, so libcurl ignores that name
    if endpoint.scheme == "http" then
      value, source = system.environment "http_proxy", "$http_proxy"
    else
      value, source = read_either "https_proxy"
    end
    if not value then value, source = read_either "all_proxy" end
  end
  if not value or value == "" then return nil end
  if is_exempt(endpoint.host, options.no_proxy or read_either "no_proxy") then return nil end
  local authority = value:gsub("^%a[%w+.-]*://", ""):gsub("/.*$", ""):gsub("^.*@", "")
  local host, port = authority:match "^%[([%x:.]+)%]:?(%d*)$"
  if not host then host, port = authority:match "^([^:]+):?(%d*)$" end
  if not host then return nil, ("the proxy in %s is not one of the form http://HOST:PORT"):format(source) end
  return { host = host, port = tonumber(port) or DEFAULT_PORT, source = source }
end

return proxies
