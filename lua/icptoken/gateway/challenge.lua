-- Replaces the WWW-Authenticate of an answer from upstream.
--
-- Assigning to ngx.header does that, except in the first three release candidates of ngx_lua 0.10.31 (OpenResty
-- 1.29.2.4 and 1.29.2.5 contain the second): they look for the header in nginx's own list of challenges
-- (headers_out.www_authenticate), to which nginx does not add those of an upstream, so they remain. ngx_lua finds other
-- headers by name. So in those versions the upstream's challenges are renamed in place to such a header, which is then
-- cleared.

local ffi = require "ffi"
local base = require "resty.core.base"
require "resty.core.response" -- declares ngx_http_lua_ffi_get_resp_header

local challenge = {}

local NAME = "WWW-Authenticate"
local UNKNOWN_NAME = "Xxx-Authenticate" -- has the same length
local MAX_VALUES = 100

local lower_name = NAME:lower() .. "\0"
local new_values = ffi.typeof "ngx_http_lua_ffi_str_t[?]"
local bytes = ffi.typeof "unsigned char *"

-- Returns a pointer to the name of the header with this value, or nil. nginx's proxy module stores a header as name,
-- NUL, value, NUL in one buffer. What precedes the value is read backwards only to the first difference from the name.
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

-- Assigns the header, or clears it (nil). Returns whether the answer now has it once, or not at all.
local function assign(value)
  ngx.header[NAME] = value
  local present = ngx.header[NAME]
  return type(present) == (value and "string" or "nil")
end

--- Makes a value the only WWW-Authenticate of the answer; nil removes it. To be called in header_filter_by_lua. If
-- nginx stores the upstream's header in an unknown form, nginx's own answer for the status is sent instead, and header
-- filters run again.
function challenge.replace(value)
  if assign(value) then return end
  clear_from_upstream()
  if not assign(value) then ngx.exit(ngx.status) end
end

return challenge
