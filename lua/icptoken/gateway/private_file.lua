-- Reads files with secrets: small regular files that only their owner can read.

local ffi = require "ffi"

local private_file = {}

-- fstat's structure differs between architectures, and older versions of glibc do not export it; statx has one layout
-- everywhere (Linux 4.11, glibc 2.28).
ffi.cdef [[
int icptoken_statx(int, const char *, int, unsigned, void *) __asm__("statx");
int icptoken_fileno(void *) __asm__("fileno");
unsigned icptoken_geteuid(void) __asm__("geteuid");
]]

local new_status = ffi.typeof [[
  struct {
    uint32_t mask, block_size, attributes[2], links, uid, gid;
    uint16_t mode, padding[113];
  }
]]
local AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
local TYPE_MODE_AND_UID = 0x1 + 0x2 + 0x8
local FORMAT_BITS, REGULAR, OTHERS_BITS = 0xf000, 0x8000, 0x3f
local MAX_BYTES = 4096

local NOT_REGULAR = "it is not a regular file"

local has_statx = pcall(function() return ffi.C.icptoken_statx end)

-- Returns why the status of a file is not that of a private file, or nil.
local function find_fault(descriptor, path, flags)
  local status = new_status()
  if ffi.C.icptoken_statx(descriptor, path, flags, TYPE_MODE_AND_UID, status) ~= 0 then
    return "its owner and mode cannot be read"
  end
  if bit.band(status.mode, FORMAT_BITS) ~= REGULAR then return NOT_REGULAR end
  if status.uid ~= 0 and status.uid ~= ffi.C.icptoken_geteuid() then
    return "its owner is neither root nor the user who starts nginx"
  end
  if bit.band(status.mode, OTHERS_BITS) ~= 0 then
    return "others than its owner have access to it: chmod 600 the file"
  end
end

-- Reads an open file.
local function read_open(file)
  local fault = find_fault(ffi.C.icptoken_fileno(file), "", AT_EMPTY_PATH)
  if fault then return nil, fault end
  local text = file:read(MAX_BYTES + 1) or ""
  if #text > MAX_BYTES then return nil, ("it is larger than %d bytes"):format(MAX_BYTES) end
  return text
end

--- Returns a message of io.open without the path that it begins with.
function private_file.cut_path(problem, path)
  local beginning = path .. ": "
  return problem:sub(1, #beginning) == beginning and problem:sub(#beginning + 1) or problem
end

--- Reads a file. Returns its text; or nil and what is wrong with it.
function private_file.read(path)
  if not has_statx then return nil, "this system has no statx(), which is needed to check the mode of a file" end
  -- opening a pipe without a writer would wait for one
  if find_fault(AT_FDCWD, path, 0) == NOT_REGULAR then return nil, NOT_REGULAR end
  local file, problem = io.open(path, "rb")
  if not file then return nil, private_file.cut_path(problem, path) end
  local text
  text, problem = read_open(file)
  file:close()
  return text, problem
end

return private_file
