-- Memory that all workers share: rows of numbers, each with one process that writes to it, so that counting needs no
-- lock.
--
-- The rows outlive a reload of nginx's configuration. They are in a file without a name (memfd_create), whose
-- descriptor stays open in the master; the Lua state of the next configuration finds it by its label. So counters never
-- go back, whether an old worker or a new one is scraped. Where that is not possible (another system, another layout),
-- new rows begin at zero.
--
-- A row belongs to a worker of one generation, that is, of one time that nginx read its configuration. The master
-- assigns rows before it starts the workers. It never assigns a row again whose process is running, and none of the
-- generation before, whose workers may not have begun yet. The next owner of a row continues from its numbers.

local ffi = require "ffi"
local key = require "icptoken.gateway.key"
local text = require "icptoken.gateway.text"

local rows = {}
local rows_methods = {}
local rows_meta = { __index = rows_methods }

ffi.cdef [[
void *icptoken_mmap(void *, size_t, int, int, int, long) __asm__("mmap");
int icptoken_munmap(void *, size_t) __asm__("munmap");
int icptoken_memfd_create(const char *, unsigned) __asm__("memfd_create");
int icptoken_ftruncate(int, long) __asm__("ftruncate");
long icptoken_lseek(int, long, int) __asm__("lseek");
long icptoken_readlink(const char *, char *, size_t) __asm__("readlink");
int icptoken_close_descriptor(int) __asm__("close");
int icptoken_probe_process(int, int) __asm__("kill");
]]

local C = ffi.C
local PROT_READ_WRITE = 3
local MAP_SHARED, MAP_ANONYMOUS = 0x01, ffi.os == "Linux" and 0x20 or 0x1000
-- Linux: the descriptor is closed when nginx executes a new binary.
local MFD_CLOEXEC = 1
local SEEK_CUR, SEEK_END = 1, 2
local CELL_BYTES = 8
-- The descriptors among which the file is looked for: those of listening sockets and logs come before it.
local MAX_DESCRIPTOR = 4096

-- The first cells of each row.
local PROCESS, GENERATION, WORKER = 0, 1, 2
local HEAD_CELLS = 3
-- In the head of row 0: the last generation, and how many rows have ever been in use.
local LAST_GENERATION, USED = 0, 1
-- Row 1 is for processes to which no row is assigned: without a worker id, or beyond the last row.
local SHARED_ROW, FIRST_ROW = 1, 2
-- Rows for this many generations of workers that are running at the same time, but at least MIN_ROWS.
local GENERATIONS, MIN_ROWS = 8, 256

local LABEL_BYTES = 16

-- Labels in use by this Lua state: how many there are.
local labels = {}

-- Returns a name for the file of rows with this layout. Two of one configuration never have the same.
local function make_label(name)
  labels[name] = (labels[name] or 0) + 1
  local digest = key.fingerprint { name, labels[name] }:sub(1, LABEL_BYTES)
  return "icptoken-metrics-" .. text.to_hex(digest)
end

