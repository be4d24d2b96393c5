-- The session of a cluster: what a login keeps for later commands, without the password. A file of mode 0600 in
-- a directory of mode 0700, named after the cluster's host and port, so that an ID token never goes to another cluster.

local configuration = require "icptoken.cli.configuration"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local json = require "icptoken.cli.json"
local jwt = require "icptoken.cli.jwt"

local session = {}

-- A token that is passed to another program must not expire before it is used.
local LEEWAY_SECONDS = 60
local MAX_BYTES = 1024 * 1024
local ORDER = { "endpoint", "username", "expires_at", "id_token", "refresh_token" }

--- The directory of all sessions.
function session.directory()
  return configuration.user_directory("XDG_STATE_HOME", ".local/state")
end

local function encode_name(endpoint)
  return (endpoint:gsub("[^%w.:-]", function(byte) return ("%%%02X"):format(byte:byte()) end)
    :gsub(":(%d+)$", "_%1"):gsub(":", "%%3A"):gsub("^%.", "%%2E"))
end

--- The path of a cluster's session.
function session.path(endpoint)
  return session.directory() .. "/" .. encode_name(endpoint) .. ".json"
end

local function fail_damaged(path, what)
  failure.fail("session", "%s is damaged: %s. Remove it, and log in again: icptoken login", path, what)
end

local function check_fields(path, content, endpoint)
  for name, kind in pairs { endpoint = "string", username = "string", id_token = "string", refresh_token = "string",
    expires_at = "number" } do
    local value = content[name]
    if value ~= nil and type(value) ~= kind then fail_damaged(path, ("'%s' is not a %s"):format(name, kind)) end
  end
  if not content.id_token or not jwt.strip(content.id_token):find "^[%w._~+/-]+=*$" then
    fail_damaged(path, "it has no ID token")
  end
  if content.endpoint ~= endpoint then fail_damaged(path, "it belongs to another cluster") end
  if content.username and content.username:find "%c" then fail_damaged(path, "'username' has control characters") end
end

--- The session of an endpoint, or nil: `endpoint`, `username`, `id_token`, `refresh_token`, `expires_at` (nil if it is
-- not known). Fails if the file is damaged, or if others could have written it.
function session.read(endpoint)
  local path = session.path(endpoint)
  local text = files.read_private(path, MAX_BYTES)
  if not text then return nil end
  local content, message = json.decode_object(text)
  if not content then fail_damaged(path, message:gsub("%c", "?")) end
  check_fields(path, content, endpoint)
  return content
end

--- Whether a session can still be used.
function session.is_valid(content)
  return content ~= nil and (content.expires_at == nil or content.expires_at > os.time() + LEEWAY_SECONDS)
end

--- Keeps a session. content: its fields without `endpoint`.
function session.write(endpoint, content)
  local path = session.path(endpoint)
  files.make_private_directory(session.directory())
  files.check_private_directory(session.directory())
  local text = json.encode({ endpoint = endpoint, username = content.username, expires_at = content.expires_at,
    id_token = content.id_token, refresh_token = content.refresh_token }, ORDER, true)
  files.replace(path, text .. "\n")
end

--- Removes a session. Returns it, or nil if there was none. A damaged one is removed, too.
function session.remove(endpoint)
  local path = session.path(endpoint)
  if not files.lstat(path) then return nil end
  local ok, content = pcall(session.read, endpoint)
  local removed, message = os.remove(path)
  if not removed then failure.fail("file", "cannot remove %s", message) end
  return ok and content or {}
end

--- Calls body while no other process logs in at the endpoint, and returns what it returns.
function session.with_lock(endpoint, body)
  files.make_private_directory(session.directory())
  files.check_private_directory(session.directory())
  return files.with_lock(session.path(endpoint):gsub("%.json$", ".lock"), body)
end

return session
