-- Files of these and of other programs: read with a size limit, replaced atomically, locked between processes, and
-- private to the user if they contain secrets.

local failure = require "icptoken.cli.failure"
local system = require "icptoken.cli.system"

local files = {}

local MAX_BYTES = 16 * 1024 * 1024
local PRIVATE_FILE, PRIVATE_DIRECTORY = 384, 448 -- 0600 and 0700
local ENOENT, EEXIST, EINTR = 2, 17, 4

-- luaposix before 36 gives modes as numbers as well; only the lowest nine bits count here.
local function permissions(status)
  return status.st_mode % 512
end

--- The directory of a path.
function files.directory(path)
  local directory = path:match "^(.*)/[^/]*$"
  return directory == "" and "/" or directory or "."
end

--- The whole file, or nil, a message and errno. Needs no luaposix.
function files.read(path, limit)
  local file, message, number = io.open(path, "rb")
  if not file then return nil, message, number end
  limit = limit or MAX_BYTES
  local text, problem, why = file:read(limit + 1)
  file:close()
  if not text then
    if problem then return nil, path .. ": " .. problem, why end
    return ""
  end
  if #text > limit then return nil, ("%s: it has more than %d bytes"):format(path, limit) end
  return text
end

--- lstat of a path: luaposix's table, or nil if there is nothing. Fails if it cannot be determined.
function files.lstat(path)
  local status, message, number = system.load("sys.stat").lstat(path)
  if status or number == ENOENT then return status end
  failure.fail("file", "cannot examine %s", tostring(message))
end

local function check_private(path, status, kind, is_right_kind, allowed, advice)
  local unistd, stat = system.load "unistd", system.load "sys.stat"
  if stat[is_right_kind](status.st_mode) == 0 then failure.fail("file", "%s is not a %s; remove it", path, kind) end
  if status.st_uid ~= unistd.geteuid() then
    failure.fail("file", "%s belongs to another user; it is not used. Remove it", path)
  end
  if permissions(status) ~= allowed then
    failure.fail("file", "%s has the mode %04o, so others may have read or changed it; it is not used. %s", path,
      permissions(status), advice)
  end
end

--- Fails unless the directory is this user's and has the mode 0700. False where it does not exist.
function files.check_private_directory(path)
  local status = files.lstat(path)
  if not status then return false end
  check_private(path, status, "directory", "S_ISDIR", PRIVATE_DIRECTORY,
    ("If nobody else uses this account, run: chmod 700 %s"):format(path))
  return true
end

--- The content of a file that only this user can have written, in such a directory; nil if there is none. Fails
-- if owner or mode are wrong. Nobody else can exchange a file in a directory that passes the check, so the file
-- that is checked is the one that is read.
function files.read_private(path, limit)
  if not files.check_private_directory(files.directory(path)) then return nil end
  local status = files.lstat(path)
  if not status then return nil end
  check_private(path, status, "file", "S_ISREG", PRIVATE_FILE, "Remove it, and log in again: icptoken login")
  local text, message = files.read(path, limit)
  if not text then failure.fail("file", "cannot read %s. Remove it, and log in again: icptoken login", message) end
  return text
end

local function make_directory(path, mode)
  local stat = system.load "sys.stat"
  if stat.stat(path) then return end
  local parent = files.directory(path)
  if parent ~= path then make_directory(parent, PRIVATE_DIRECTORY) end
  local ok, message, number = stat.mkdir(path, mode)
  if ok or number == EEXIST then return end
  failure.fail("file", "cannot make the directory %s", tostring(message))
end

--- Makes a directory with the mode 0700, and those above it, where they are missing.
function files.make_private_directory(path)
  make_directory(path, PRIVATE_DIRECTORY)
end

--- Writes all bytes to a descriptor. Returns true, or nil and a message.
function files.write_all(descriptor, text)
  local unistd = system.load "unistd"
  local position = 1
  while position <= #text do
    local count, message, number = unistd.write(descriptor, text:sub(position, position + 65535))
    if not count then
      if number ~= EINTR then return nil, message end
    else
      position = position + count
    end
  end
  return true
end

-- Writes the text to a new file beside path and renames that one. Fails with a message, and leaves nothing behind.
local function write_beside(path, text, mode)
  local stdlib, unistd, stat = system.load "stdlib", system.load "unistd", system.load "sys.stat"
  local descriptor, temporary, number = stdlib.mkstemp(path .. ".XXXXXX")
  if not descriptor then
    return nil, ("%s: %s"):format(files.directory(path), system.load("errno").errno(number) or tostring(temporary))
  end
  local ok, message = files.write_all(descriptor, text)
  if ok and mode ~= PRIVATE_FILE then ok, message = stat.chmod(temporary, mode) end
  if ok then ok, message = unistd.fsync(descriptor) end
  unistd.close(descriptor)
  if ok then ok, message = os.rename(temporary, path) end
  if not ok then os.remove(temporary) end
  return ok, message
end

--- Replaces a file atomically: however the process ends, the file has the old content or the new one.
-- options: `mode` of a new file (0600), `keep_mode` of one that exists; symbolic links are followed. A device or a pipe
-- is written to.
function files.replace(path, text, options)
  options = options or {}
  local stat = system.load "sys.stat"
  local status = stat.stat(path)
  if status and stat.S_ISREG(status.st_mode) == 0 then
    if stat.S_ISDIR(status.st_mode) ~= 0 then failure.fail("file", "%s is a directory", path) end
    local file, message = io.open(path, "wb")
    if file then
      local ok
      ok, message = file:write(text)
      if ok then ok, message = file:close() end
      if ok then return end
    end
    failure.fail("file", "cannot write to %s: %s", path, tostring(message))
  end
  local target = files.resolve(path)
  local mode = options.keep_mode and status and permissions(status) or options.mode or PRIVATE_FILE
  local ok, message = write_beside(target, text, mode)
  if not ok then failure.fail("file", "cannot write %s: %s", path, tostring(message)) end
end

--- The path that a chain of symbolic links leads to, which need not exist.
function files.resolve(path)
  local unistd, stat = system.load "unistd", system.load "sys.stat"
  local existing = system.load("stdlib").realpath(path)
  if existing then return existing end
  for _ = 1, 40 do
    local status = stat.lstat(path)
    if not status or stat.S_ISLNK(status.st_mode) == 0 then return path end
    local target = assert(unistd.readlink(path))
    path = target:find "^/" and target or files.directory(path) .. "/" .. target
  end
  failure.fail("file", "%s: there are too many symbolic links", path)
end

--- Calls body while no other process has the lock of a file, and returns what it returns. The kernel drops
-- the lock however the process ends. The file stays, empty.
function files.with_lock(path, body)
  local fcntl, unistd = system.load "fcntl", system.load "unistd"
  local descriptor, message = fcntl.open(path, fcntl.O_RDWR + fcntl.O_CREAT + fcntl.O_CLOEXEC, PRIVATE_FILE)
  if not descriptor then failure.fail("file", "cannot make the lock %s", tostring(message)) end
  local lock = { l_type = fcntl.F_WRLCK, l_whence = unistd.SEEK_SET or 0, l_start = 0, l_len = 0 }
  local ok, number
  repeat
    ok, message, number = fcntl.fcntl(descriptor, fcntl.F_SETLKW, lock)
  until ok or number ~= EINTR
  if not ok then
    unistd.close(descriptor)
    failure.fail("file", "cannot lock %s: %s", path, tostring(message))
  end
  local results = { pcall(body) }
  unistd.close(descriptor)
  if not results[1] then error(results[2], 0) end
  return results[2], results[3]
end

return files
