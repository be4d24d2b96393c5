-- icptoken verify: whether a registry would accept a token, and why not.

local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local json = require "icptoken.cli.json"
local output = require "icptoken.cli.output"
local report = require "icptoken.command.check.report"
local signing_key = require "icptoken.cli.signing_key"
local token_input = require "icptoken.cli.token_input"
local verdict = require "icptoken.cli.verdict"

local command = {}

-- What ICP's own registry is configured with.
local DEFAULT_SERVICE, DEFAULT_ISSUER = "token-service", "registry-token-issuer"
local INDENT = (" "):rep(18)
local MIN_WIDTH = 20
local ORDER = { "result", "checks", "notes", "name", "ok", "text" }

local CONCLUSIONS = {
  accepted = "A registry with this certificate would accept the token%s.",
  invalid_token = 'A registry with this certificate would refuse the token: error="invalid_token".',
  insufficient_scope = 'A registry with this certificate would refuse the request: error="insufficient_scope".',
  crash = "A registry with this certificate would close the connection without an answer: this token crashes its "
    .. "handler.",
}

command.examples = {
  { "icptoken token default/app | icptoken verify --cert ca.crt --scope repository:default/app:pull" },
  { "icptoken verify --cert root-cert.pem --service token-service token.jwt" },
}

--- Adds the options of this command to a parser.
function command.describe(parser)
  parser:option "--cert" :argname "CERT"
    :description "the certificates (PEM) that the registry's rootcertbundle names"
  parser:option "--service" :argname "SERVICE" :default(DEFAULT_SERVICE)
    :description "the registry's auth.token.service"
  parser:option "--issuer" :argname "ISSUER" :default(DEFAULT_ISSUER) :description "the registry's auth.token.issuer"
  parser:option "--scope" :argname "SCOPE" :count "*" :description "what the token is to allow, as registries write it"
  parser:argument "file" :argname "FILE" :args "?" :description "holds the token; standard input without it, or for -"
end

-- "repository:host:5000/name:pull,push": the name may have colons.
local function read_scopes(list)
  local scopes = {}
  for _, text in ipairs(list) do
    for scope in text:gmatch "%S+" do
      local resource, names = scope:match "^([^:]+:.+):([^:]+)$"
      local actions = {}
      for name in (names or ""):gmatch "[^,]+" do actions[#actions + 1] = name end
      if #actions == 0 or scope:find "%c" then
        failure.usage("usage", "'%s' is not a scope, such as repository:default/app:pull", output.clean(scope))
      end
      scopes[#scopes + 1] = { text = scope, resource = resource, actions = actions }
    end
  end
  return scopes
end

local function read_bundle(path)
  if not path then
    failure.usage("usage", "name the registry's certificates with --cert CERT: the file that "
      .. "auth.token.rootcertbundle in "
      .. "its configuration names")
  end
  local text, message = files.read(path)
  if not text then failure.fail("file", "cannot read the certificates: %s", message) end
  return signing_key.read_bundle(output.clean(path), text)
end

-- At a terminal, text that does not fit on a line continues below its beginning.
local function write_lines(first, text)
  local width = output.is_terminal(1) and math.max(output.count_columns() - #INDENT, MIN_WIDTH) or nil
  for i, part in ipairs(report.wrap(text, width)) do output.write(i == 1 and first or INDENT, part, "\n") end
end

local function write_report(judged, scopes)
  for _, check in ipairs(judged.checks) do
    local mark = check.ok and output.colour("green", "ok  ", 1) or output.colour("red", "FAIL", 1)
    write_lines(("%s  %-11s "):format(mark, check.name), check.text)
  end
  for _, note in ipairs(judged.notes) do write_lines(("note  %-11s "):format "", note) end
  local texts = {}
  for i, scope in ipairs(scopes) do texts[i] = scope.text end
  output.write(CONCLUSIONS[judged.result]:format(#texts > 0 and " for " .. table.concat(texts, " ") or ""), "\n")
end

--- Runs the command.
function command.run(arguments)
  local scopes = read_scopes(arguments.scope)
  local judged = verdict.judge(token_input.read(arguments.file), { bundle = read_bundle(arguments.cert),
    service = arguments.service, issuer = arguments.issuer, scopes = scopes })
  if arguments.json then
    judged.checks, judged.notes = json.list(judged.checks), json.list(judged.notes)
    output.write(json.encode(judged, ORDER), "\n")
  else
    write_report(judged, scopes)
  end
  return judged.result == "accepted" and 0 or 1
end

return command
