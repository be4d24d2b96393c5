-- Which format of the metrics a request accepts (RFC 9110 section 12.5.1).

local accept = require "icptoken.gateway.accept"

local scrape = {}

-- The versions of OpenMetrics that the text of ours is.
local VERSIONS = { ["1.0.0"] = true, ["0.0.1"] = true }

local function match_openmetrics(name, parameters)
  if name ~= "application/openmetrics-text" then return 0 end
  local version = parameters:match ';%s*version="?([^;"%s]+)'
  return (not version or VERSIONS[version]) and 1 or 0
end

local function match_text(name, parameters)
  local version = parameters:match ';%s*version="?([^;"%s]+)'
  if name == "text/plain" then return (not version or version == "0.0.4") and 3 or 0 end
  return name == "text/*" and 2 or name == "*/*" and 1 or 0
end

--- Returns "openmetrics" if an Accept value prefers it, or weighs it equally; otherwise, and without one, "text".
function scrape.choose_format(header)
  if not header then return "text" end
  local weight = accept.find_weight(header, match_openmetrics)
  return weight > 0 and weight >= accept.find_weight(header, match_text) and "openmetrics" or "text"
end

return scrape
