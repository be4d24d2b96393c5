-- Names of registries and repositories as docker writes them.

local failure = require "icptoken.cli.failure"
local output = require "icptoken.cli.output"

local reference = {}

local MAX_NAME = 255

--- The registry of a server URL as docker's clients write one: "https://Registry.example.com/v1/" is
-- "registry.example.com". White space around it, a scheme and a path do not matter.
function reference.normalise_server(text)
  text = text:match "^%s*(.-)%s*$"
  text = text:gsub("^%a[%w+.-]*://", ""):gsub("/.*$", "")
  return text:lower()
end

--- The entry of a table of registries for a server URL, and its name there; nil if there is none. A registry without a
-- port has port 443.
function reference.find_registry(registries, server)
  local name = reference.normalise_server(server)
  local candidates = { [name] = true, [name:gsub(":443$", "")] = true }
  if not name:find ":%d+$" then candidates[name .. ":443"] = true end
  for key, entry in pairs(registries) do
    if reference.normalise_server(key) == name then return entry, key end
  end
  for key, entry in pairs(registries) do
    if candidates[reference.normalise_server(key)] then return entry, key end
  end
end

-- docker's rule: the first part is a registry if it contains a dot or a colon, or is localhost.
local function split_registry(text)
  local first, rest = text:match "^([^/]+)/(.+)$"
  if first and (first:find "[.:]" or first == "localhost") then return first, rest end
  return nil, text
end

-- The grammar of the distribution project: parts of lower-case letters and digits, separated by ".", "_", "__" or "-"s.
local function is_repository(name)
  if #name > MAX_NAME then return false end
  for part in (name .. "/"):gmatch "([^/]*)/" do
    if not part:find "^[a-z0-9][a-z0-9._-]*$" or not part:find "[a-z0-9]$" then return false end
    if part:find "%.[._-]" or part:find "_[.-]" or part:find "-[._]" or part:find "___" then return false end
  end
  return true
end

--- Splits an image reference into registry (nil for none) and repository; a tag and a digest are left out. Fails where
-- it is none.
function reference.parse(text)
  local name = text:gsub("@[%w+._-]+:%x+$", "")
  local registry, rest = split_registry(name)
  local repository = rest:gsub(":[%w_][%w._-]*$", "")
  if is_repository(repository) then return registry and registry:lower(), repository end
  failure.usage("usage",
    "'%s' is not the name of a repository, such as default/app or mycluster.icp:8500/default/app:1.0",
    output.clean(text))
end

return reference
