-- From a request to the least access that serves it, by the method and the target as the client sent them.
-- https://distribution.github.io/distribution/spec/api/ lists the endpoints, .../spec/auth/scope/ says what a scope is.

local find, gsub, match, sub = string.find, string.gsub, string.match, string.sub
local find_regex = ngx.re.find

local scope = {}

-- A name has 255 bytes at most; a tag or digest less; upload sessions of some registries more.
local MAX_PATH_BYTES = 2048
local MAX_NAME_BYTES = 255
-- "from", with every letter escaped.
local MAX_FROM_BYTES = 12

-- distribution/reference: path-component and name. The quantifiers give nothing back, so that a hostile name costs
-- no more than its length.
local COMPONENT = [[[a-z0-9]++(?:(?:[._]|__|-++)[a-z0-9]++)*+]]
local NAME = COMPONENT .. "(?:/" .. COMPONENT .. ")*"
local WHOLE_NAME = [[\A]] .. NAME .. [[\z]]
-- One segment of a path that is neither "." nor "..".
local SEGMENT = [[(?!\.{1,2}(?:/|\z))[A-Za-z0-9._~:=+@-]+]]
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

-- The repository of the first `from=` of a query: "" when there is none, nil when it is no name.
local function read_source(query)
  local first = 1
  while first <= #query do
    local last = (find(query, "&", first, true) or #query + 1) - 1
    local field = sub(query, first, last)
    if find(field, "from", 1, true) == 1 or find(field, "%", 1, true) then
      local name, value = match(field, "^([^=]*)=?(.*)$")
      if #name <= MAX_FROM_BYTES and unescape(name) == "from" then
        value = unescape(value)
        return (value == "" or is_name(value)) and value or nil
      end
    end
    first = last + 2
  end
  return ""
end

-- The repository that a blob is mounted from is read, too.
local function add_source(access, query)
  local source = read_source(query)
  if not source then return nil, "name_invalid" end
  if source == "" or find(access, "repository:" .. source .. ":pull", 1, true) then return access end
  return access .. " repository:" .. source .. ":pull"
end

--- The scopes that a request needs, divided by spaces; "" where none is needed.
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
  local access = "repository:" .. sub(path, first, last) .. ":" .. actions
  if query then return add_source(access, query) end
  return access
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
