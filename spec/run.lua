-- Runs the specs with busted on the runtime that runs this file, and counts them:
--   <runtime> spec/run.lua [busted's options] [spec files]
-- BUILD names the directory of the compiled modules; without it they are built first.

local function interpreter_path()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return arg[first]
end

local function build_modules()
  local runtime = interpreter_path()
  local result = os.execute("make --no-print-directory -s for-specs LUA='" .. runtime .. "'")
  if result ~= true and result ~= 0 then error("the modules could not be built", 0) end
  return "build/" .. runtime:match "[^/]*$"
end

local build = os.getenv "BUILD" or build_modules()
local label = build:match "[^/]*$" .. (os.getenv "ICPTOKEN_VALGRIND" and "-valgrind" or "")
package.path = "lua/?.lua;spec/?.lua;./?.lua;" .. package.path
package.cpath = build .. "/?.so;" .. package.cpath

local testkit = require "testkit"
local sanitized = os.getenv "ICPTOKEN_SANITIZED"
-- the sanitizer is for this process, not for the shells and servers that specs start
if sanitized then testkit.unsetenv "LD_PRELOAD" end
-- specs choose their proxies themselves
for _, name in ipairs { "http_proxy", "https_proxy", "all_proxy", "no_proxy" } do
  testkit.unsetenv(name)
  testkit.unsetenv(name:upper())
end
-- before a spec loads icptoken, and with it libcurl
assert(testkit.install_curl_allocator(), "libcurl was initialised too early")

local tally = { passed = 0, failed = 0, skipped = 0 }

local function say(...)
  io.stdout:write(string.format(...), "\n")
  io.stdout:flush()
end

local function indent(message)
  if type(message) ~= "string" then message = require "pl.pretty".write(message) end
  return "    " .. message:gsub("\n", "\n    ")
end

-- busted's output handler: a line for each file, and the specs that failed or were skipped.
local function report(busted)
  local full_name = require "busted.outputHandlers.base"().getFullName
  local started, before

  local function on_problem(element, _, message, trace)
    local place = element.trace or trace or {}
    if element.descriptor ~= "it" then tally.failed = tally.failed + 1 end
    say("FAILED %s (%s:%s)\n%s", full_name(element), place.short_src or "?",
      place.currentline or "?", indent(message))
    return nil, true
  end

  busted.subscribe({ "failure" }, on_problem)
  busted.subscribe({ "error" }, on_problem)
  busted.subscribe({ "test", "end" }, function(element, _, status)
    local column = status == "success" and "passed" or status == "pending" and "skipped" or "failed"
    tally[column] = tally[column] + 1
    if column == "skipped" then say("skipped %s", full_name(element)) end
    return nil, true
  end)
  busted.subscribe({ "file", "start" }, function()
    started, before = testkit.monotonic(), tally.passed
    return nil, true
  end)
  busted.subscribe({ "file", "end" }, function(file)
    say("%-16s %-36s %4d passed %7.1f s", label, file.name, tally.passed - before,
      testkit.monotonic() - started)
    return nil, true
  end)
end

local exit = os.exit

-- Without files, all in spec/ run, except those in its directories: spec/gateway is for one runtime only.
table.insert(arg, 1, "--no-recursive")

local function run_busted()
  package.preload["busted.outputHandlers.report"] = function()
    return function()
      report(require "busted")
      return { subscribe = function() end }
    end
  end
  os.exit = function() -- luacheck: ignore 122
    error("a spec must not end the process; a forked child may, with testkit._exit", 2)
  end
  -- busted would end the process itself, on 5.1 and 5.2 without a reason
  require "busted.compatibility".exit = function(code)
    error({ status = code }, 0)
  end
  local ok, problem = pcall(function()
    require "busted.runner" { standalone = false, output = "report" }
  end)
  if ok then return true end
  if type(problem) ~= "table" then say("%s", tostring(problem)) end
  return type(problem) == "table" and problem.status == 0
end

-- Ends the process with the state closed, which leak checkers need. Plain 5.1 closes it only when
-- the script itself returns or raises an error.
local function leave(succeeded)
  if sanitized then testkit.pin_libraries() end
  if _VERSION == "Lua 5.1" and not rawget(_G, "jit") then
    if not succeeded then error() end
    return
  end
  exit(succeeded, true)
end

local succeeded = run_busted()
require "stub.client".stop_shared()
if tally.passed + tally.failed + tally.skipped == 0 then
  succeeded = false
  say("%s: no spec ran", label)
end
say("%s: %d passed, %d failed, %d skipped", label, tally.passed, tally.failed, tally.skipped)
leave(succeeded and tally.failed == 0)
