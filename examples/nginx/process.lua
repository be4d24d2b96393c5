-- Child processes on Linux, through LuaJIT's ffi: started without a shell, stopped by the kernel if this process dies.

local bit = require "bit"
local cqueues = require "cqueues"
local ffi = require "ffi"

local process = {}

ffi.cdef [[
int demo_fork(void) __asm__("fork");
int demo_getpid(void) __asm__("getpid");
int demo_getppid(void) __asm__("getppid");
int demo_prctl(int, unsigned long, unsigned long, unsigned long, unsigned long) __asm__("prctl");
int demo_open(const char *, int, ...) __asm__("open");
int demo_dup2(int, int) __asm__("dup2");
int demo_setenv(const char *, const char *, int) __asm__("setenv");
int demo_unsetenv(const char *) __asm__("unsetenv");
int demo_execvp(const char *, const char *const *) __asm__("execvp");
void demo_exit(int) __asm__("_exit");
int demo_waitpid(int, int *, int) __asm__("waitpid");
int demo_kill(int, int) __asm__("kill");
]]

local C = ffi.C
local PR_SET_PDEATHSIG = 1
local O_RDONLY, O_WRONLY, O_APPEND = 0, 1, 0x400
local WNOHANG = 1
local CANNOT_START = 127
local WAIT_SECONDS = 0.002

local function redirect(descriptor, path, flags)
  local file = C.demo_open(path, flags)
  if file < 0 or C.demo_dup2(file, descriptor) < 0 then C.demo_exit(CANNOT_START) end
end

-- In the child: becomes the program. Does not return.
local function become(arguments, options, parent)
  C.demo_prctl(PR_SET_PDEATHSIG, options.end_signal, 0, 0, 0)
  if C.demo_getppid() ~= parent then C.demo_exit(CANNOT_START) end -- the parent died before prctl
  for name, value in pairs(options.env) do
    if value then C.demo_setenv(name, value, 1) else C.demo_unsetenv(name) end
  end
  redirect(0, "/dev/null", O_RDONLY)
  redirect(1, options.output, bit.bor(O_WRONLY, O_APPEND))
  redirect(2, options.output, bit.bor(O_WRONLY, O_APPEND))
  local vector = ffi.new("const char *[?]", #arguments + 1, arguments)
  vector[#arguments] = nil
  C.demo_execvp(arguments[1], vector)
  C.demo_exit(CANNOT_START)
end

--- Starts a program.
-- arguments: its name or path, and its arguments. options: output (an existing file, to which its output is appended),
-- env (variables to set, or false to unset one), end_signal (the number of the signal it gets if this process dies).
-- Returns the number of the process, which exits with 127 if the program cannot be started. Raises if fork fails.
function process.start(arguments, options)
  io.stdout:flush()
  local parent = C.demo_getpid()
  local pid = C.demo_fork()
  if pid < 0 then error("fork failed", 2) end
  if pid == 0 then become(arguments, options, parent) end
  return pid
end

--- Returns "exited" and the exit status, or "killed" and the number of the signal; or "running" if the process still
-- runs after this many seconds.
function process.wait(pid, seconds)
  local status = ffi.new "int[1]"
  local deadline = cqueues.monotime() + seconds
  while C.demo_waitpid(pid, status, WNOHANG) ~= pid do
    if cqueues.monotime() >= deadline then return "running" end
    cqueues.sleep(WAIT_SECONDS)
  end
  local signal = bit.band(status[0], 0x7f)
  if signal ~= 0 then return "killed", signal end
  return "exited", bit.band(bit.rshift(status[0], 8), 0xff)
end

--- Sends a signal, by its number.
function process.kill(pid, signal)
  C.demo_kill(pid, signal)
end

--- Stops programs, each with its own signal, and waits `seconds` at most for each. programs: by the number of the
-- process, { name =, end_signal = }. Returns a list that names those that still run.
function process.stop_all(programs, seconds)
  local remaining = {}
  for pid, program in pairs(programs) do
    process.kill(pid, program.end_signal)
    if process.wait(pid, seconds) == "running" then
      remaining[#remaining + 1] = ("%s (process %d)"):format(program.name, pid)
    end
  end
  return remaining
end

return process
