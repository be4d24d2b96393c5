-- The program icptoken: finds the command, runs it, and reports what goes wrong.
-- A new command is a file in icptoken/command/ and a line here.

local failure = require "icptoken.cli.failure"
local output = require "icptoken.cli.output"
local system = require "icptoken.cli.system"

local cli = {}

--- The commands with what they do, in the order of the help.
cli.commands = {
  { "token", "print a registry token" },
  { "login", "log in at the cluster, and keep a session" },
  { "logout", "end the session" },
  { "whoami", "show who is logged in, and for how long" },
  { "decode", "show what a token says" },
  { "verify", "say whether a registry takes a token, and why" },
  { "check", "find out why it does not work" },
  { "configure", "have docker and podman ask icptoken" },
  { "docker-config", "put a registry token into docker's config.json" },
  { "exec", "run a command that is logged in" },
  { "credential-provider", "answer the kubelet" },
}

-- "interrupted!" is what lua(1) raises at Ctrl-C.
local function describe_fault(problem)
  if failure.is(problem) then return problem end
  local text = tostring(problem)
  if text:find "interrupted!$" then return { is_interrupt = true } end
  return { code = "internal", exit = 1, retryable = false,
    message = "internal error, please report it: " .. output.clean(text:gsub("eyJ[%w_.-]+", "[token]")) }
end

local function report(problem, as_json)
  if problem.silent then return end
  if as_json then
    local json = require "icptoken.cli.json"
    local ok, text = pcall(json.encode, { code = problem.code, message = problem.message,
      retryable = problem.retryable, status = problem.status }, { "code", "message", "retryable", "status" })
    if ok then
      io.stderr:write(text, "\n")
      return
    end
  end
  output.note("%s", (problem.message:gsub("\n", "\n  ")))
end

--- Runs body, reports what it raises, and returns the exit status. wants_json: whether failures are reported as JSON.
function cli.guard(body, wants_json)
  local ok, status = pcall(body)
  if ok then return status or 0 end
  local problem = describe_fault(status)
  if problem.is_interrupt then
    pcall(system.die_of, 2)
    return 130
  end
  report(problem, wants_json)
  return problem.exit
end

local function find_summary(name)
  for _, row in ipairs(cli.commands) do
    if row[1] == name then return row[2] end
  end
end

local function run(arguments)
  -- what needs no library comes first, so that it is fast and works if a library is missing
  if arguments[1] == "--version" then
    output.write("icptoken ", require "icptoken.cli.version", "\n")
    return output.finish()
  end
  local first = arguments[1]
  if first == "--help" or first == "-h" or first == "help" and not arguments[2] then
    output.write(require("icptoken.cli.help").render_program(cli.commands))
    return output.finish()
  end
  require("icptoken.cli.secrets").refuse_arguments(arguments)
  if first == "help" then arguments = { arguments[2], "--help" } end
  local options = require "icptoken.cli.options"
  local parsed, parser = options.parse(arguments, cli.commands)
  output.verbose = parsed.verbose
  local status
  if parsed.version then
    output.write("icptoken ", require "icptoken.cli.version", "\n")
  elseif parsed.command and parsed.help then
    output.write(require("icptoken.cli.help").render_command(parsed.command, find_summary(parsed.command), parser))
  elseif parsed.command then
    status = options.load_command(parsed.command).run(parsed)
  else
    io.stderr:write(require("icptoken.cli.help").render_program(cli.commands))
    status = 2
  end
  output.finish()
  return status
end

-- Errors of the command line itself come before it is parsed.
local function asks_for_json(arguments)
  for _, argument in ipairs(arguments) do
    if argument == "--" then return false end
    if argument == "--json" then return true end
  end
  return false
end

--- Runs the program with a list of arguments. Returns its exit status.
function cli.main(arguments)
  return cli.guard(function() return run(arguments) end, asks_for_json(arguments))
end

return cli
