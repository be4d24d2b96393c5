-- The command line: the options that all commands take, and the parser for one of them. The completions and the manual
-- pages are made from the same descriptions.

local cluster_options = require "icptoken.cli.cluster_options"
local failure = require "icptoken.cli.failure"

local options = {}

local MAX_HELP_WIDTH = 100

local function load_library()
  local ok, library = pcall(require, "argparse")
  if ok then return library end
  failure.fail("missing_library", "this needs argparse, and %s has none. Install it (Debian: lua-argparse; LuaRocks: "
    .. "argparse)", _VERSION)
end

--- The module of a command: a table with `examples` (pairs of a command line and what it does, or nil), `describe` (a
-- function that adds its options to a parser of argparse) and `run` (a function that takes the parsed arguments and
-- returns the exit status, nil for 0).
function options.load_command(name)
  return require("icptoken.command." .. name:gsub("%-", "_"))
end

local function add_common(parser)
  parser:option "--cluster" :argname "NAME" :description "the cluster, as the configuration calls it"
  parser:option "--host" :argname "HOST" :description "host name of the cluster's master"
  parser:option "--port" :argname "PORT" :convert(tonumber) :description "its port (8443)"
  parser:option "--cacert" :argname "FILE" :description "the cluster's CA certificate"
  parser:flag "--insecure" :description "verify no certificate"
  parser:option "--resolve" :argname "HOST:PORT:ADDRESS" :count "*" :description "connect to this address for the host"
  parser:option "--timeout" :argname "SECONDS" :convert(tonumber) :description "time limit of all requests (30)"
  parser:option "--id-token-file" :argname "FILE" :description "take the ID token from this file"
  parser:flag "--json" :description "write errors, and reports, as JSON"
  parser:flag "-v --verbose" :description "print on standard error what is done"
  parser:flag "-h --help" :description "show help"
  parser:flag "--version" :description "show the version"
end

--- A parser for all commands of a list of { name, summary }, of which the ones in `described` (name to true; nil for
-- all) have their options. Returns the parser, and name to parser of a command.
function options.make_parser(commands, described)
  local parser = load_library()("icptoken") :add_help(false) :require_command(false)
  parser:command_target "command"
  add_common(parser)
  local parsers = {}
  for _, row in ipairs(commands) do
    local command = parser:command(row[1]) :summary(row[2]) :add_help(false)
    parsers[row[1]] = command
    if not described or described[row[1]] then options.load_command(row[1]).describe(command) end
  end
  return parser, parsers
end

-- The first word that is a command, after common options.
local function find_command(arguments, commands)
  local names = {}
  for _, row in ipairs(commands) do names[row[1]] = true end
  local takes_value = { ["--cluster"] = true, ["--host"] = true, ["--port"] = true, ["--cacert"] = true,
    ["--resolve"] = true, ["--timeout"] = true, ["--id-token-file"] = true }
  local i = 1
  while arguments[i] do
    local argument = arguments[i]
    if not argument:find "^%-" then return names[argument] and argument or nil end
    i = i + (takes_value[argument] and 2 or 1)
  end
end

-- A command line that asks for help need not be complete.
local function asks_for_help(arguments)
  for _, argument in ipairs(arguments) do
    if argument == "--" then return false end
    if argument == "--help" or argument == "-h" then return true end
  end
  return false
end

local function merge_addresses(list)
  if #list == 0 then return nil end
  local option = cluster_options.list.resolve
  local addresses = option.parse(table.concat(list, " "))
  if not addresses then failure.usage("usage", "--resolve must be %s", option.form) end
  return addresses
end

--- Parses the command line. Returns the arguments by name (`command` is that of the command, or nil), and the command's
-- parser of argparse, if there is a command.
function options.parse(arguments, commands)
  local name = find_command(arguments, commands)
  local parser, parsers = options.make_parser(commands, { [name or ""] = true })
  if name and asks_for_help(arguments) then return { command = name, help = true }, parsers[name] end
  local ok, parsed = parser:pparse(arguments)
  if not ok then
    failure.usage("usage", "%s\nSee icptoken %s--help", tostring(parsed), name and name .. " " or "")
  end
  parsed.resolve = merge_addresses(parsed.resolve)
  return parsed, parsers[parsed.command]
end

--- The width of help texts for a terminal of this many columns.
function options.help_width(columns)
  return math.min(columns, MAX_HELP_WIDTH)
end

return options
