-- From a request to the least access that serves it, by the method and the target as the client sent them.
-- https://distribution.github.io/distribution/spec/api/ lists the endpoints, .../spec/auth/scope/ says what a scope is.

local find, gsub, match, sub = string.find, string.gsub, string.match, string.sub
local find_regex = ngx.re.find

local scope = {}

-- A name has 255 bytes at most; a tag or digest less; upload sessions of some registries more.
local MAX_PATH_BYTES = 2048
local MAX_NAME_BYTES = 255
-- distribution/reference: path-component and name. The quantifiers give nothing back, so that a hostile name costs
-- no more than its length.
local COMPONENT = [[[a-z0-9]++(?:(?:[._]|__|-++)[a-z0-9]++)*+]]
local NAME = COMPONENT .. "(?:/" .. COMPONENT .. ")*"
local WHOLE_NAME = [[\A]] .. NAME .. [[\z]]
-- One segment of a path that is neither "." nor "..".
local SEGMENT = [[(?!\.{1,2}(?:/|\z))[A-Za-z0-9._~:=+@-]+]]
-- A field of a query that is called `from`, however it is escaped; its capture is the value.
local FROM = [[(?:\A|&)(?:f|%66)(?:r|%72)(?:o|%6[Ff])(?:m|%6[Dd])(?:=([^&]*+))?(?=&|\z)]]
-- What makes a request a mount: fields that are called `from` or `mount`.
local MOUNT = [[(?:\A|&)(?:(?:f|%66)(?:r|%72)(?:o|%6[Ff])(?:m|%6[Dd])]]
  .. [[|(?:m|%6[Dd])(?:o|%6[Ff])(?:u|%75)(?:n|%6[Ee])(?:t|%74))(?:=[^&]*+)?(?=&|\z)]]
-- A name with every byte escaped.
local MAX_VALUE_BYTES = 3 * MAX_NAME_BYTES

-- The first capture is the name. It takes what it can, so that the last keyword of the path counts.
local ENDPOINT = [[\A/v2/(]] .. NAME .. [[)/(?:manifests/]] .. SEGMENT
  .. [[|blobs/uploads(?:/(?:]] .. SEGMENT .. [[)?)?|blobs/]] .. SEGMENT
  .. [[|tags/list|referrers/]] .. SEGMENT .. [[)\z]]

local ACTIONS = { GET = "pull", HEAD = "pull", POST = "pull,push", PUT = "pull,push", PATCH = "pull,push" }

--- The methods that are served, for an Allow header.
scope.METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"

local function unescape(text)
  text = gsub(text, "+", " ")
  return (gsub(text, "%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function is_name(name)
  return #name <= MAX_NAME_BYTES and find_regex(name, WHOLE_NAME, "jo") ~= nil
end

--- The repository that a request's query mounts a blob from: its first `from`. "" where there is none, nil where it is
-- no name of a repository.
function scope.find_source(query)
  local first, last = find_regex(query, FROM, "jo")
  if not first then return "" end
  local value = match(sub(query, first, last), "=(.*)$") or ""
  if #value > MAX_VALUE_BYTES then return nil end
  value = unescape(value)
  return (value == "" or is_name(value)) and value or nil
end

--- A query without its fields `mount` and `from`: the registry then begins an upload.
function scope.drop_mount(query)
  return (gsub(ngx.re.gsub(query, MOUNT, "", "jo"), "^&", ""))
end

--- The scopes that a request needs for its path, divided by spaces; "" where none is needed; and its query, if it has
-- one that may name a repository to mount from.
-- target: the raw path and query ($request_uri). delete_actions: the actions that DELETE asks for.
-- Returns nil and "name_invalid" for what is no endpoint of the registry API or not written plainly, nil and
-- "method_not_allowed" for a method that no endpoint has.
function scope.compute(method, target, delete_actions)
  local path, query = target, nil
  local mark = find(target, "?", 1, true)
  if mark then path, query = sub(target, 1, mark - 1), sub(target, mark + 1) end
  if #path > MAX_PATH_BYTES then return nil, "name_invalid" end
  local actions = method == "DELETE" and delete_actions or ACTIONS[method]
  if not actions then return nil, "method_not_allowed" end
  if path == "/v2/" then return "" end
  if path == "/v2/_catalog" then return "registry:catalog:*" end
  if find(path, "%", 1, true) then path = gsub(path, "%%3[Aa]", ":") end
  local first, last = find_regex(path, ENDPOINT, "jo", nil, 1)
  if not first or last - first >= MAX_NAME_BYTES then return nil, "name_invalid" end
  return "repository:" .. sub(path, first, last) .. ":" .. actions, query
end

--- The scope for reading a repository.
function scope.for_pull(name)
  return "repository:" .. name .. ":pull"
end

--- Brings what a user's function gave (a list or a string) into one string in which the order does not matter.
-- Returns nil for a value that holds no scopes.
function scope.normalise(value)
  if type(value) == "string" then value = { value } end
  if type(value) ~= "table" then return nil end
  if next(value) ~= nil and value[1] == nil then return nil end
  local list, seen = {}, {}
  for _, item in ipairs(value) do
    if type(item) ~= "string" or find(item, "[^\32-\126]") then return nil end
    for one in item:gmatch "%S+" do
      if not seen[one] then
        seen[one] = true
        list[#list + 1] = one
      end
    end
  end
  table.sort(list)
  return table.concat(list, " ")
end

return scope
