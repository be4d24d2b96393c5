-- Who is at the other end of a request: an address to tell clients apart by, and whether the connection is still open.

local ffi = require "ffi"
local base = require "resty.core.base"

local client = {}

ffi.cdef [[
struct icptoken_pollfd { int fd; short events; short revents; };
int icptoken_poll(struct icptoken_pollfd *, unsigned long, int) __asm__("poll");
/* how ngx_http_request_t and ngx_connection_t begin */
struct icptoken_connection { void *data, *read, *write; int fd; };
struct icptoken_request { uint32_t signature; struct icptoken_connection *connection; };
]]

-- "HTTP", as nginx marks its requests.
local SIGNATURE = 0x50545448
-- POLLRDHUP of Linux: the peer has closed its side, whatever there may be to read before that. Elsewhere there is none,
-- and nobody is seen to go but by nginx.
local POLLRDHUP = ffi.os == "Linux" and 0x2000 or 0
local POLLERR, POLLHUP, POLLNVAL = 0x08, 0x10, 0x20
local GONE = bit.bor(POLLRDHUP, POLLERR, POLLHUP)
-- More descriptors of one flight are not kept; it then counts as awaited as long as nginx knows of a waiter.
local MAX_DESCRIPTORS = 16
-- A provider gives each of its customers at least this much of an IPv6 address: 64 bits.
local IPV6_BYTES, IPV6_PREFIX_BYTES = 16, 8

local request_pointer = ffi.typeof "struct icptoken_request *"
local polled = ffi.new("struct icptoken_pollfd[?]", MAX_DESCRIPTORS)

--- The client's address, for a request; "" where there is none, as in a timer. source: the name of a variable of nginx,
-- or a function of the user, called through call_user.
function client.find_address(source, call_user)
  local ok, address
  if type(source) == "function" then
    ok, address = call_user("client_address", source)
  else
    ok, address = pcall(function() return ngx.var[source] end)
  end
  if not ok or type(address) ~= "string" then return "" end
  if source == "binary_remote_addr" and #address == IPV6_BYTES then return address:sub(1, IPV6_PREFIX_BYTES) end
  return address
end

--- The descriptor of the connection that the request came by, or nil where there is none.
function client.get_descriptor()
  local request = base.get_request()
  if not request then return nil end
  request = ffi.cast(request_pointer, request)
  if request.signature ~= SIGNATURE or request.connection == nil or request.connection.fd < 0 then return nil end
  return request.connection.fd
end

--- Notes one more descriptor in a list (nil for a waiter without one, who cannot be seen to go).
function client.add_descriptor(descriptors, descriptor)
  if not descriptor or #descriptors == MAX_DESCRIPTORS then
    descriptors.is_partial = true
  else
    descriptors[#descriptors + 1] = descriptor
  end
end

--- Whether the peers of all connections of a list have closed them. A descriptor may have been closed since and stand
-- for another client: then the answer may be false, and it is never true while somebody waits.
function client.are_gone(descriptors)
  local count = #descriptors
  if count == 0 or descriptors.is_partial then return false end
  for i = 1, count do
    polled[i - 1].fd, polled[i - 1].events, polled[i - 1].revents = descriptors[i], POLLRDHUP, 0
  end
  if ffi.C.icptoken_poll(polled, count, 0) < count then return false end
  for i = 0, count - 1 do
    if bit.band(polled[i].revents, GONE) == 0 and polled[i].revents ~= POLLNVAL then return false end
  end
  return true
end

return client
