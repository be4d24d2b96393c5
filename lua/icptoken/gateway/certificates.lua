-- When the certificates in a PEM file expire. Only as much of DER (ITU-T X.690) and of a certificate (RFC 5280 section
-- 4.1) is read as leads to the end of its validity.

local ffi = require "ffi"

local certificates = {}

ffi.cdef [[int icptoken_statx(int, const char *, int, unsigned, void *) __asm__("statx");]]

local byte, sub = string.byte, string.sub

-- Tags of DER.
local INTEGER, SEQUENCE, UTC_TIME, GENERALIZED_TIME, VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0
-- Larger files are not read.
local MAX_FILE_BYTES = 4 * 1024 * 1024
-- Linux: see statx(2). The struct is the same on all machines.
local AT_FDCWD, STATX_BASIC_STATS, STATX_BYTES = -100, 0x7FF, 256
local S_IFMT, S_IFREG = 0xF000, 0x8000

local file_status = ffi.typeof [[
  struct {
    uint32_t mask, block_bytes; uint64_t attributes; uint32_t links, user, group; uint16_t mode, spare;
    uint64_t inode, bytes, blocks, attributes_mask;
    struct { int64_t seconds; uint32_t nanoseconds; int32_t reserved; } accessed, created, changed, modified;
    unsigned char rest[128];
  }
]]
assert(ffi.sizeof(file_status) == STATX_BYTES)

-- Reads the element of a text at a position. Returns its tag, the position of its contents, and that behind it; or nil.
local function read_element(text, position)
  local tag, length = byte(text, position, position + 1)
  if not length then return nil end
  local first = position + 2
  if length >= 0x80 then
    local count = length - 0x80
    if count < 1 or count > 4 or first + count - 1 > #text then return nil end
    length = 0
    for i = first, first + count - 1 do length = length * 256 + byte(text, i) end
    first = first + count
  end
  if first + length - 1 > #text then return nil end
  return tag, first, first + length
end

-- Returns the position behind an element with this tag, or nil if there is another one.
local function skip(text, position, wanted)
  local tag, _, behind = read_element(text, position or 0)
  return tag == wanted and behind or nil
end

-- Returns the days from 1970-01-01 to a date of the Gregorian calendar.
local function count_days(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  local years = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  return years + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

-- Returns a time (RFC 5280 section 4.1.2.5) in seconds since 1970, or nil.
local function read_time(tag, text)
  local year, rest
  if tag == UTC_TIME then
    year, rest = text:match "^(%d%d)(%d+)Z$"
    year = year and tonumber(year) + (tonumber(year) < 50 and 2000 or 1900)
  elseif tag == GENERALIZED_TIME then
    year, rest = text:match "^(%d%d%d%d)(%d+)Z$"
  end
  local month, day, hour, minute, second = (rest or ""):match "^(%d%d)(%d%d)(%d%d)(%d%d)(%d%d)$"
  if not month then return nil end
  local days = count_days(tonumber(year), tonumber(month), tonumber(day))
  return ((days * 24 + tonumber(hour)) * 60 + tonumber(minute)) * 60 + tonumber(second)
end

-- Returns the position of the validity in a certificate, or nil.
local function find_validity(der)
  local tag, position = read_element(der, 1)
  if tag ~= SEQUENCE then return nil end
  tag, position = read_element(der, position) -- tbsCertificate
  if tag ~= SEQUENCE then return nil end
  position = skip(der, position, VERSION) or position
  position = skip(der, position, INTEGER)                     -- serialNumber
  position = position and skip(der, position, SEQUENCE)       -- signature
  return position and skip(der, position, SEQUENCE)           -- issuer
end

--- Returns when a certificate in DER expires, in seconds since 1970, or nil if the text is not one.
function certificates.read_expiry(der)
  local position = find_validity(der)
  if not position then return nil end
  local tag, first = read_element(der, position)
  if tag ~= SEQUENCE then return nil end
  local _, _, behind = read_element(der, first) -- notBefore
  if not behind then return nil end
  local kind, from, to = read_element(der, behind)
  return kind and read_time(kind, sub(der, from, to - 1))
end

-- Returns a list of when the certificates in a PEM text expire, in seconds since 1970.
local function list_expiries(pem)
  local list = {}
  for body in pem:gmatch "%-%-%-%-%-BEGIN [%u ]*CERTIFICATE%-%-%-%-%-(.-)%-%-%-%-%-END" do
    local der = ngx.decode_base64((body:gsub("%s", "")))
    list[#list + 1] = der and certificates.read_expiry(der)
  end
  return list
end

--- Returns when the first of the certificates in a PEM text expires, in seconds since 1970, or nil if there is none.
function certificates.find_first_expiry(pem)
  local list = list_expiries(pem)
  return list[1] and math.min(unpack(list))
end

--- Returns when the next of the certificates in a PEM text expires, in seconds since 1970: the first that has not
-- expired at a time (now), or if all have, the last. (During the change of a CA its file has the old one and the new.)
-- Returns nil if there is none.
function certificates.find_next_expiry(pem, now)
  local next_expiry, last
  for _, expiry in ipairs(list_expiries(pem)) do
    if expiry > now then next_expiry = math.min(next_expiry or expiry, expiry) end
    last = math.max(last or expiry, expiry)
  end
  return next_expiry or last
end

local has_statx, statx = pcall(function() return ffi.C.icptoken_statx end) -- an old libc may lack it
local last_status = file_status()

-- Reads the status of a regular file into last_status. Returns false if there is none, or it may be a pipe, which must
-- not be read here.
local function find_file(path)
  return has_statx and statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, last_status) == 0
    and bit.band(last_status.mode, S_IFMT) == S_IFREG and last_status.bytes <= MAX_FILE_BYTES
end

-- Returns whether a file has changed between two statuses.
local function is_changed(one, other)
  return one.inode ~= other.inode or one.bytes ~= other.bytes or one.modified.seconds ~= other.modified.seconds
    or one.modified.nanoseconds ~= other.modified.nanoseconds
end

local function read_file(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a"
  if file then file:close() end
  return text
end

-- The files that were read: by path { status, expiry, checked_at }.
local files = {}

-- Times are computed again this often, as one of several certificates may have expired meanwhile.
local CHECK_SECONDS = 3600

--- Does the same for a file, which is read again only if it has changed. Returns nil if it cannot be read.
function certificates.find_next_expiry_in(path, now)
  if not find_file(path) then return nil end
  local file = files[path]
  if file and now - file.checked_at < CHECK_SECONDS and (file.expiry or 0) > now
    and not is_changed(file.status, last_status) then
    return file.expiry
  end
  local text = read_file(path)
  if not text then return nil end
  file = { status = file_status(last_status), checked_at = now, expiry = certificates.find_next_expiry(text, now) }
  files[path] = file
  return file.expiry
end

return certificates
