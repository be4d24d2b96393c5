-- docker's and podman's files: whether the helper is set, can be run, and is not overridden by another entry.

local base64 = require "icptoken.cli.base64"
local docker_files = require "icptoken.cli.docker_files"
local files = require "icptoken.cli.files"
local json = require "icptoken.cli.json"
local jwt = require "icptoken.cli.jwt"
local line = require "icptoken.command.check.line"
local output = require "icptoken.cli.output"
local process = require "icptoken.cli.process"
local reference = require "icptoken.cli.reference"
local times = require "icptoken.cli.times"

local docker = {}

local HELPER = "icptoken"
local ENOENT, ENOTDIR = 2, 20
-- Fields of an entry of auths that hold a secret; docker writes the password into `auth`.
local SECRETS = { "auth", "password", "identitytoken", "registrytoken" }

local function find_entry(list, registry)
  for name, value in pairs(type(list) == "table" and list or {}) do
    if type(name) == "string" and reference.normalise_server(name) == registry then return value end
  end
end

-- The secrets of an entry of auths, field to text; the password for `auth`.
local function list_secrets(entry)
  local found = {}
  for _, field in ipairs(SECRETS) do
    local value = type(entry) == "table" and entry[field]
    if type(value) == "string" and value ~= "" then found[field] = value end
  end
  local pair = found.auth and base64.decode(found.auth)
  found.auth = pair and (pair:match "^[^:]*:(.*)$" or pair) or found.auth
  return found
end

-- The field whose token has expired, and when.
local function find_expired(secrets, now)
  for _, field in ipairs { "registrytoken", "identitytoken", "auth", "password" } do
    local expiry = secrets[field] and jwt.find_expiry(secrets[field])
    if expiry and expiry <= now then return field, expiry end
  end
end

-- What is wrong with an entry of auths, or nil.
local function judge_entry(secrets, is_helper, facts)
  local field, expiry = find_expired(secrets, facts.now)
  if field then
    return line.fail("expired_entry", ("%s has a token for %s that expired %s ('%s' in auths)"):format(facts.path,
      facts.name, times.relative(expiry, facts.now), field == "password" and "auth" or field),
      field == "registrytoken" and "Remove it: icptoken docker-config " .. facts.name .. " --remove"
      or "Remove it: icptoken configure " .. facts.name)
  end
  if is_helper and next(secrets) then
    return line.fail("stale_entry", ("%s has an entry for %s in auths, which hides the helper from some clients")
      :format(facts.path, facts.name), "Remove it: icptoken configure " .. facts.name)
  end
end

--- The line for a file's content (a table) and one registry. facts: `path`, `name` (of the registry), `is_known` (to
-- icptoken's configuration), `can_keep_login` (whether icptoken can serve it), `has_program` (the helper is in $PATH),
-- `now`. nil where the file says nothing of it and need not.
function docker.judge(content, facts)
  local helper = find_entry(content.credHelpers, facts.name)
  local secrets = list_secrets(find_entry(content.auths, facts.name))
  local is_helper = helper == HELPER
  if is_helper and not facts.has_program then
    return line.fail("helper_missing",
      ("%s names the helper of icptoken for %s, and docker-credential-%s is not in $PATH")
      :format(facts.path, facts.name, HELPER), "Add its directory to $PATH: make install puts it into /usr/local/bin.")
  end
  local problem = judge_entry(secrets, is_helper, facts)
  if problem then return problem end
  if is_helper and not facts.is_known then
    return line.fail("helper_unknown",
      ("%s names the helper of icptoken for %s, which is not in icptoken's configuration")
      :format(facts.path, facts.name), "Run: icptoken configure " .. facts.name)
  end
  if is_helper then return line.ok(("%s: the helper serves %s"):format(facts.path, facts.name)) end
  if helper ~= nil then
    return line.ok(("%s: another helper (%s) serves %s"):format(facts.path, output.clean(helper), facts.name))
  end
  if next(secrets) then
    return line.warn("secret_on_disk", ("%s has a credential for %s in auths"):format(facts.path, facts.name),
      facts.can_keep_login and "icptoken configure " .. facts.name .. " avoids that." or nil)
  end
end

--- Whether there is a file, and its content: nil and nil for none, nil and a line for one that clients cannot read.
function docker.read(path)
  local text, message, number = files.read(path)
  if not text then
    if number == ENOENT or number == ENOTDIR then return nil end
    return nil, line.fail("unreadable", "clients cannot read " .. message, "Correct its owner and mode.")
  end
  if not text:find "%S" then return {} end
  local content, problem = json.decode_object(text)
  if content then return content end
  return nil, line.fail("not_json", ("%s is not JSON: %s"):format(path, output.clean(problem)),
    "Every docker and podman command fails until it is. Correct it, or move it away.")
end

local function check_file(context, path, lines)
  local content, problem = docker.read(path)
  lines[#lines + 1] = problem
  if not content then return false end
  local is_served = false
  for _, one in ipairs(context.registries) do
    for _, secret in pairs(list_secrets(find_entry(content.auths, one.name))) do context:add_secret(secret) end
    local is_known = one.entry.cluster ~= nil
    local judged = docker.judge(content, { path = path, name = one.name, is_known = is_known, now = context:now(),
      can_keep_login = one.entry.gateway_user ~= nil, has_program = process.find("docker-credential-"
        .. HELPER) ~= nil })
    if judged then judged.about, is_served = one.name, true end
    lines[#lines + 1] = judged
  end
  return is_served
end

--- Checks the files that there are.
function docker.run(context)
  local lines, is_served = {}, false
  local paths = docker_files.podman_paths()
  table.insert(paths, 1, docker_files.docker_path())
  for _, path in ipairs(paths) do is_served = check_file(context, path, lines) or is_served end
  local first = context.registries[1]
  if first.is_named and not is_served and #lines == 0 then
    lines[1] = line.warn("not_configured", ("there is no credential for %s"):format(first.name),
      "To have them ask icptoken: icptoken configure " .. first.name)
  end
  return lines
end

return docker
