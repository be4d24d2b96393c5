-- The client at the other end of a request: an address that tells it from others, and whether its connection is open.

local ffi = require "ffi"
local base = require "resty.core.base"
local clock = require "icptoken.gateway.clock"
local guard = require "icptoken.gateway.guard"
local log = require "icptoken.gateway.log"

local client = {}

ffi.cdef [[
struct icptoken_pollfd { int fd; short events; short revents; };
int icptoken_poll(struct icptoken_pollfd *, unsigned long, int) __asm__("poll");
/* the first fields of ngx_http_request_t and ngx_connection_t */
struct icptoken_connection { void *data, *read, *write; int fd; };
struct icptoken_request { uint32_t signature; struct icptoken_connection *connection; };
]]

-- "HTTP", the signature of ngx_http_request_t.
local SIGNATURE = 0x50545448
-- POLLRDHUP (Linux): the peer has closed its side, even if there is unread data. On other systems only nginx notices
-- that a client has disconnected.
local POLLRDHUP = ffi.os == "Linux" and 0x2000 or 0
local POLLERR, POLLHUP, POLLNVAL = 0x08, 0x10, 0x20
local GONE = bit.bor(POLLRDHUP, POLLERR, POLLHUP)
-- No more descriptors of one flight are kept; beyond that only nginx tells whether a client still waits.
local MAX_DESCRIPTORS = 16
-- Providers assign at least a /64 to each customer, so clients are told apart by that prefix.
local IPV6_BYTES, IPV6_PREFIX_BYTES = 16, 8

-- At most one line in the log in this time.
local NO_ADDRESS_SECONDS = 60
local NO_ADDRESS = "option 'client_address' has no value for a request, so the address of its connection is used: "
  .. "check that the variable exists, and that its header is set for every request"

local request_pointer = ffi.typeof "struct icptoken_request *"
local polled = ffi.new("struct icptoken_pollfd[?]", MAX_DESCRIPTORS)

-- Returns the address of the current request's client; nil if the source has no value for it. source: the name of an
-- nginx variable, or a function of the user.
local function read_address(source)
  local ok, address
  if type(source) == "function" then
    ok, address = guard.call_option("client_address", source)
  else
    ok, address = pcall(function() return ngx.var[source] end)
  end
  if not ok or type(address) ~= "string" or address == "" then return nil end
  if source == "binary_remote_addr" and #address == IPV6_BYTES then return address:sub(1, IPV6_PREFIX_BYTES) end
  return address
end

--- Returns the address that tells the current request's client from others; "" if there is none, as in a timer. nginx
-- does not limit requests with an empty key, so if the option has no value (a misspelt name, a missing header), the
-- address of the connection counts. settings: target and the option client_address. store: see store.lua.
function client.find_address(settings, store)
  local address = read_address(settings.client_address)
  if address then return address end
  address = read_address "binary_remote_addr"
  if not address then return "" end
  if store:is_first("a" .. settings.target.key, NO_ADDRESS_SECONDS) then log.write(ngx.WARN, NO_ADDRESS) end
  return address
end

--- Returns the descriptor of the current request's connection, or nil if there is none.
function client.get_descriptor()
  local request = base.get_request()
  if not request then return nil end
  request = ffi.cast(request_pointer, request)
  if request.signature ~= SIGNATURE or request.connection == nil or request.connection.fd < 0 then return nil end
  return request.connection.fd
end

--- Adds a descriptor to a list (nil for a waiter without one, whose disconnection cannot be noticed).
function client.add_descriptor(descriptors, descriptor)
  if not descriptor or #descriptors == MAX_DESCRIPTORS then
    descriptors.is_partial = true
  else
    descriptors[#descriptors + 1] = descriptor
  end
end

--- Returns whether the peers of all connections in a list have closed them. A descriptor may have been closed and
-- reused for another client since; then the result may be false, but it is never true while a client waits.
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

-- Numbers the ids of token requests that no request of a client has caused.
local sequence = 0

--- Returns an id of the current request, the same each time: nginx's $request_id; in a timer, which has none, a new one
-- of the same form.
function client.find_request_id()
  if ngx.get_phase() ~= "timer" then return ngx.var.request_id end
  sequence = sequence + 1
  return ngx.md5(("%d %d %.9f %.17g"):format(ngx.worker.pid(), sequence, clock.now(), math.random()))
end

return client
