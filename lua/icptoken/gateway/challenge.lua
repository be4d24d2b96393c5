-- Replaces the WWW-Authenticate of an answer from upstream.
--
-- Assigning to ngx.header does that, but not in ngx_lua 0.10.30: it looks for the header in nginx's own list of
-- challenges (headers_out.www_authenticate), on which nginx does not put those of an upstream, so they stay (fixed in
-- 0.10.31). Headers that ngx_lua has no list for are found by their names. So where that happens, the challenges from
-- upstream are renamed in place to such a header, which is then cleared.

local ffi = require "ffi"
local base = require "resty.core.base"
require "resty.core.response" -- declares ngx_http_lua_ffi_get_resp_header

local challenge = {}

local NAME = "WWW-Authenticate"
local UNKNOWN_NAME = "Xxx-Authenticate" -- of the same length
local MAX_VALUES = 100

local lower_name = NAME:lower() .. "\0"
local new_values = ffi.typeof "ngx_http_lua_ffi_str_t[?]"
local bytes = ffi.typeof "unsigned char *"

-- Where the name of the header stands whose value this is, or nil. nginx's proxy module keeps a header as name, NUL,
-- value, NUL, one behind the other. What precedes any other value is read no further than to the first difference.
local function find_name(value)
  local name = ffi.cast(bytes, value.data) - #lower_name
  for i = #lower_name, 1, -1 do
    local byte = name[i - 1]
    if byte >= 0x41 and byte <= 0x5a then byte = byte + 0x20 end
    if byte ~= lower_name:byte(i) then return nil end
  end
  return name
end

local function clear_from_upstream()
  local values = new_values(MAX_VALUES)
  local count = ffi.C.ngx_http_lua_ffi_get_resp_header(base.get_request(), NAME, #NAME, ffi.new("char[?]", #NAME),
    values, MAX_VALUES, base.get_errmsg_ptr())
  for i = 0, count - 1 do
    local name = find_name(values[i])
    if name then ffi.copy(name, UNKNOWN_NAME, #UNKNOWN_NAME) end
  end
  ngx.header[UNKNOWN_NAME] = nil
end

-- Assigns the header, or clears it (nil). Returns whether it now is on the answer once, or not at all.
local function assign(value)
  ngx.header[NAME] = value
  local present = ngx.header[NAME]
  return type(present) == (value and "string" or "nil")
end

--- Makes a value the only WWW-Authenticate of the answer; nil for none. For header_filter_by_lua. Where nginx keeps
-- the upstream's in another form, nginx's own answer for the status goes out instead, and header filters run again.
function challenge.replace(value)
  if assign(value) then return end
  clear_from_upstream()
  if not assign(value) then ngx.exit(ngx.status) end
end

return challenge
