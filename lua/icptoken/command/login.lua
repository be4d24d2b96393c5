-- icptoken login: a session, so that later commands need no password.

local cluster = require "icptoken.cli.cluster"
local configuration = require "icptoken.cli.configuration"
local credential = require "icptoken.cli.credential"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local login = require "icptoken.cli.login"
local output = require "icptoken.cli.output"
local session = require "icptoken.cli.session"
local system = require "icptoken.cli.system"
local times = require "icptoken.cli.times"

local command = {}

local MAX_TOKEN_BYTES = 64 * 1024

command.examples = {
  { "icptoken login -u admin", "asks for the password" },
  { "icptoken login -u admin --password-stdin <password.txt" },
  { "cloudctl tokens | sed -n 's/^ID token: *//p' | icptoken login --id-token-file -", "keeps an ID token" },
}

--- Adds the options of this command to a parser.
function command.describe(parser)
  parser:option "-u --username" :argname "USER" :description "user name ($ICPTOKEN_USERNAME)"
  parser:flag "--password-stdin" :description "take the password from standard input"
end

local function read_password()
  local password = credential.read_input "the password":gsub("\r?\n$", "")
  if password == "" then failure.fail("no_credential", "there is no password on standard input") end
  return password
end

local function read_id_token(path)
  if path == "-" then return credential.read_input "the ID token" end
  local text, message = files.read(path, MAX_TOKEN_BYTES)
  if not text then failure.fail("invalid_credential", "cannot read the ID token: %s", message) end
  return text
end

-- Logs in, unless another process has done so for this user while this one waited for it.
local function log_in(chosen, username, password)
  local before = session.read(chosen.endpoint)
  return session.with_lock(chosen.endpoint, function()
    local now = session.read(chosen.endpoint)
    local is_new = now and (not before or now.id_token ~= before.id_token)
    if is_new and now.username == username and session.is_valid(now) then return now end
    return login.with_password(chosen, username, password)
  end)
end

local function make_session(chosen, arguments)
  if arguments.id_token_file then
    local id_token = read_id_token(arguments.id_token_file)
    return session.with_lock(chosen.endpoint, function() return login.with_id_token(chosen, id_token) end)
  end
  local username = arguments.username or system.environment "ICPTOKEN_USERNAME"
  if arguments.password_stdin then
    if not username then failure.usage("usage", "--password-stdin needs the user name: -u USER") end
    return log_in(chosen, username, read_password())
  end
  local password
  username, password = login.ask(chosen, username,
    "there is no terminal to ask for the password at: icptoken login -u USER --password-stdin <FILE")
  return log_in(chosen, username, password)
end

--- Runs the command.
function command.run(arguments)
  local chosen = cluster.choose(configuration.read(), arguments)
  local content = make_session(chosen, arguments)
  output.write(("Logged in at %s%s%s.\n"):format(chosen.endpoint,
    content.username and " as " .. output.clean(content.username) or "",
    content.expires_at and "; the session expires " .. times.relative(content.expires_at) or ""))
end

return command
