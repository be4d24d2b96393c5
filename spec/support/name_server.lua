-- A DNS server that has the address 127.0.0.1 for every name, or one that never answers. Run as a program, this file is
-- the server, which prints its port.

local ANSWER = "\192\12\0\1\0\1\0\0\0\1\0\4\127\0\0\1" -- the name of the question, A, IN, 1 s, 4 bytes

if arg and arg[0] and arg[0]:find "name_server%.lua$" then
  local udp = require "socket".udp()
  assert(udp:setsockname("127.0.0.1", 0))
  local _, port = udp:getsockname()
  print(port)
  io.stdout:flush()
  while true do
    local query, address, client_port = udp:receivefrom()
    if query and #query > 16 and arg[1] == "answers" then
      -- the question without what follows it: a name of labels, the type, the class
      local last = query:find("\0", 13, true) + 4
      local is_a = query:sub(last - 3, last - 2) == "\0\1"
      udp:sendto(query:sub(1, 2) .. "\129\128\0\1\0" .. (is_a and "\1" or "\0") .. "\0\0\0\0" .. query:sub(13, last)
        .. (is_a and ANSWER or ""), address, client_port)
    end
  end
end

local files = require "support.files"
local testkit = require "testkit"

local name_server = {}

local START_SECONDS = 60

--- Starts one. behaviour: "answers" or "silent". Returns { port, stop }.
function name_server.start(behaviour)
  local output = os.tmpname()
  local pid = assert(testkit.spawn { "luajit", "spec/support/name_server.lua", behaviour, stdin = "/dev/null",
    stdout = output, stderr = output })
  local self = {}
  function self.stop()
    testkit.kill(pid, "KILL")
    testkit.waitpid(pid)
    os.remove(output)
  end
  local deadline = testkit.monotonic() + START_SECONDS
  repeat
    self.port = tonumber(files.read(output):match "^(%d+)\n")
    if self.port then return self end
  until testkit.waitpid(pid, 0.01) ~= "running" or testkit.monotonic() > deadline
  local text = files.read(output)
  self.stop()
  error("the name server did not start: " .. text, 2)
end

return name_server
