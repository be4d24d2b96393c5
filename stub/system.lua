-- System calls that LuaJIT's libraries do not have, through its ffi: resets, half closes, a port that refuses
-- connections, private directories and files, the descriptor limit. The caller keeps owning the descriptors that it
-- passes.

local ffi = require "ffi"

ffi.cdef [[
typedef struct { int onoff; int seconds; } icp_linger;
typedef struct { unsigned short family; unsigned short port; unsigned char address[4]; char zero[8]; } icp_address;
typedef struct { unsigned long soft; unsigned long hard; } icp_limit;
int setsockopt(int fd, int level, int name, const void *value, unsigned length);
int shutdown(int fd, int how);
long recv(int fd, void *buffer, unsigned long length, int flags);
int socket(int domain, int type, int protocol);
int bind(int fd, const void *address, unsigned length);
int getsockname(int fd, void *address, unsigned *length);
int getrlimit(int resource, icp_limit *limit);
int setrlimit(int resource, const icp_limit *limit);
int close_range(unsigned first, unsigned last, int flags);
unsigned umask(unsigned mask);
char *mkdtemp(char *template);
int mkdir(const char *path, unsigned mode);
int rmdir(const char *path);
char *realpath(const char *path, char *resolved);
void free(void *memory);
int getpid(void);
int SSL_shutdown(void *ssl);
]]

local C = ffi.C
local SOL_SOCKET, SO_LINGER = 1, 13
local SHUT_WR, SHUT_RDWR = 1, 2
local MSG_DONTWAIT, EAGAIN = 0x40, 11
local AF_INET, SOCK_STREAM, SOCK_CLOEXEC = 2, 1, 0x80000
local RLIMIT_NOFILE = 7

local system = {}

--- Returns the library of OpenSSL ("ssl" or "crypto") that luaossl uses.
function system.load_openssl(name)
  local ok, library = pcall(ffi.load, "lib" .. name .. ".so.3")
  return ok and library or ffi.load(name)
end

local libssl = system.load_openssl "ssl"

--- Sends close_notify, which a cqueues socket never does by itself. ssl: luaossl's object, a box of one SSL pointer.
function system.send_close_notify(ssl)
  libssl.SSL_shutdown(ffi.cast("void **", ssl)[0])
end

--- Makes the next close of fd send RST and discard unsent data.
function system.reset_on_close(fd)
  local linger = ffi.new("icp_linger", 1, 0)
  return C.setsockopt(fd, SOL_SOCKET, SO_LINGER, linger, ffi.sizeof(linger)) == 0
end

--- Sends FIN without close_notify.
function system.shut_down(fd)
  C.shutdown(fd, SHUT_RDWR)
end

--- Sends FIN; what the peer sends can still be read.
function system.end_sending(fd)
  C.shutdown(fd, SHUT_WR)
end

local scrap = ffi.new "char[16384]"

--- Discards what has arrived. Returns whether the peer may send more.
function system.discard_arrived(fd)
  local length
  repeat
    length = C.recv(fd, scrap, ffi.sizeof(scrap), MSG_DONTWAIT)
  until length <= 0
  return length < 0 and ffi.errno() == EAGAIN
end

--- Returns a port of 127.0.0.1 that refuses connections while this process runs: it is bound, so that no other process
-- gets it, but does not listen.
function system.reserve_refusing_port()
  local fd = C.socket(AF_INET, SOCK_STREAM + SOCK_CLOEXEC, 0)
  assert(fd >= 0, "cannot make a socket")
  local address = ffi.new("icp_address", AF_INET, 0, { 127, 0, 0, 1 })
  local length = ffi.new("unsigned[1]", ffi.sizeof(address))
  assert(C.bind(fd, address, length[0]) == 0, "cannot bind a socket")
  assert(C.getsockname(fd, address, length) == 0, "cannot name a socket")
  local port = address.port
  return math.floor(port / 256) + port % 256 * 256
end

--- Closes inherited descriptors, which would keep the parent's sockets open.
function system.close_inherited_descriptors()
  pcall(function() C.close_range(3, 0x7fffffff, 0) end)
end

function system.read_process_id()
  return C.getpid()
end

function system.raise_descriptor_limit()
  local limit = ffi.new("icp_limit")
  if C.getrlimit(RLIMIT_NOFILE, limit) == 0 then
    limit.soft = limit.hard
    C.setrlimit(RLIMIT_NOFILE, limit)
  end
end

--- Makes files that are created from now on readable by this user only.
function system.make_files_private()
  C.umask(tonumber("077", 8))
end

function system.make_temporary_directory()
  local template = (os.getenv "TMPDIR" or "/tmp") .. "/icp-stub-" .. ("X"):rep(6) -- as mkdtemp wants it
  local path = ffi.new("char[?]", #template + 1, template)
  assert(C.mkdtemp(path) ~= nil, "cannot make a directory like " .. template)
  return ffi.string(path)
end

--- Creates a directory if it does not exist, and returns its absolute path.
function system.make_directory(path)
  C.mkdir(path, tonumber("700", 8))
  local resolved = C.realpath(path, nil)
  assert(resolved ~= nil, "cannot use the directory " .. path)
  local absolute = ffi.string(resolved)
  C.free(resolved)
  return absolute
end

function system.remove_directory(path)
  C.rmdir(path)
end

return system
