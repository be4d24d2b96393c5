-- A real docker-registry, empty and in memory, that accepts tokens signed by a certificate's key.
local files = require "support.files"
local testkit = require "testkit"

local registry = {}

local START_SECONDS = 300

-- With port 0 the kernel chooses a port; the registry logs which one.
local CONFIGURATION = [[
version: 0.1
log: { level: info, accesslog: { disabled: true } }
storage: { inmemory: {}, delete: { enabled: true } }
http: { addr: "127.0.0.1:0" }
auth:
  token: { realm: "%s", service: %s, issuer: registry-token-issuer, rootcertbundle: "%s" }
]]

local function await_port(pid, log)
  local deadline = testkit.monotonic() + START_SECONDS
  repeat
    local output = files.read(log)
    local port = output:match "listening on 127%.0%.0%.1:(%d+)"
    if port then return port end
    local state = testkit.waitpid(pid, 0.02)
    if state ~= "running" then error("the registry did not start: " .. output, 0) end
  until testkit.monotonic() > deadline
  error("the registry does not listen: " .. files.read(log), 0)
end

--- Starts one, and waits until it listens. options: `realm`, `service`, `certificate` (a path).
-- Returns its `address` ("127.0.0.1:port") and stop(). It dies with this process, too.
function registry.start(options)
  local configuration, log = os.tmpname(), os.tmpname()
  files.write(configuration, CONFIGURATION:format(options.realm, options.service, options.certificate))
  local pid = assert(testkit.spawn { "docker-registry", "serve", configuration, stdin = "/dev/null", stdout = log,
    stderr = log, env = { OTEL_TRACES_EXPORTER = "none", REGISTRY_AUTH_FILE = false } })
  local started = {}

  function started.stop()
    testkit.kill(pid, "KILL")
    testkit.waitpid(pid)
    os.remove(configuration)
    os.remove(log)
  end

  started.address = "127.0.0.1:" .. await_port(pid, log)
  return started
end

return registry
