-- icptoken whoami: whose session there is, and until when.

local cluster = require "icptoken.cli.cluster"
local configuration = require "icptoken.cli.configuration"
local failure = require "icptoken.cli.failure"
local json = require "icptoken.cli.json"
local output = require "icptoken.cli.output"
local session = require "icptoken.cli.session"
local times = require "icptoken.cli.times"

local command = { examples = { { "icptoken whoami" }, { "icptoken whoami --json" } } }

local ORDER = { "username", "cluster", "endpoint", "expires_at", "expires_in" }

--- This command has no options of its own.
function command.describe() end

--- Runs the command.
function command.run(arguments)
  local chosen = cluster.choose(configuration.read(), arguments)
  local content = session.read(chosen.endpoint)
  local advice = "log in with icptoken login" .. cluster.flags(chosen)
  if not content then failure.fail("no_credential", "nobody is logged in at %s: %s", chosen.endpoint, advice) end
  local expiry = content.expires_at
  if not session.is_valid(content) then
    failure.fail("expired", "the session of %s at %s expired %s: %s", output.clean(content.username or "an ID token"),
      chosen.endpoint, times.relative(math.min(expiry, os.time())), advice)
  end
  if arguments.json then
    local report = { username = content.username, cluster = chosen.name, endpoint = chosen.endpoint,
      expires_at = expiry and times.rfc3339(expiry), expires_in = expiry and math.floor(expiry - os.time()) }
    output.write(json.encode(report, ORDER), "\n")
    return
  end
  output.write(("%s at %s%s; the session %s\n"):format(output.clean(content.username or "an ID token without a name"),
    chosen.endpoint, chosen.name and " (" .. output.clean(chosen.name) .. ")" or "",
    expiry and ("expires %s (%s)"):format(times.relative(expiry), times.utc(expiry)) or "does not say when it expires"))
end

return command
