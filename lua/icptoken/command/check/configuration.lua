-- The configuration: the file, the cluster that it names, and the files that the cluster's options name.

local files = require "icptoken.cli.files"
local line = require "icptoken.command.check.line"
local network = require "icptoken.cli.network"
local output = require "icptoken.cli.output"

local check = {}

local CERTIFICATE = "-----BEGIN "

--- What is wrong with the text of a file with CA certificates, or nil, and what to do.
function check.judge_authority(path, text)
  if text:find(CERTIFICATE, 1, true) then return nil end
  if text:byte(1) == 48 then
    return line.fail("cacert", ("%s is a certificate in DER, and PEM is needed"):format(path),
      ("Run: openssl x509 -inform DER -in %s -out ca.crt"):format(path))
  end
  return line.fail("cacert", ("%s holds no certificate"):format(path),
    "It must begin with -----BEGIN CERTIFICATE-----. ICP's is cfc-certs/router/icp-router.crt of the installation.")
end

local function check_files(options)
  for _, name in ipairs { "cacert", "cert", "key" } do
    local path = options[name]
    local text, message
    if path then text, message = files.read(path) end
    if path and not text then
      return line.fail(name, ("the file of '%s' cannot be read: %s"):format(name, message),
        "Give its path with an option, or in the configuration.")
    end
    local problem = text and name ~= "key" and check.judge_authority(path, text)
    if problem then return problem end
  end
end

--- Checks it.
function check.run(context)
  context:load()
  local problem = check_files(context.chosen.options)
  if problem then return { problem } end
  network.validate(context.chosen)
  local settings, chosen = context.settings, context.chosen
  local source = settings.is_missing and "no file, options only" or settings.path
  return { line.ok(("%s; the cluster is %s%s"):format(source, chosen.endpoint,
    chosen.name and " (" .. output.clean(chosen.name) .. ")" or "")) }
end

return check
