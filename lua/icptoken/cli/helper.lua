-- The program docker-credential-icptoken: the protocol of docker's credential helpers. Messages go to standard output,
-- as the protocol requires; nothing is written to standard error unless -v or $ICPTOKEN_LOG asks for it.
--
-- A registry behind the gateway gets its user name for ID tokens, and the session's ID token. A registry that clients
-- reach without the gateway needs a user name and a password. These are not kept here, but by the helper that
-- `credential_store` in the configuration names.

local failure = require "icptoken.cli.failure"
local output = require "icptoken.cli.output"

local helper = {}

local NOT_FOUND = "credentials not found in native keychain"
local MAX_BYTES = 1024 * 1024
local USAGE = "Usage: docker-credential-icptoken <store|get|erase|list|version>"

local function fail_not_found()
  failure.fail("not_found", "%s", NOT_FOUND)
end

local function read_input()
  local text = io.stdin:read(MAX_BYTES + 1) or ""
  if #text > MAX_BYTES then failure.fail("usage", "there is more than 1 MiB on standard input") end
  return text
end

local function read_server()
  local server = read_input():match "^%s*(.-)%s*$"
  if server == "" then failure.fail("usage", "no credentials server URL") end
  if server:find "[%c]" then failure.fail("usage", "the server URL has control characters") end
  return server
end

local function read_credentials()
  local credentials, message = require("icptoken.cli.json").decode_object(read_input())
  if not credentials then failure.fail("usage", "standard input is not JSON: %s", output.clean(message)) end
  for field, name in pairs { ServerURL = "server URL", Username = "username", Secret = "secret" } do
    local value = credentials[field]
    if type(value) ~= "string" or value == "" then failure.fail("usage", "no credentials %s", name) end
  end
  return credentials
end

local function find_gateway(server)
  return require("icptoken.cli.registry_login").find(server)
end

local function write_credentials(server, username, secret)
  local json = require "icptoken.cli.json"
  output.write(json.encode({ ServerURL = server, Username = username, Secret = secret },
    { "ServerURL", "Username", "Secret" }), "\n")
end

-- Passes the call on to another helper, and its answer back.
local function delegate(store, action, input)
  local status, answer = require("icptoken.cli.credential_store").call(store, action, input)
  output.write(answer)
  return status
end

local actions = {}

function actions.get()
  local server = read_server()
  local settings, entry, chosen = find_gateway(server)
  if not chosen then
    local store = entry and entry.credential_store or settings.credential_store
    if store then return delegate(store, "get", server) end
    fail_not_found()
  end
  local session = require "icptoken.cli.session"
  local content = session.read(chosen.endpoint)
  if not session.is_valid(content) then
    output.trace("%s at %s", content and "the session has expired" or "nobody is logged in", chosen.endpoint)
    content = entry.credential_store
      and require("icptoken.cli.registry_login").repeat_login(chosen, entry.credential_store, server)
  end
  if not content then fail_not_found() end
  write_credentials(server, entry.gateway_user, content.id_token)
end

-- A password that comes with the gateway's user name is an ID token.
local function keep_session(entry, chosen, credentials)
  local login, session = require "icptoken.cli.login", require "icptoken.cli.session"
  session.with_lock(chosen.endpoint, function()
    if credentials.Username == entry.gateway_user then return login.with_id_token(chosen, credentials.Secret) end
    return login.with_password(chosen, credentials.Username, credentials.Secret)
  end)
end

local function to_input(credentials)
  return require("icptoken.cli.json").encode({ ServerURL = credentials.ServerURL, Username = credentials.Username,
    Secret = credentials.Secret }, { "ServerURL", "Username", "Secret" })
end

function actions.store()
  local credentials = read_credentials()
  local settings, entry, chosen = find_gateway(credentials.ServerURL)
  if chosen then
    keep_session(entry, chosen, credentials)
    local is_password = credentials.Username ~= entry.gateway_user
    if not entry.credential_store or not is_password then return 0 end
    return delegate(entry.credential_store, "store", to_input(credentials))
  end
  local store = entry and entry.credential_store or settings.credential_store
  if store then return delegate(store, "store", to_input(credentials)) end
  failure.fail("refused", "icptoken keeps no passwords, and %s needs one. Name a helper that does as "
    .. '"credential_store" in %s (docker-credential-pass, docker-credential-secretservice), or reach the registry '
    .. 'through the gateway, with "gateway_user"', output.clean(credentials.ServerURL), settings.path)
end

function actions.erase()
  local server = read_server()
  local settings, entry, chosen = find_gateway(server)
  if chosen then require("icptoken.cli.session").remove(chosen.endpoint) end
  local store = entry and entry.credential_store
  if not chosen then store = store or settings.credential_store end
  if store then return delegate(store, "erase", server) end
end

local function add_stored(found, store)
  local status, answer = require("icptoken.cli.credential_store").call(store, "list", "")
  local listed = status == 0 and require("icptoken.cli.json").decode_object(answer) or {}
  for server, username in pairs(listed) do found[server] = username end
end

function actions.list()
  local settings = require("icptoken.cli.configuration").read()
  local session, cluster = require "icptoken.cli.session", require "icptoken.cli.cluster"
  local found = {}
  if settings.credential_store then add_stored(found, settings.credential_store) end
  for name, entry in pairs(settings.registries) do
    if entry.gateway_user then
      local content = session.read(cluster.of_registry(settings, entry).endpoint)
      found[name] = session.is_valid(content) and entry.gateway_user or nil
    end
  end
  output.write(next(found) and require("icptoken.cli.json").encode(found) or "{}", "\n")
end

function actions.version()
  output.write("docker-credential-icptoken (icptoken) ", require "icptoken.cli.version", "\n")
end

local function find_action(arguments)
  local action
  for _, argument in ipairs(arguments) do
    if argument == "-v" and #arguments > 1 then
      output.verbose = true
    else
      action = action or argument
    end
  end
  if os.getenv "ICPTOKEN_LOG" and os.getenv "ICPTOKEN_LOG" ~= "" then output.verbose = true end
  if action == "-v" or action == "--version" then action = "version" end
  if action == "--help" or action == "-h" then return function() output.write(USAGE, "\n") end end
  return actions[action] or function() failure.fail("usage", "%s", USAGE) end
end

-- Failures are reported on standard output, in one line.
local function report(problem)
  if failure.is(problem) then
    if problem.silent then return problem.exit end
  else
    problem = { message = "internal error, please report it: "
      .. output.clean(tostring(problem):gsub("eyJ[%w_.-]+", "[token]")) }
  end
  io.stdout:write((problem.message:gsub("%s*\n%s*", " ")), "\n")
  return 1
end

--- Runs the program with a list of arguments. Returns its exit status: 0 or 1.
function helper.main(arguments)
  local ok, status = pcall(function()
    local result = find_action(arguments)()
    output.finish()
    return result
  end)
  if not ok then return report(status) end
  return status == 0 and 0 or status and 1 or 0
end

return helper
