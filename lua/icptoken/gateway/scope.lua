-- Computes the least access that a request needs, from its method and its target as the client sent them.
-- https://distribution.github.io/distribution/spec/api/ lists the endpoints, .../spec/auth/scope/ defines scopes.

local find, gsub, match, sub = string.find, string.gsub, string.match, string.sub
local find_regex = ngx.re.find

local scope = {}

-- A name has at most 255 bytes and a tag or digest fewer; upload sessions of some registries have more.
local MAX_PATH_BYTES = 2048
local MAX_NAME_BYTES = 255
-- distribution/reference: path-component and name. The quantifiers are possessive, so that a hostile name is matched in
-- linear time.
local COMPONENT = [[[a-z0-9]++(?:(?:[._]|__|-++)[a-z0-9]++)*+]]
local NAME = COMPONENT .. "(?:/" .. COMPONENT .. ")*"
local WHOLE_NAME = [[\A]] .. NAME .. [[\z]]
-- A segment of a path, but neither "." nor "..".
local SEGMENT = [[(?!\.{1,2}(?:/|\z))[A-Za-z0-9._~:=+@-]+]]
-- A query field called `from`, in any percent-encoding; the capture is its value.
local FROM = [[(?:\A|&)(?:f|%66)(?:r|%72)(?:o|%6[Ff])(?:m|%6[Dd])(?:=([^&]*+))?(?=&|\z)]]
-- Query fields called `from` or `mount`, which make a request a mount.
local MOUNT = [[(?:\A|&)(?:(?:f|%66)(?:r|%72)(?:o|%6[Ff])(?:m|%6[Dd])]]
  .. [[|(?:m|%6[Dd])(?:o|%6[Ff])(?:u|%75)(?:n|%6[Ee])(?:t|%74))(?:=[^&]*+)?(?=&|\z)]]
-- A name with every byte percent-encoded.
local MAX_VALUE_BYTES = 3 * MAX_NAME_BYTES

-- The first capture is the name. It is greedy, so the last keyword of the path counts.
local ENDPOINT = [[\A/v2/(]] .. NAME .. [[)/(?:manifests/]] .. SEGMENT
  .. [[|blobs/uploads(?:/(?:]] .. SEGMENT .. [[)?)?|blobs/]] .. SEGMENT
  .. [[|tags/list|referrers/]] .. SEGMENT .. [[)\z]]

local ACTIONS = { GET = "pull", HEAD = "pull", POST = "pull,push", PUT = "pull,push", PATCH = "pull,push" }

--- The methods of the registry API, for an Allow header.
scope.METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"

-- The scopes of recent targets of at most MAX_RECENT_BYTES without a query, by the actions and the target, so that the
-- expression need not be matched for each request for the same object. With MAX_RECENT targets it starts again.
local MAX_RECENT, MAX_RECENT_BYTES = 512, 256
local recent, recent_count = {}, 0

local function unescape(text)
  text = gsub(text, "+", " ")
  return (gsub(text, "%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function is_name(name)
  return #name <= MAX_NAME_BYTES and find_regex(name, WHOLE_NAME, "jo") ~= nil
end

--- Returns the repository from which a request's query mounts a blob: its first `from`; "" if it has none, and nil if
-- that is not a valid repository name.
function scope.find_source(query)
  local first, last = find_regex(query, FROM, "jo")
  if not first then return "" end
  local value = match(sub(query, first, last), "=(.*)$") or ""
  if #value > MAX_VALUE_BYTES then return nil end
  value = unescape(value)
  return (value == "" or is_name(value)) and value or nil
end

--- Returns a query without its fields `mount` and `from`, for which the registry starts an upload.
function scope.drop_mount(query)
  return (gsub(ngx.re.gsub(query, MOUNT, "", "jo"), "^&", ""))
end

local function remember(actions, target, scopes)
  if #target > MAX_RECENT_BYTES then return end
  if recent_count == MAX_RECENT then recent, recent_count = {}, 0 end
  recent[actions] = recent[actions] or {}
  recent[actions][target], recent_count = scopes, recent_count + 1
end

-- Does what scope.compute does for a target that is not among the recent ones. actions: nil if no endpoint has the
-- method.
local function match_target(target, actions)
  local path, query = target, nil
  local mark = find(target, "?", 1, true)
  if mark then path, query = sub(target, 1, mark - 1), sub(target, mark + 1) end
  if #path > MAX_PATH_BYTES then return nil, "name_invalid" end
  if not actions then return nil, "method_not_allowed" end
  if path == "/v2/" then return "" end
  if path == "/v2/_catalog" then return "registry:catalog:*" end
  if find(path, "%", 1, true) then path = gsub(path, "%%3[Aa]", ":") end
  local first, last = find_regex(path, ENDPOINT, "jo", nil, 1)
  if not first or last - first >= MAX_NAME_BYTES then return nil, "name_invalid" end
  local scopes = "repository:" .. sub(path, first, last) .. ":" .. actions
  if not query then remember(actions, target, scopes) end
  return scopes, query
end

--- Returns the scopes that a request needs for its path, separated by spaces ("" if it needs none), and its query, if
-- that may name a repository to mount from. target: the raw path and query ($request_uri). delete_actions: the actions
-- that DELETE needs. Returns nil and "name_invalid" if the path is not an endpoint of the registry API or has needless
-- percent-encoding; nil and "method_not_allowed" for a method that no endpoint has.
function scope.compute(method, target, delete_actions)
  local actions = method == "DELETE" and delete_actions or ACTIONS[method]
  local targets = actions and recent[actions]
  local scopes = targets and targets[target]
  if scopes then return scopes end
  return match_target(target, actions)
end

--- Returns the scope for pulling from a repository.
function scope.for_pull(name)
  return "repository:" .. name .. ":pull"
end

--- Returns scopes that a user passed (a list, or a string) as one sorted string; nil if the value does not have that
-- form.
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
