-- A program that runs on and on and always has a good token: it asks its client each time it needs one, and leaves
-- the rest (caching, renewal, an endpoint that is away for a while) to client:token.
--
--   lua5.4 examples/daemon.lua HOST PORT CACERT ID_TOKEN_FILE [SECONDS]
--
-- `make stub` prints what to fill in. Meanwhile, press Ctrl-Z where the stub runs, and later let it go on with `fg`. It
-- needs LuaSocket, and runs for SECONDS or until Ctrl-C.
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

-- Says what has changed since the last line.
local said
local function say(state, text)
  if state ~= said then print(os.date "%H:%M:%S", state, text) end
  said = state
end

-- Here goes what the program is for: requests to the registry with "Authorization: Bearer " .. token.token. When the
-- registry answers 401 all the same, client:invalidate(token.token) has the next call fetch another.
local function work(token)
  return token.token
end

local ends = socket.gettime() + seconds
while socket.gettime() < ends do
  local token, message, source = client:token()
  if token then
    say(source, "good until " .. os.date("%H:%M:%S", token.expires_at))
    work(token)
  else
    say("failed", message) -- nothing valid is left, and there is no new one: the work has to wait
  end
  socket.sleep(token and 0.1 or 0.5)
end
client:close()
