-- What one of nginx's workers has in use, without what its allocators keep. Runs in the worker, for the location
-- /in_use of gateway_probe.lua. A worker's resident memory says less: it grows for hundreds of thousands of requests,
-- as LuaJIT compiles ever rarer paths, while all that the program keeps stays the same.

local ffi = require "ffi"

local worker_memory = {}

-- struct mallinfo2 of glibc; its fields are all of one type.
ffi.cdef [[
struct icptoken_mallinfo { size_t fields[10]; };
struct icptoken_mallinfo icptoken_mallinfo2(void) __asm__("mallinfo2");
]]

-- The positions of hblkhd (bytes in blocks of their own) and uordblks (bytes in all other blocks).
local MAPPED, IN_USE = 4, 7

--- Returns the kilobytes that Lua has in use, without compiled code, and those of malloc.
function worker_memory.read()
  jit.flush()
  -- the second collection frees what the finalisers of the first one have released
  collectgarbage()
  collectgarbage()
  local info = ffi.C.icptoken_mallinfo2()
  return math.floor(collectgarbage "count"), math.floor(tonumber(info.fields[MAPPED] + info.fields[IN_USE]) / 1024)
end

return worker_memory
