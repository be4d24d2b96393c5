-- Which credential a command uses, in this order: --id-token-file, standard input, $ICPTOKEN_ID_TOKEN_FILE, $ID_TOKEN,
-- id_token_file of the configuration, the session, user name and password from the terminal.

local cluster = require "icptoken.cli.cluster"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local jwt = require "icptoken.cli.jwt"
local login = require "icptoken.cli.login"
local output = require "icptoken.cli.output"
local system = require "icptoken.cli.system"
local times = require "icptoken.cli.times"

local credential = {}

local MAX_BYTES = 64 * 1024

--- All of standard input, as a secret. what: what it should be, for messages.
function credential.read_input(what)
  system.restore_interrupt()
  local text = io.stdin:read(MAX_BYTES + 1) or ""
  if #text > MAX_BYTES then failure.fail("invalid_credential", "%s on standard input is longer than 64 KiB", what) end
  return text
end

--- The ID token that the command line, the environment or the configuration names, { id_token = } or
-- { id_token_file = }, and where it comes from; nil for none. uses_input: whether the command line says "-".
function credential.find_named(chosen, flags, uses_input)
  local file = flags.id_token_file
  if uses_input or file == "-" then
    local text = credential.read_input "the ID token"
    if not text:find "%S" then
      failure.fail("no_credential", "there is no ID token on standard input; does the command before | fail?")
    end
    return { id_token = jwt.strip(text) }, "standard input"
  end
  if file then return { id_token_file = file }, file end
  file = system.environment "ICPTOKEN_ID_TOKEN_FILE"
  if file then return { id_token_file = file }, "$ICPTOKEN_ID_TOKEN_FILE" end
  local id_token = system.environment "ID_TOKEN"
  if id_token then return { id_token = id_token }, "$ID_TOKEN" end
  file = chosen.options.id_token_file
  if file then return { id_token_file = file }, file end
end

--- The credential for requests to the cluster, { id_token = } or { id_token_file = }, and what to do when it is
-- refused. uses_input: whether the command line says "-".
function credential.find(chosen, flags, uses_input)
  local found, source = credential.find_named(chosen, flags, uses_input)
  if found then
    output.trace("credential: ID token from %s", source)
    return found, ("The ID token came from %s; icptoken login%s gets another."):format(source, cluster.flags(chosen))
  end
  local content, is_new = login.provide_session(chosen)
  output.trace("credential: session of %s%s", output.clean(content.username or "an ID token"),
    content.expires_at and ", expires " .. times.relative(content.expires_at) or "")
  if is_new then output.note("logged in as %s; icptoken logout ends the session", output.clean(content.username)) end
  return { id_token = content.id_token }, ("Log in again: icptoken login%s"):format(cluster.flags(chosen))
end

--- The ID token itself of what credential.find returned.
function credential.read_id_token(found)
  if found.id_token then return jwt.strip(found.id_token) end
  local text, message = files.read(found.id_token_file, MAX_BYTES)
  if not text then failure.fail("invalid_credential", "cannot read the ID token: %s", message) end
  return jwt.strip(text)
end

return credential
