-- icptoken decode: the parts of a JWT, for people.

local failure = require "icptoken.cli.failure"
local json_text = require "icptoken.cli.json_text"
local jwt = require "icptoken.cli.jwt"
local output = require "icptoken.cli.output"
local times = require "icptoken.cli.times"
local token_input = require "icptoken.cli.token_input"

local command = {}

local TIMES = { { "iat", "issued" }, { "nbf", "not before" }, { "exp", "expires" } }

command.examples = {
  { "icptoken token default/app | icptoken decode" },
  { "icptoken decode token.jwt" },
}

--- Adds the options of this command to a parser.
function command.describe(parser)
  parser:argument "file" :argname "FILE" :args "?" :description "holds the token; standard input without it, or for -"
end

-- The JSON of a part as it is in the token, on several lines, without control characters.
local function render(text)
  local ok, root = pcall(json_text.parse, text)
  if ok and root then text = json_text.indent(text) end
  return (text:gsub("[%z\1-\9\11-\31\127]", "?"):gsub("\194[\128-\159]", "?"))
end

local function write_times(claims)
  local now = os.time()
  for _, row in ipairs(TIMES) do
    local point = claims[row[1]]
    if type(point) == "number" and point == point then
      output.write(("%-11s %s (%s)\n"):format(row[2], times.utc(point), times.relative(point, now)))
    end
  end
  if type(claims.exp) == "number" and claims.exp == claims.iat then
    output.write "exp is no later than iat, so this token does not say when it expires\n"
  end
end

--- Runs the command.
function command.run(arguments)
  local text = token_input.read(arguments.file)
  local decoded, message = jwt.decode(text)
  if not decoded then failure.fail("invalid_response", "this is not a JWT: %s", output.clean(message)) end
  if arguments.json then
    output.write('{"header":', decoded.header_text, ',"claims":', decoded.claims_text, ',"verified":false}\n')
    return
  end
  output.write("header ", render(decoded.header_text), "\nclaims ", render(decoded.claims_text), "\n")
  write_times(decoded.claims)
  output.write "The signature was not verified.\n"
end

return command
