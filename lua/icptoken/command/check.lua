-- icptoken check: checks everything that is needed for pulling an image, one step after the other, until one fails.

local context = require "icptoken.command.check.context"
local failure = require "icptoken.cli.failure"
local line = require "icptoken.command.check.line"
local report = require "icptoken.command.check.report"
local system = require "icptoken.cli.system"

local command = {}

command.examples = {
  { "icptoken check" },
  { "icptoken check mycluster.icp:8500" },
  { "icptoken check mycluster.icp:8500/default/app", "may this user pull it?" },
}

--- Adds the options of this command to a parser.
function command.describe(parser)
  parser:argument "registry" :argname "REGISTRY" :args "?"
    :description "host name of a registry, with its port, and, if you like, a repository"
end

local function in_group(group, name)
  return function(shared) return require("icptoken.command.check." .. group)[name or "run"](shared) end
end

-- id, title, the function that makes the check and returns a list of lines, and the checks that must have passed.
local CHECKS = {
  { "configuration", "Configuration", in_group "configuration", {} },
  { "lookup", "Name", in_group("reach", "check_lookup"), { "configuration" } },
  { "connection", "Connection", in_group("reach", "check_connection"), { "lookup" } },
  { "tls", "TLS", in_group "tls", { "connection" } },
  { "clock", "Clock", in_group("endpoint", "check_clock"), { "connection" } },
  { "endpoint", "Token endpoint", in_group "endpoint", { "tls" } },
  { "credential", "Credential", in_group "credential", { "configuration" } },
  { "token", "Token", in_group "token", { "endpoint", "credential" } },
  { "registry", "Registry", in_group "registry", { "configuration" } },
  { "access", "Token at the registry", in_group("registry", "try_token"), { "token", "registry" } },
  { "docker", "docker and podman", in_group "docker", { "configuration" } },
  { "gateway", "Gateway", in_group "gateway", { "registry" } },
}

local function look(check, shared)
  local ok, lines = pcall(check[3], shared)
  if ok then return lines end
  if failure.is(lines) then return { line.of_failure(lines) } end
  error(lines, 0)
end

local function can_be_made(check, passed)
  for _, id in ipairs(check[4]) do
    if not passed[id] then return false end
  end
  return true
end

--- Runs the command.
function command.run(arguments)
  system.restore_interrupt()
  local shared, passed = context.new(arguments), {}
  function shared.has_passed(_, id) return passed[id] == true end
  local written = report.new(arguments.json)
  for _, check in ipairs(CHECKS) do
    local id, title = check[1], check[2]
    if can_be_made(check, passed) then
      passed[id] = true
      for _, judged in ipairs(look(check, shared)) do
        judged.message, judged.advice = shared:hide(judged.message), judged.advice and shared:hide(judged.advice)
        written:add(id, title, judged)
        if judged.is_blocking then passed[id] = false end
      end
    else
      written:skip(id, title)
    end
  end
  return written:finish(shared.chosen)
end

return command
