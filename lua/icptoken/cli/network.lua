-- The only file that loads the module icptoken, and with it libcurl: everything that needs the network goes through it.

local cluster = require "icptoken.cli.cluster"
local failure = require "icptoken.cli.failure"
local output = require "icptoken.cli.output"
local system = require "icptoken.cli.system"

local network = {}
local unpack = table.unpack or unpack

-- A call that takes longer than this is reported while it runs, if standard error is a terminal.
local QUIET_SECONDS = 1

--- The module icptoken.
function network.load_module()
  local ok, module = pcall(require, "icptoken")
  if ok and type(module) == "table" then return module end
  failure.fail("missing_library", "the module icptoken does not load in %s: %s", _VERSION,
    (tostring(module):gsub("\n.*", "")))
end

-- Calls body, and meanwhile shows on one line of the terminal what it waits for. The module lets hooks run about
-- four times a second while it waits.
local function with_progress(chosen, body)
  if not output.is_capable() then return pcall(body) end
  local started, shown = os.time(), nil
  local columns
  debug.sethook(function()
    local seconds = os.time() - started
    if seconds <= QUIET_SECONDS or seconds == shown then return end
    shown = seconds
    columns = columns or output.count_columns()
    output.redraw(("waiting for %s: %d s"):format(chosen.endpoint, seconds):sub(1, columns - 1))
  end, "c")
  local results = { pcall(body) }
  debug.sethook()
  if shown then output.redraw "" end
  return unpack(results, 1, 5)
end

-- The module raises an error for options that it does not accept.
local function fail_with_options(problem)
  if type(problem) ~= "string" or problem:find "interrupted!$" then error(problem, 0) end
  failure.usage("configuration", "%s", problem:match "bad argument #%d+ to '[^']*' %((.*)%)$" or problem)
end

local function call(chosen, body)
  system.restore_interrupt()
  local ok, result, message, code, details = with_progress(chosen, body)
  if not ok then fail_with_options(result) end
  return result, message, code, details
end

-- The caller adds the options of the credential.
local function copy_options(options, credential)
  local copy = {}
  for name, value in pairs(options) do copy[name] = value end
  copy.id_token_file = nil
  for name, value in pairs(credential) do copy[name] = value end
  return copy
end

--- A new token from the cluster's endpoint. credential: { id_token = } or { id_token_file = }. request: `service`,
-- `scope`, … Returns the token table, or nil, message, code, details.
function network.fetch(chosen, credential, request)
  local module = network.load_module()
  return call(chosen, function()
    local client = module.new(copy_options(chosen.options, credential))
    local token, message, code, details = client:fetch(request)
    if output.verbose then
      local timings = client:stats().timings
      output.trace("token endpoint: %s, %.0f ms", token and "a token" or code, (timings and timings.total or 0) * 1000)
    end
    client:close()
    return token, message, code, details
  end)
end

--- Fails if the module does not accept the cluster's options.
function network.validate(chosen)
  local module = network.load_module()
  call(chosen, function() module.new(copy_options(chosen.options, { anonymous = true })):close() end)
end

--- A new token as fetch returns it; fails if there is none. hint: what to do if the credential is refused.
function network.fetch_or_fail(chosen, credential, request, hint)
  local token, message, code, details = network.fetch(chosen, credential, request)
  if token then return token end
  local is_credential = code == "unauthorized" or code == "invalid_credential"
  failure.raise_result(message, code, details, is_credential and hint or nil)
end

--- Logs in at the cluster's identity provider. Returns its answer, or nil, message, code, details.
function network.login(chosen, username, password)
  local module = network.load_module()
  local options = cluster.login_options(chosen)
  options.username, options.password = username, password
  return call(chosen, function() return module.login(options) end)
end

return network
