-- The way to a server: its addresses, connections, and what it answers without TLS. Each step has a time limit.

local process = require "icptoken.cli.process"
local system = require "icptoken.cli.system"

local probe = {}

local HOSTS = "/etc/hosts"
local MAX_BYTES = 64 * 1024
local NOT_FOUND, OTHER_ERROR = 1, 100

--- Whether a host is an address, with or without brackets.
function probe.is_address(host)
  return host:find "^%d+%.%d+%.%d+%.%d+$" ~= nil or host:find("^%[?%x*:[%x:.]*%]?$") ~= nil
end

--- The addresses of a name in the text of a hosts file.
function probe.find_in_hosts(text, host)
  local addresses = {}
  for row in text:gmatch "[^\n]+" do
    local address, names = row:gsub("#.*", ""):match "^%s*(%S+)%s+(.*)$"
    for name in (names or ""):gmatch "%S+" do
      if name:lower() == host:lower() then addresses[#addresses + 1] = address end
    end
  end
  return addresses
end

--- The addresses that the file /etc/hosts has for a name.
function probe.read_hosts(host)
  local file = io.open(HOSTS, "rb")
  if not file then return {} end
  local text = file:read "*a"
  file:close()
  return probe.find_in_hosts(text or "", host)
end

--- The addresses of a host by the system's resolver; or nil and why there are none: "not_found" or "timeout".
function probe.resolve(host, seconds)
  local socket = system.load "sys.socket"
  local status, output = process.call(seconds, function(write)
    local found = socket.getaddrinfo(host, nil, { family = socket.AF_UNSPEC, socktype = socket.SOCK_STREAM })
    if not found then return NOT_FOUND end
    for _, address in ipairs(found) do write(address.addr .. "\n") end
    return 0
  end)
  if status ~= 0 then return nil, status and "not_found" or "timeout" end
  local addresses, seen = {}, {}
  for address in output:gmatch "[^\n]+" do
    if not seen[address] then addresses[#addresses + 1] = address end
    seen[address] = true
  end
  return addresses
end

local function open(address, port)
  local socket = system.load "sys.socket"
  local family = address:find ":" and socket.AF_INET6 or socket.AF_INET
  local descriptor, _, number = socket.socket(family, socket.SOCK_STREAM, 0)
  if not descriptor then return nil, number end
  local ok
  ok, _, number = socket.connect(descriptor, { family = family, addr = address, port = port })
  if not ok then return nil, number end
  return descriptor
end

--- Connects. Returns nil for success, or why it failed: "refused", "unreachable", "timeout" or "error".
function probe.connect(address, port, seconds)
  local errno = system.load "errno"
  local status = process.call(seconds, function()
    local descriptor, number = open(address, port)
    return descriptor and 0 or number == errno.ECONNREFUSED and 2
      or (number == errno.EHOSTUNREACH or number == errno.ENETUNREACH) and 3 or number == errno.ETIMEDOUT and 4
      or OTHER_ERROR
  end)
  local reasons = { [2] = "refused", [3] = "unreachable", [4] = "timeout" }
  if status == 0 then return nil end
  return status and (reasons[status] or "error") or "timeout"
end

--- Sends text without TLS, and returns the bytes that are received within the time.
function probe.exchange(address, port, text, seconds)
  local unistd, socket = system.load "unistd", system.load "sys.socket"
  local _, output = process.call(seconds, function(write)
    local descriptor = open(address, port)
    if not descriptor then return OTHER_ERROR end
    socket.send(descriptor, text)
    local size = 0
    while size < MAX_BYTES do
      local bytes = unistd.read(descriptor, 4096)
      if not bytes or bytes == "" then break end
      write(bytes)
      size = size + #bytes
    end
    return 0
  end)
  return output
end

return probe
