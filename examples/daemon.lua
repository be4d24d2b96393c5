-- A long-running program that always has a valid token: it calls client:token each time it needs one, which caches and
-- renews the token, and bridges an outage of the endpoint.
--
--   lua5.4 examples/daemon.lua HOST PORT CACERT ID_TOKEN_FILE [SECONDS]
--
-- `make stub` prints the values. For an outage, press Ctrl-Z where the stub runs, and let it continue with `fg`. Needs
-- LuaSocket, and runs for SECONDS or until Ctrl-C.
local icptoken = require "icptoken"
local socket = require "socket"

local host, port, cacert, id_token_file = arg[1], tonumber(arg[2] or ""), arg[3], arg[4]
local seconds = tonumber(arg[5] or math.huge)
if not (host and port and cacert and id_token_file and seconds) then
  io.stderr:write "usage: daemon.lua HOST PORT CACERT ID_TOKEN_FILE [SECONDS]\n"
  os.exit(2)
end
io.stdout:setvbuf "line"

local client = icptoken.new {
  host = host, port = port, cacert = cacert, id_token_file = id_token_file,
  service = "token-service", scope = "repository:default/app:pull",
  timeout = 5,
}

-- Prints a state if it differs from the last one.
local said
local function say(state, text)
  if state ~= said then print(os.date "%H:%M:%S", state, text) end
  said = state
end

-- The program's work: requests to the registry with "Authorization: Bearer " .. token.token. If the registry answers
-- with 401 all the same, client:invalidate(token.token) makes the next call fetch another token.
local function work(token)
  return token.token
end

local deadline = socket.gettime() + seconds
while socket.gettime() < deadline do
  local token, message, source = client:token()
  if token then
    say(source, "valid until " .. os.date("%H:%M:%S", token.expires_at))
    work(token)
  else
    say("failed", message) -- there is no valid token, so the work has to wait
  end
  socket.sleep(token and 0.1 or 0.5)
end
client:close()
