-- icptoken logout: removes the session.

local cluster = require "icptoken.cli.cluster"
local configuration = require "icptoken.cli.configuration"
local output = require "icptoken.cli.output"
local session = require "icptoken.cli.session"

local command = { examples = { { "icptoken logout" }, { "icptoken logout --cluster prod" } } }

--- This command has no options of its own.
function command.describe() end

--- Runs the command.
function command.run(arguments)
  local chosen = cluster.choose(configuration.read(), arguments)
  local content = session.remove(chosen.endpoint)
  if content then
    output.write(("Logged out of %s. Tokens that were issued are valid until they expire.\n"):format(chosen.endpoint))
  else
    output.write(("Nobody was logged in at %s.\n"):format(chosen.endpoint))
  end
end

return command
