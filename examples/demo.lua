-- Starts the fake ICP that ships with the project, gets a token over verified HTTPS, and shows the answer and the
-- content of the JWT; then how a registry would judge a token that the program icptoken gets. `make demo` runs this,
-- in the root of the project.
package.path = "./?.lua;" .. package.path
local icptoken = require "icptoken"
local stub = require "stub.client"

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function show(value, indent)
  for _, key in ipairs(sorted_keys(value)) do
    local item = value[key]
    if type(item) == "table" then
      print(("%s%s:"):format(indent, key))
      show(item, indent .. "  ")
    else
      local text = tostring(item)
      if #text > 72 then text = text:sub(1, 60) .. ("... (%d characters)"):format(#text) end
      if key == "exp" or key == "iat" or key == "nbf" or tostring(key):find "_at$" and type(item) == "number" then
        text = text .. os.date("!  (%Y-%m-%d %H:%M:%S UTC)", item)
      end
      print(("%s%-12s %s"):format(indent, key, text))
    end
  end
end

local icp = stub.start()
print(("A fake ICP listens at https://localhost:%d; its throwaway CA is %s\n"):format(icp.port, icp.ca))

local client = icptoken.new {
  host = "localhost", port = icp.port, cacert = icp.ca, id_token_file = icp.id_token_file,
  service = "token-service", scope = "repository:default/app:pull",
}
local token, message, code = client:fetch()
if not token then
  icp:stop()
  error(code .. ": " .. message, 0)
end

print "The answer:"
show(token, "  ")
print "\nThe JWT's header and claims (not verified):"
local decoded = assert(icptoken.decode(token.token))
show({ header = decoded.header, claims = decoded.claims }, "  ")
print "\nWhere the time went (seconds from the start):"
local timings = client:stats().timings
for _, name in ipairs { "namelookup", "connect", "appconnect", "starttransfer", "total" } do
  print(("  %-14s %.6f"):format(name, timings[name]))
end

client:close()

-- The same at the command line: the programs in bin/, run by this interpreter.
local function run_command(line)
  print("\n$ " .. line)
  io.stdout:flush()
  local variables = ("export ICPTOKEN_HOST=localhost ICPTOKEN_PORT=%d ICPTOKEN_CACERT='%s' "
    .. "ICPTOKEN_ID_TOKEN_FILE='%s'\n")
    :format(icp.port, icp.ca, icp.id_token_file)
  os.execute(variables .. ("icptoken() { '%s' bin/icptoken \"$@\"; }\n"):format(arg[-1] or "lua") .. line)
end

run_command(("icptoken token default/app | icptoken verify --scope repository:default/app:pull --cert %s"):format(
  icp.token_signing_cert))
icp:stop()
