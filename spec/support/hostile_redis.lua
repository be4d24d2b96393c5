-- A server that is not Redis: it answers the first bytes of each connection in one of the ways of BEHAVIOURS. Run as a
-- program, this file is the server, which gets its port as well and prints the time of each connection.

local is_program = arg and arg[0] and arg[0]:find "hostile_redis%.lua$" ~= nil

local CHUNK = ("x"):rep(65536)

-- Sends the same text until the client closes the connection or this many bytes have been sent.
local function flood(connection, text, bytes)
  for _ = 1, math.ceil(bytes / #text) do
    if not connection:write(text) or not connection:flush() then return end
  end
end

local GIGABYTE = 1e9

-- Sends one byte after another, each before a client with a limit of 0.1 s for each read would give up.
local function drip(connection, text)
  for i = 1, #text do
    if not connection:write(text:sub(i, i)) or not connection:flush() then return end
    require "cqueues".sleep(0.02)
  end
end

local function send(text)
  return function(connection)
    connection:write(text)
    return true
  end
end

-- For texts after which the client has to wait for more.
local function send_and_close(text)
  return function(connection) connection:write(text) end
end

local function send_flood(first, text)
  return function(connection)
    connection:write(first)
    flood(connection, text, GIGABYTE)
  end
end

-- How a connection is answered, by name. One that returns true is kept open.
local BEHAVIOURS = {
  -- the control: a valid answer
  good = function(connection)
    connection:write "$2\r\nok\r\n"
    return true
  end,
  silent = function() return true end,
  closed = function() end,
  dripping = function(connection) drip(connection, "$1000\r\n" .. ("x"):rep(1000) .. "\r\n") end,
  http = send "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
  empty_line = send "\r\n\r\n",
  no_kind = send "ok\r\n",
  binary = send "\0\255\0\255\r\n",
  text_of_1_gb = send_flood("$1000000000\r\n", CHUNK),
  text_just_too_long = send_flood("$65537\r\n", CHUNK),
  line_of_1_gb = send_flood("+", CHUNK),
  error_of_1_gb = send_flood("-ERR ", CHUNK),
  header_of_1_gb = send_flood("$", ("1"):rep(65536)),
  array_of_1_gb = send_flood("*1000000000\r\n", (":1\r\n"):rep(16384)),
  array_just_too_long = send("*17\r\n" .. (":1\r\n"):rep(17)),
  deep_arrays = send_flood("*1\r\n", ("*1\r\n"):rep(16384)),
  wide_arrays = send_flood("*16\r\n", ("*16\r\n"):rep(4096)),
  replies_of_1_gb = send_flood("", ("$2\r\nok\r\n"):rep(8192)),
  push = send ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nok\r\n$2\r\nok\r\n",
  map = send "%1\r\n+a\r\n:1\r\n",
  boolean = send "#t\r\n",
  null_of_resp3 = send "_\r\n",
  second_reply = send "$2\r\nok\r\n$2\r\nok\r\n",
  push_after = send "$2\r\nok\r\n>1\r\n+message\r\n",
  text_cut_off = send_and_close "$10\r\nabc",
  text_without_end = send "$2\r\nokXX$2\r\nok\r\n",
  array_cut_off = send_and_close "*2\r\n:1\r\n",
  line_cut_off = send_and_close "+o",
  line_feeds_only = send_and_close "$2\nok\n",
  negative_text = send "$-2\r\n",
  negative_array = send "*-2\r\n",
  hexadecimal_length = send "$0x2\r\nok\r\n",
  spaced_length = send "$ 2\r\nok\r\n",
  fractional_length = send "$2.0\r\nok\r\n",
  no_length = send "$\r\nok\r\n",
  number_without_end = send(":" .. ("9"):rep(40) .. "\r\n"),
  no_number = send ":nan\r\n",
  error_in_array = send "*1\r\n-ERR nested\r\n",
  error_with_control_characters = send "-ERR \27[31m forged\r line\r\n",
}

if is_program then
  package.path = "spec/?.lua;" .. package.path
  local cqueues = require "cqueues"
  local socket = require "cqueues.socket"
  local behaviour = assert(BEHAVIOURS[arg[1]], arg[1])
  local server = socket.listen { host = "127.0.0.1", port = tonumber(arg[2]) }
  assert(server:listen())
  io.stdout:setvbuf "no"
  print "listening"
  local loop, kept = cqueues.new(), {}
  loop:wrap(function()
    for connection in server:clients() do
      print(("connection %.3f"):format(cqueues.monotime()))
      loop:wrap(function()
        connection:setmode("bn", "bn")
        connection:onerror(function(_, _, code) return code end)
        if not connection:read(-65536) then return connection:close() end
        local stays = behaviour(connection)
        connection:flush()
        if stays then
          kept[#kept + 1] = connection
        else
          connection:close()
        end
      end)
    end
  end)
  assert(loop:loop())
  return
end

local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local nginx = require "support.nginx"
local testkit = require "testkit"

local hostile_redis = {}
local server_methods = {}
local server_meta = { __index = server_methods }

local START_SECONDS = 60
local ATTEMPTS = 5

-- These send a valid answer, or take time.
local OTHERS = { good = true, silent = true, dripping = true }

--- Returns the names of the behaviours that fail at once.
function hostile_redis.list()
  local names = {}
  for name in pairs(BEHAVIOURS) do
    if not OTHERS[name] then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

-- Starts the program, and waits until it listens. Returns nil and what it wrote if it does not.
local function launch(self, behaviour)
  self.port = nginx.find_free_port()
  files.write(self.output, "")
  self.pid = assert(testkit.spawn { "luajit", "spec/support/hostile_redis.lua", behaviour, tostring(self.port),
    stdin = "/dev/null", stdout = self.output, stderr = self.output })
  local deadline = testkit.monotonic() + START_SECONDS
  repeat
    if files.read(self.output):find "^listening\n" then return true end
  until testkit.waitpid(self.pid, 0.01) ~= "running" or testkit.monotonic() > deadline
  return nil, files.read(self.output)
end

--- Starts one. Fields: port, which none of the servers before it had.
function hostile_redis.start(behaviour)
  local self = setmetatable({ output = os.tmpname() }, server_meta)
  local problem
  for _ = 1, ATTEMPTS do
    local started
    started, problem = launch(self, behaviour)
    if started then return self end
    if not problem:find "in use" then break end
  end
  self:stop()
  error("the server did not start: " .. problem, 2)
end

--- Waits until this many clients have connected, which may be known later than their answers. Returns the times, in
-- seconds, of all that have.
function server_methods:await_connections(count)
  return gateway_bed.await("connections", function()
    local times = self:list_connections()
    return #times >= count and times
  end)
end

--- The times at which clients connected so far, in seconds.
function server_methods:list_connections()
  local times = {}
  for time in files.read(self.output):gmatch "\nconnection ([%d.]+)" do times[#times + 1] = tonumber(time) end
  return times
end

function server_methods:stop()
  testkit.kill(self.pid, "KILL")
  testkit.waitpid(self.pid)
  os.remove(self.output)
end

return hostile_redis
