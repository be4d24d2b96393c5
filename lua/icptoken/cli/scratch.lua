-- A directory that is removed when this process ends, however it ends, and whatever program it becomes by exec.
--
-- A second process removes it: it waits for a lock that this process has, which the kernel releases when this process
-- ends. It is in a session of its own, so that a signal to the terminal's processes does not reach it.

local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local system = require "icptoken.cli.system"

local scratch = {}

local SLICE_SECONDS = 0.2

-- A file system in memory if the system has one, else one on disk.
local function list_places()
  return { system.environment "XDG_RUNTIME_DIR", "/dev/shm", system.environment "TMPDIR", "/tmp" }
end

local function make_directory()
  local stdlib = system.load "stdlib"
  local places, problem = list_places(), nil
  for i = 1, 4 do
    local path, message
    if places[i] then path, message = stdlib.mkdtemp(places[i] .. "/icptoken-XXXXXX") end
    if path then return path end
    problem = message or problem
  end
  failure.fail("file", "cannot make a temporary directory: %s", tostring(problem))
end

--- Removes a directory and what is in it; symbolic links are not followed.
function scratch.remove(path)
  local dirent, stat, unistd = system.load "dirent", system.load "sys.stat", system.load "unistd"
  local ok, names = pcall(dirent.dir, path)
  for _, name in ipairs(ok and names or {}) do
    if name ~= "." and name ~= ".." then
      local member = path .. "/" .. name
      local status = stat.lstat(member)
      if status and stat.S_ISDIR(status.st_mode) ~= 0 then
        scratch.remove(member)
      else
        unistd.unlink(member)
      end
    end
  end
  unistd.rmdir(path)
end

-- The kernel's name for a process, because its number alone may be used again. nil if there is no /proc.
local function read_start(pid)
  local text = files.read(("/proc/%d/stat"):format(pid), 4096)
  local fields = text and text:match "%)(.*)$"
  if not fields then return nil end
  local count = 0
  for field in fields:gmatch "%S+" do
    count = count + 1
    if count == 20 then return field end
  end
end

local function is_alive(pid, start)
  local signal = system.load "signal"
  if signal.kill(pid, 0) ~= 0 then return false end
  return read_start(pid) == start
end

local function make_lock(kind)
  local fcntl = system.load "fcntl"
  return { l_type = fcntl[kind], l_whence = 0, l_start = 0, l_len = 0 }
end

local function sleep()
  system.load("time").nanosleep { tv_sec = 0, tv_nsec = SLICE_SECONDS * 1e9 }
end

-- Separates this process from the terminal, and from the process group of the one that started it.
local function detach()
  local fcntl, signal, unistd = system.load "fcntl", system.load "signal", system.load "unistd"
  unistd.setpid "s"
  for _, name in ipairs { "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGPIPE" } do
    signal.signal(signal[name], signal.SIG_IGN)
  end
  local null = fcntl.open("/dev/null", fcntl.O_RDWR)
  for descriptor = 0, 2 do unistd.dup2(null, descriptor) end
end

-- In the second process: waits for the end of the first one.
local function watch(path, lock_path, owner, start)
  local fcntl, unistd = system.load "fcntl", system.load "unistd"
  local descriptor = fcntl.open(lock_path, fcntl.O_RDWR)
  if descriptor then fcntl.fcntl(descriptor, fcntl.F_SETLKW, make_lock "F_WRLCK") end
  -- A program that closes unknown descriptors, as sudo does, has released the lock; and a lock may fail.
  while is_alive(owner, start) do sleep() end
  scratch.remove(path)
  unistd._exit(0)
end

--- Calls body with the path of a directory (mode 0700) that is removed when it returns or raises, and returns what it
-- returns. For files without secrets: if this process is killed, the directory stays.
function scratch.with_directory(body)
  local path = make_directory()
  local ok, result, message = pcall(body, path)
  scratch.remove(path)
  if not ok then error(result, 0) end
  return result, message
end

-- In a child of the first process, which waits for it: starts the second one, which must not be a child of the program
-- that the first one becomes. It is detached before the first one can write a secret into the directory.
local function start_watcher(...)
  local unistd = system.load "unistd"
  detach()
  local watcher = unistd.fork()
  if watcher == 0 then watch(...) end
  return watcher ~= nil
end

--- Makes the directory. Returns its path.
function scratch.make()
  local fcntl, unistd = system.load "fcntl", system.load "unistd"
  for _, name in ipairs { "dirent", "sys.stat", "signal", "time", "sys.wait" } do system.load(name) end
  local path = make_directory()
  local lock_path = path .. "/.lock"
  -- kept open on purpose, also by the program that this process becomes
  local descriptor = fcntl.open(lock_path, fcntl.O_RDWR + fcntl.O_CREAT, 384)
  local ok = descriptor and fcntl.fcntl(descriptor, fcntl.F_SETLK, make_lock "F_WRLCK")
  local owner = unistd.getpid()
  local start = read_start(owner)
  local child = ok and unistd.fork()
  if child == 0 then
    local is_called, is_started = pcall(start_watcher, path, lock_path, owner, start)
    unistd._exit(is_called and is_started and 0 or 1)
  end
  if not child or require("icptoken.cli.process").wait(child) ~= 0 then
    scratch.remove(path)
    failure.fail("process", "cannot start a process that removes %s at the end", path)
  end
  return path
end

return scratch