-- Returns the descriptor of an open file of this process by its label, or nil.
local function find_file(label)
  local wanted = "/memfd:" .. label
  local target = ffi.new("char[?]", #wanted)
  for descriptor = 3, MAX_DESCRIPTOR do
    -- Most descriptors are closed or sockets, which have no position; to find that out is cheaper than a name is.
    if C.icptoken_lseek(descriptor, 0, SEEK_CUR) >= 0 then
      local length = C.icptoken_readlink("/proc/self/fd/" .. descriptor, target, #wanted)
      if length == #wanted and ffi.string(target, #wanted) == wanted then return descriptor end
    end
  end
end

-- Creates a file. Returns its descriptor, or nil.
local function create_file(label, bytes)
  local descriptor = C.icptoken_memfd_create(label, MFD_CLOEXEC)
  if descriptor < 0 then return nil end
  if C.icptoken_ftruncate(descriptor, bytes) == 0 then return descriptor end
  C.icptoken_close_descriptor(descriptor)
end

-- Returns the descriptor of the file of an earlier configuration, or of a new one; or nil if there are no such files.
local function open_file(label, bytes)
  local descriptor = find_file(label)
  if descriptor and C.icptoken_lseek(descriptor, 0, SEEK_END) == bytes then return descriptor end
  return create_file(label, bytes)
end

local function map(label, bytes)
  local ok, descriptor = pcall(open_file, label, bytes) -- an old libc may lack memfd_create
  local flags = MAP_SHARED
  if not ok or not descriptor then descriptor, flags = -1, MAP_SHARED + MAP_ANONYMOUS end
  local pages = C.icptoken_mmap(nil, bytes, PROT_READ_WRITE, flags, descriptor, 0)
  if ffi.cast("intptr_t", pages) == -1 then error("icptoken.gateway: out of memory for the metrics", 0) end
  return ffi.gc(ffi.cast("double *", pages), function(cells) C.icptoken_munmap(cells, bytes) end)
end

-- Returns the least power of two that is not less. (So a few more workers do not change the layout.)
local function round_up(count)
  return 2 ^ math.ceil(math.log(count) / math.log(2))
end

-- Returns whether a process of this user is running, as all workers are.
local function is_running(pid)
  return pid > 0 and C.icptoken_probe_process(pid, 0) == 0
end

local function get_row(self, index)
  return self.cells + index * self.stride
end

-- Returns whether a row may be assigned.
local function is_free(self, row)
  if row[GENERATION] == 0 then return true end
  return row[GENERATION] < self.generation - 1 and not is_running(row[PROCESS])
end

-- Assigns a row to each worker. Their indices are self.assigned, by worker id.
local function assign(self, workers)
  local index = FIRST_ROW
  for worker = 0, workers - 1 do
    while index < self.count and not is_free(self, get_row(self, index)) do index = index + 1 end
    if index == self.count then return end
    local row = get_row(self, index)
    row[PROCESS], row[GENERATION], row[WORKER] = 0, self.generation, worker
    self.assigned[worker] = index
    self.cells[USED] = math.max(self.cells[USED], index + 1)
    index = index + 1
  end
end

--- Returns the rows of a name. To be called before nginx starts its workers. workers: how many there are. layout: a
-- text that says what the cells mean; rows of another layout are not used. width: cells of a row. Raises if there is no
-- memory.
function rows.open(name, workers, layout, width)
  local stride = HEAD_CELLS + width
  local count = math.max(MIN_ROWS, round_up(GENERATIONS * workers + FIRST_ROW))
  local label = make_label(table.concat({ name, layout, stride, count }, "\0"))
  local self = setmetatable({ cells = map(label, stride * count * CELL_BYTES), stride = stride, count = count,
    workers = workers, assigned = {}, own = nil, generation = 0, sums = ffi.new("double[?]", width) }, rows_meta)
  self.generation = self.cells[LAST_GENERATION] + 1
  self.cells[LAST_GENERATION] = self.generation
  self.cells[USED] = math.max(self.cells[USED], FIRST_ROW)
  self.own = get_row(self, SHARED_ROW) + HEAD_CELLS
  assign(self, workers)
  return self
end

--- Makes the row of a worker, by its id or nil, the one in which this process counts: the cells from self.own on.
-- Returns whether no other process writes to it; and the pid of that worker before, if this process replaces it.
function rows_methods:take(worker)
  local row = get_row(self, self.assigned[worker or -1] or SHARED_ROW)
  local is_own = row[GENERATION] == self.generation and row[WORKER] == worker
  if not is_own then row = get_row(self, SHARED_ROW) end
  local before = is_own and row[PROCESS] > 0 and row[PROCESS] or nil
  if is_own then row[PROCESS] = ngx.worker.pid() end
  self.own = row + HEAD_CELLS
  return is_own, before
end

--- Returns the sum of a cell over all rows.
function rows_methods:total(cell)
  local sum = 0
  for index = SHARED_ROW, self.cells[USED] - 1 do sum = sum + self.cells[index * self.stride + HEAD_CELLS + cell] end
  return sum
end

--- Returns the sums of all cells over all rows, an array that the next call changes.
function rows_methods:sum()
  local sums, width = self.sums, self.stride - HEAD_CELLS
  ffi.fill(sums, width * CELL_BYTES)
  for index = SHARED_ROW, self.cells[USED] - 1 do
    local row = get_row(self, index) + HEAD_CELLS
    for cell = 0, width - 1 do sums[cell] = sums[cell] + row[cell] end
  end
  return sums
end

local function find_next_row(self, index)
  index = index + 1
  if index < self.cells[USED] then return index, get_row(self, index) + HEAD_CELLS end
end

--- Returns an iterator over the rows for the generic `for`: an index, and the cells. (No closure is created for a loop,
-- as LuaJIT compiles none of the code around that.)
function rows_methods:each()
  return find_next_row, self, SHARED_ROW - 1
end

--- Returns the rows of the workers that are running: a list of { cells, worker (id), pid, is_current (of this
-- process's configuration) }.
function rows_methods:list_running()
  local list = {}
  for index = FIRST_ROW, self.cells[USED] - 1 do
    local row = get_row(self, index)
    if is_running(row[PROCESS]) then
      list[#list + 1] = { cells = row + HEAD_CELLS, worker = row[WORKER], pid = row[PROCESS],
        is_current = row[GENERATION] == self.generation }
    end
  end
  return list
end

return rows
