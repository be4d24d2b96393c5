-- The text of docker's config.json, podman's auth.json and icptoken's own configuration, with entries set and removed.
-- Go reads these files: names of fields match without regard to case, the last of duplicates wins, and an object that
-- occurs twice is merged.

local base64 = require "icptoken.cli.base64"
local json_text = require "icptoken.cli.json_text"
local reference = require "icptoken.cli.reference"

local docker_text = {}

local EMPTY = "{\n}\n"
-- Fields of an entry in auths that a client would use instead of a helper.
local CREDENTIALS = { "auth", "username", "password", "identitytoken", "registrytoken" }

local function equals_in_any_case(name, wanted)
  return name:lower() == wanted:lower()
end

-- The tree of the text, which must be an object; nil and a message if it is not.
local function parse(text)
  local root, message = json_text.parse(text)
  if not root then return nil, message end
  if root.kind ~= "object" then return nil, "it is a " .. root.kind .. ", not an object" end
  return root
end

-- The last member that matches, or nil.
local function find_last(node, name, matches)
  local found = json_text.find(node, name, matches)
  return found[#found]
end

--- Text that can be edited: that of a file, or that of an empty object if there is no file or it is empty; or nil and a
-- message that says why it is not a JSON object.
function docker_text.prepare(text)
  if not text or not text:find "%S" then return EMPTY end
  local root, message = parse(text)
  if not root then return nil, message end
  return text
end

--- Text with value (JSON text) under two names, such as credHelpers and a registry. Raises { message = } if something
-- on the way is not an object.
function docker_text.set(text, field, name, value)
  local root = parse(text)
  local container = find_last(root, field, equals_in_any_case)
  if not container then
    if #root.members == 0 and text == EMPTY then text = "{}\n" end
    return json_text.add(text, parse(text), parse(text), field, { name, value })
  end
  local node = container.member.value
  if node.kind == "null" then
    local probe = json_text.replace(text, node, "{}")
    return docker_text.set(probe, field, name, value)
  end
  if node.kind ~= "object" then error({ message = ("'%s' is a %s, not an object"):format(field, node.kind) }, 0) end
  local entry = find_last(node, name)
  if not entry then return json_text.add(text, root, node, name, value) end
  local current = text:sub(entry.member.value.first, entry.member.value.last)
  return current == value and text or json_text.replace(text, entry.member.value, value)
end

-- Removes members one at a time, as positions change, until `choose` (a function of root and text) finds none: it
-- returns an object and the index of its member.
local function remove_all(text, choose)
  while true do
    local node, index = choose(parse(text), text)
    if not node then return text end
    text = json_text.remove(text, node, index)
  end
end

--- Text without the entries of a field that `matches`, a function of name, node and JSON text, accepts.
function docker_text.remove(text, field, matches)
  return remove_all(text, function(root, current)
    for _, container in ipairs(json_text.find(root, field, equals_in_any_case)) do
      local node = container.member.value
      for index, member in ipairs(node.kind == "object" and node.members or {}) do
        local value = member.value
        if matches(member.name, value, current:sub(value.first, value.last)) then return node, index end
      end
    end
  end)
end

-- Whether a key of auths is the registry itself, as clients write it. A key that names a repository was set on purpose.
local function is_registry_key(key, registry)
  local path = key:match "^%a[%w+.-]*://[^/]*(/?.*)$" or key:match "^[^/]*(/?.*)$"
  return reference.normalise_server(key) == registry and (path:find "^/?$" or path:find "^/v[12]/?$") ~= nil
end

local function holds_credential(node)
  for _, field in ipairs(CREDENTIALS) do
    local found = find_last(node, field, equals_in_any_case)
    -- an empty string is two bytes long
    if found and found.member.value.last - found.member.value.first > 1 then return true end
  end
  return false
end

--- Text without the entries of auths that hold a credential for the registry and would be used instead of its helper.
function docker_text.remove_stale(text, registry)
  return docker_text.remove(text, "auths", function(name, node)
    return is_registry_key(name, registry) and holds_credential(node)
  end)
end

--- Text with the helper of a registry set, and its stale entries of auths removed.
function docker_text.set_helper(text, registry, helper)
  return docker_text.remove_stale(docker_text.set(text, "credHelpers", registry, json_text.quote(helper)), registry)
end

--- Text without that helper.
function docker_text.remove_helper(text, registry, helper)
  return docker_text.remove(text, "credHelpers", function(name, _, value)
    return reference.normalise_server(name) == registry and value == json_text.quote(helper)
  end)
end

--- Text with a registry token in the registry's entry of auths, whose other fields stay.
function docker_text.set_token(text, registry, token)
  local value = json_text.quote(token)
  local container = find_last(parse(text), "auths", equals_in_any_case)
  local entry = container and find_last(container.member.value, registry)
  local node = entry and entry.member.value
  if not node or node.kind ~= "object" then
    return docker_text.set(text, "auths", registry, '{"registrytoken": ' .. value .. "}")
  end
  local field = find_last(node, "registrytoken", equals_in_any_case)
  if field then return json_text.replace(text, field.member.value, value) end
  return json_text.add(text, parse(text), node, "registrytoken", value)
end

--- Text without that token. An entry that contains nothing else is removed, too.
function docker_text.remove_token(text, registry)
  text = docker_text.remove(text, "auths", function(name, node)
    return name == registry and #(node.members or {}) == 1 and equals_in_any_case(node.members[1].name, "registrytoken")
  end)
  return remove_all(text, function(root)
    for _, container in ipairs(json_text.find(root, "auths", equals_in_any_case)) do
      for _, entry in ipairs(json_text.find(container.member.value, registry)) do
        local field = find_last(entry.member.value, "registrytoken", equals_in_any_case)
        if field then return entry.member.value, field.index end
      end
    end
  end)
end

--- Text with user name and password (or ID token) of a registry in auths, which clients use if no helper is set.
function docker_text.set_password(text, registry, username, password)
  text = docker_text.remove(docker_text.remove_stale(text, registry), "credHelpers", function(name)
    return reference.normalise_server(name) == registry
  end)
  local auth = base64.encode(username .. ":" .. password)
  return docker_text.set(text, "auths", registry, '{"auth": ' .. json_text.quote(auth) .. "}")
end

--- Text without a field of its top level, and whether it was there.
function docker_text.remove_field(text, name)
  local before = text
  text = remove_all(text, function(root)
    local found = find_last(root, name, equals_in_any_case)
    if found then return root, found.index end
  end)
  return text, text ~= before
end

--- The value of a member under two names as JSON text, or nil.
function docker_text.read(text, field, name)
  local container = find_last(parse(text), field, equals_in_any_case)
  local entry = container and find_last(container.member.value, name)
  return entry and text:sub(entry.member.value.first, entry.member.value.last)
end

--- Text for people, in which the strings that may be secrets are "***".
function docker_text.mask(text)
  local root = parse(text)
  local places = {}
  local function collect(node)
    if node.kind == "string" and node.last - node.first > 1 then places[#places + 1] = node end
    for _, member in ipairs(node.members or {}) do collect(member.value) end
  end
  for _, field in ipairs { "auths", "HttpHeaders", "proxies" } do
    for _, found in ipairs(json_text.find(root, field, equals_in_any_case)) do collect(found.member.value) end
  end
  table.sort(places, function(a, b) return a.first > b.first end)
  for _, node in ipairs(places) do text = json_text.replace(text, node, '"***"') end
  return text
end

return docker_text
