/* testkit: functions for specs that Lua lacks: allocators that fail on demand (Lua's, libcurl's),
   processes, signals, and what the kernel knows of this process. For Linux and all runtimes.
   Not part of icptoken. Between calls it keeps only the counters of libcurl's allocations. */

#include <curl/curl.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#if LUA_VERSION_NUM == 501
#define lua_rawlen lua_objlen
#endif

/* ---- Lua's allocator ---- */

/* Lives on the C stack of the function that installed it, which always regains control from
   lua_pcall and then uninstalls it. */
typedef struct {
  lua_Alloc alloc;
  void *ud;
  lua_Integer fail_from;  /* the first growing allocation that fails, 0 for none */
  lua_Integer collect_at; /* the growing allocation at which the collector may run, 0 for none */
  lua_State *state;       /* whose collector that is */
  lua_Integer count;
  size_t bytes;
} Meter;

static void *meter_alloc(void *ud, void *block, size_t old_size, size_t new_size) {
  Meter *meter = ud;
  /* old_size of a new block is a type tag since 5.2 */
  size_t held = block != NULL ? old_size : 0;
  if (new_size > held) {
    meter->count++;
    if (meter->fail_from > 0 && meter->count >= meter->fail_from) return NULL;
    /* only sets when the next step is due: the step itself is made where Lua allows one */
    if (meter->count == meter->collect_at) lua_gc(meter->state, LUA_GCRESTART, 0);
    meter->bytes += new_size - held;
  }
  return meter->alloc(meter->ud, block, old_size, new_size);
}

/* Calls the function at index 1 with all values above it as arguments, protected and metered.
   Leaves the status as a boolean at index 1 and the results above it. */
static void call_metered(lua_State *L, Meter *meter) {
  int status;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  meter->alloc = lua_getallocf(L, &meter->ud);
  lua_setallocf(L, meter_alloc, meter);
  status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  lua_setallocf(L, meter->alloc, meter->ud);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_pushboolean(L, status == 0);
  lua_insert(L, 1);
}

static lua_Integer check_ordinal(lua_State *L, int index) {
  lua_Integer n = luaL_checkinteger(L, index);
  luaL_argcheck(L, n > 0, index, "counts from 1");
  return n;
}

/* with_failing_lua(n, f, ...): calls f(...) while every growing allocation of Lua from the n-th on
   fails; shrinking and freeing never do. Returns whether the n-th was reached, and then pcall's
   results. */
static int with_failing_lua(lua_State *L) {
  Meter meter = {.fail_from = check_ordinal(L, 1)};
  lua_remove(L, 1);
  call_metered(L, &meter);
  lua_pushboolean(L, meter.count >= meter.fail_from);
  lua_insert(L, 1);
  return lua_gettop(L);
}

/* count_lua(f, ...): calls f(...) and returns how many growing allocations it made, by how many
   bytes they grew, then pcall's results. */
static int count_lua(lua_State *L) {
  Meter meter = {0};
  call_metered(L, &meter);
  lua_pushinteger(L, (lua_Integer)meter.bytes);
  lua_insert(L, 1);
  lua_pushinteger(L, meter.count);
  lua_insert(L, 1);
  return lua_gettop(L);
}

/* with_collecting_lua(n, f, ...): calls f(...) with a collector that is stopped until the n-th
   growing allocation and then makes a whole cycle, finalisers included, as soon as it can. Returns
   whether the n-th was reached, then pcall's results. Create garbage with a finaliser before it. */
static int with_collecting_lua(lua_State *L) {
  Meter meter = {.collect_at = check_ordinal(L, 1), .state = L};
  lua_remove(L, 1);
  lua_gc(L, LUA_GCSTOP, 0);
  call_metered(L, &meter);
  lua_gc(L, LUA_GCRESTART, 0);
  lua_pushboolean(L, meter.count >= meter.collect_at);
  lua_insert(L, 1);
  return lua_gettop(L);
}

/* ---- libcurl's allocator ---- */

/* libcurl has one allocator for the process, and its lookup threads use it, too. */
static atomic_long curl_calls;
static atomic_long curl_countdown;
static atomic_long curl_blocks;
static atomic_long curl_bytes;

static bool curl_must_fail(void) {
  long left = atomic_load(&curl_countdown);
  atomic_fetch_add(&curl_calls, 1);
  while (left > 0) {
    if (atomic_compare_exchange_weak(&curl_countdown, &left, left - 1)) return left == 1;
  }
  return false;
}

static long block_size(void *block) { return block != NULL ? (long)malloc_usable_size(block) : 0; }

static void *count_block(void *block) {
  if (block != NULL) {
    atomic_fetch_add(&curl_blocks, 1);
    atomic_fetch_add(&curl_bytes, block_size(block));
  }
  return block;
}

static void *curl_counted_malloc(size_t size) {
  return curl_must_fail() ? NULL : count_block(malloc(size));
}

static void *curl_counted_calloc(size_t count, size_t size) {
  return curl_must_fail() ? NULL : count_block(calloc(count, size));
}

static char *curl_counted_strdup(const char *text) {
  return curl_must_fail() ? NULL : count_block(strdup(text));
}

static void curl_counted_free(void *block) {
  if (block == NULL) return;
  atomic_fetch_sub(&curl_blocks, 1);
  atomic_fetch_sub(&curl_bytes, block_size(block));
  free(block);
}

static void *curl_counted_realloc(void *block, size_t size) {
  long held = block_size(block);
  void *moved;
  if (block == NULL) return curl_counted_malloc(size);
  if (curl_must_fail()) return NULL;
  moved = realloc(block, size > 0 ? size : 1);
  if (moved != NULL) atomic_fetch_add(&curl_bytes, block_size(moved) - held);
  return moved;
}

/* install_curl_allocator(): makes libcurl use the counting allocator. Call it before anything else
   initialises libcurl; returns false if something did. */
static int install_curl_allocator(lua_State *L) {
  long calls = atomic_load(&curl_calls);
  bool ours = false;
  if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_counted_malloc, curl_counted_free,
                           curl_counted_realloc, curl_counted_strdup, curl_counted_calloc) == 0) {
    /* a second initialisation succeeds and keeps the first allocator: an allocation shows which */
    struct curl_slist *probe = curl_slist_append(NULL, "probe");
    curl_slist_free_all(probe);
    ours = atomic_load(&curl_calls) > calls;
    if (!ours) curl_global_cleanup();
  }
  lua_pushboolean(L, ours);
  return 1;
}

/* with_failing_curl(n, f, ...): calls f(...) while exactly the n-th allocation of libcurl fails.
   Returns whether it was reached, then pcall's results. */
static int with_failing_curl(lua_State *L) {
  lua_Integer n = check_ordinal(L, 1);
  int status;
  bool reached;
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_remove(L, 1);
  atomic_store(&curl_countdown, (long)n);
  status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  reached = atomic_exchange(&curl_countdown, 0) == 0;
  luaL_checkstack(L, 2, NULL);
  lua_pushboolean(L, status == 0);
  lua_insert(L, 1);
  lua_pushboolean(L, reached);
  lua_insert(L, 1);
  return lua_gettop(L);
}

/* default_trust(): the file and the directory of CAs that are built into libcurl; each nil if there
   is none. */
static int default_trust(lua_State *L) {
  char *file = NULL, *directory = NULL;
  CURL *easy = curl_easy_init();
  if (easy == NULL) return luaL_error(L, "curl_easy_init failed");
  curl_easy_getinfo(easy, CURLINFO_CAINFO, &file);
  curl_easy_getinfo(easy, CURLINFO_CAPATH, &directory);
  lua_pushstring(L, file);
  lua_pushstring(L, directory);
  curl_easy_cleanup(easy);
  return 2;
}

/* curl_outstanding(): blocks and bytes that libcurl has not freed. */
static int curl_outstanding(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)atomic_load(&curl_blocks));
  lua_pushinteger(L, (lua_Integer)atomic_load(&curl_bytes));
  return 2;
}

/* ---- processes ---- */

static int push_failure(lua_State *L, const char *what) {
  int error = errno;
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", what, strerror(error));
  lua_pushinteger(L, error);
  return 3;
}

static int push_result(lua_State *L, int result, const char *what) {
  if (result != 0) return push_failure(L, what);
  lua_pushboolean(L, 1);
  return 1;
}

/* valgrind reports the live Lua state of a forked child as leaks and changes its exit status; after
   exec the state is gone. */
static _Noreturn void leave_at_once(int status) {
  if (getenv("ICPTOKEN_VALGRIND") != NULL) {
    char command[32];
    snprintf(command, sizeof command, "exit %d", status);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
  }
  _exit(status);
}

/* Forks; the child dies with its parent. */
static pid_t fork_bound(void) {
  pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) leave_at_once(127);
  }
  return child;
}

/* fork(): the child's pid, and 0 in the child, which should end with _exit. */
static int testkit_fork(lua_State *L) {
  pid_t child;
  fflush(NULL);
  child = fork_bound();
  if (child < 0) return push_failure(L, "fork");
  lua_pushinteger(L, child);
  return 1;
}

/* In the child: opens the file that field `name` of the table at index 1 names, as descriptor fd.
 */
static void child_redirect(lua_State *L, const char *name, int fd, int flags) {
  int file;
  lua_getfield(L, 1, name);
  if (!lua_isnil(L, -1)) {
    file = open(lua_tostring(L, -1), flags, 0600);
    if (file < 0 || dup2(file, fd) < 0) leave_at_once(127);
    if (file != fd) close(file);
  }
  lua_pop(L, 1);
}

/* In the child: sets the variables of the table at the top, and unsets those that are false. */
static void child_set_environment(lua_State *L) {
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    const char *name = lua_tostring(L, -2);
    const char *value = lua_tostring(L, -1);
    int result = value != NULL ? setenv(name, value, 1) : unsetenv(name);
    if (result != 0) leave_at_once(127);
    lua_pop(L, 1);
  }
}

static void check_environment(lua_State *L) {
  if (lua_isnil(L, -1)) return;
  luaL_checktype(L, -1, LUA_TTABLE);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    if (lua_type(L, -2) != LUA_TSTRING ||
        (lua_type(L, -1) != LUA_TSTRING && !(lua_isboolean(L, -1) && !lua_toboolean(L, -1))))
      luaL_error(L, "env: a name must map to a string or false");
    lua_pop(L, 1);
  }
}

/* Returns the list part of the table at index 1 as a C argument vector. The table keeps the strings
   alive; the vector is a userdata on the stack. */
static char **check_arguments(lua_State *L) {
  size_t count = (size_t)lua_rawlen(L, 1);
  char **arguments = lua_newuserdata(L, (count + 1) * sizeof *arguments);
  size_t i;
  luaL_argcheck(L, count > 0, 1, "names no program");
  for (i = 0; i < count; i++) {
    lua_rawgeti(L, 1, (int)i + 1);
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "argument %d is not a string", (int)i + 1);
    arguments[i] = (char *)lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  arguments[count] = NULL;
  return arguments;
}

static int check_signal(lua_State *L, int index) {
  static const char *const names[] = {"HUP",  "INT",  "QUIT", "TERM", "KILL",
                                      "STOP", "CONT", "USR1", NULL};
  static const int numbers[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,
                                SIGKILL, SIGSTOP, SIGCONT, SIGUSR1};
  if (lua_type(L, index) == LUA_TNUMBER) return (int)lua_tointeger(L, index);
  return numbers[luaL_checkoption(L, index, NULL, names)];
}

/* spawn{ program, argument, …, env = { NAME = value or false }, stdin =, stdout =, stderr =,
   death_signal = "KILL" }: starts a program without a shell and returns its pid. If this process
   dies, the program gets the signal. The three are file names; output files are appended to. A
   program that cannot be started exits with 127. Signals that nohup or a shell had this process
   ignore have their default actions in the program. */
static int testkit_spawn(lua_State *L) {
  char **arguments;
  pid_t child;
  int death_signal = SIGKILL;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  arguments = check_arguments(L);
  lua_getfield(L, 1, "death_signal");
  if (!lua_isnil(L, -1)) death_signal = check_signal(L, -1);
  lua_getfield(L, 1, "env");
  check_environment(L);
  fflush(NULL);
  child = fork_bound();
  if (child < 0) return push_failure(L, "fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, death_signal);
    signal(SIGHUP, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGQUIT, SIG_DFL);
    if (lua_istable(L, -1)) child_set_environment(L);
    child_redirect(L, "stdin", STDIN_FILENO, O_RDONLY);
    child_redirect(L, "stdout", STDOUT_FILENO, O_WRONLY | O_CREAT | O_APPEND);
    child_redirect(L, "stderr", STDERR_FILENO, O_WRONLY | O_CREAT | O_APPEND);
    execvp(arguments[0], arguments);
    leave_at_once(127);
  }
  lua_pushinteger(L, child);
  return 1;
}

static double read_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void sleep_for(double seconds) {
  struct timespec left;
  left.tv_sec = (time_t)seconds;
  left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
  while (nanosleep(&left, &left) != 0 && errno == EINTR)
    continue;
}

/* waitpid(pid [, seconds]): how the child ended: "exited" and its status, or "killed" and the
   signal. "running" if it still runs after that many seconds; without them, waits without a limit.
 */
static int testkit_waitpid(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  bool limited = !lua_isnoneornil(L, 2);
  double deadline = limited ? read_clock() + luaL_checknumber(L, 2) : 0;
  int status = 0;
  pid_t ended;
  for (;;) {
    ended = waitpid(pid, &status, limited ? WNOHANG : 0);
    if (ended == pid) break;
    if (ended < 0 && errno != EINTR) return push_failure(L, "waitpid");
    if (limited && read_clock() >= deadline) {
      lua_pushliteral(L, "running");
      return 1;
    }
    if (limited) sleep_for(0.002);
  }
  lua_pushstring(L, WIFEXITED(status) ? "exited" : "killed");
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  return 2;
}

/* kill(pid, signal): the signal by its number, or by one of the names INT, TERM, KILL, STOP, CONT,
   USR1; 0 asks whether the process exists. */
static int testkit_kill(lua_State *L) {
  return push_result(L, kill((pid_t)luaL_checkinteger(L, 1), check_signal(L, 2)), "kill");
}

/* raise(signal): sends this process a signal, named as for kill. */
static int testkit_raise(lua_State *L) {
  return push_result(L, raise(check_signal(L, 1)), "raise");
}

static int testkit_getpid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

/* _exit(status): ends the process at once: no lua_close, no exit handlers. */
static int testkit__exit(lua_State *L) {
  int status = (int)luaL_optinteger(L, 1, 0);
  fflush(NULL);
  leave_at_once(status);
}

/* setenv(name, value) */
static int testkit_setenv(lua_State *L) {
  return push_result(L, setenv(luaL_checkstring(L, 1), luaL_checkstring(L, 2), 1), "setenv");
}

/* unsetenv(name) */
static int testkit_unsetenv(lua_State *L) {
  return push_result(L, unsetenv(luaL_checkstring(L, 1)), "unsetenv");
}

/* monotonic(): seconds, with fractions, on a clock that never jumps. */
static int testkit_monotonic(lua_State *L) {
  lua_pushnumber(L, read_clock());
  return 1;
}

struct thread_job {
  const char *code;
  bool succeeded;
};

static void *run_state(void *data) {
  struct thread_job *job = data;
  lua_State *L = luaL_newstate();
  if (L == NULL) return NULL;
  luaL_openlibs(L);
  job->succeeded = luaL_dostring(L, job->code) == 0;
  if (!job->succeeded) fprintf(stderr, "%s\n", lua_tostring(L, -1));
  lua_close(L);
  return NULL;
}

/* run_in_thread(code): runs a string of Lua in a new state in a new thread, and closes that state.
   Returns whether it raised no error; an error is written to stderr. */
static int run_in_thread(lua_State *L) {
  struct thread_job job = {luaL_checkstring(L, 1), false};
  pthread_t thread;
  if (pthread_create(&thread, NULL, run_state, &job) == 0) pthread_join(thread, NULL);
  lua_pushboolean(L, job.succeeded);
  return 1;
}

typedef void (*ClockShift)(const double seconds[3], bool stop);

/* shift_clocks(wall, monotonic, boottime [, stop]): moves the clocks by that many seconds from
   their true time, and stops them or lets them run. Only where clock_shift.so is preloaded. */
static int shift_clocks(lua_State *L) {
  double seconds[3];
  ClockShift set;
  void *symbol = dlsym(RTLD_DEFAULT, "clock_shift_set");
  int i;
  if (symbol == NULL) return luaL_error(L, "clock_shift.so is not preloaded");
  for (i = 0; i < 3; i++)
    seconds[i] = luaL_checknumber(L, i + 1);
  /* ISO C has no conversion from an object pointer to a function pointer */
  memcpy(&set, &symbol, sizeof set);
  set(seconds, lua_toboolean(L, 4) != 0);
  return 0;
}

/* sleep(seconds): sleeps for the whole time, even if signals arrive. */
static int testkit_sleep(lua_State *L) {
  sleep_for(luaL_checknumber(L, 1));
  return 0;
}

/* mkfifo(path) */
static int testkit_mkfifo(lua_State *L) {
  return push_result(L, mkfifo(luaL_checkstring(L, 1), 0600), "mkfifo");
}

/* ---- from the kernel ---- */

/* resident(): the bytes of resident memory of this process. */
static int testkit_resident(lua_State *L) {
  char line[256] = "";
  char *rest = line;
  FILE *file = fopen("/proc/self/statm", "re");
  if (file == NULL) return push_failure(L, "/proc/self/statm");
  if (fgets(line, sizeof line, file) != NULL) strtol(line, &rest, 10);
  fclose(file);
  lua_pushnumber(L, (lua_Number)strtol(rest, NULL, 10) * (lua_Number)sysconf(_SC_PAGESIZE));
  return 1;
}

static bool is_socket(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

/* heap(): the bytes that were allocated by malloc and not freed. */
static int testkit_heap(lua_State *L) {
  struct mallinfo2 info = mallinfo2();
  size_t bytes = info.uordblks + info.hblkhd;
  lua_pushinteger(L, (lua_Integer)bytes);
  return 1;
}

static bool is_readable(int fd) {
  struct pollfd waiting = {.fd = fd, .events = POLLIN};
  return poll(&waiting, 1, 0) > 0 && (waiting.revents & POLLIN) != 0;
}

/* open_sockets(): a list of { fd =, cloexec = boolean, readable = boolean } of the sockets open in
 * this process. */
static int open_sockets(lua_State *L) {
  int count = 0;
  struct dirent *entry;
  DIR *directory;
  /* an error for lack of memory would leave the directory open; the sweeps never call this */
  directory = opendir("/proc/self/fd");
  if (directory == NULL) return push_failure(L, "/proc/self/fd");
  lua_newtable(L);
  while ((entry = readdir(directory)) != NULL) {
    int fd = (int)strtol(entry->d_name, NULL, 10);
    if (entry->d_name[0] == '.' || !is_socket(fd)) continue;
    lua_newtable(L);
    lua_pushinteger(L, fd);
    lua_setfield(L, -2, "fd");
    lua_pushboolean(L, (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    lua_setfield(L, -2, "cloexec");
    lua_pushboolean(L, is_readable(fd));
    lua_setfield(L, -2, "readable");
    lua_rawseti(L, -2, ++count);
  }
  closedir(directory);
  return 1;
}

/* close_descriptors(first): closes every descriptor from that number on, as daemons do. */
static int close_descriptors(lua_State *L) {
  int first = (int)luaL_checkinteger(L, 1);
  long limit = sysconf(_SC_OPEN_MAX);
  for (int fd = first; fd < limit; fd++)
    close(fd);
  return 0;
}

enum { MAX_LIBRARIES = 256 };

typedef struct {
  const char *names[MAX_LIBRARIES];
  int count;
} Libraries;

static int collect_library(struct dl_phdr_info *info, size_t size, void *data) {
  Libraries *libraries = data;
  (void)size;
  if (strchr(info->dlpi_name, '/') != NULL && libraries->count < MAX_LIBRARIES)
    libraries->names[libraries->count++] = info->dlpi_name;
  return 0;
}

/* pin_libraries(): keeps every loaded library in memory past lua_close, so that a leak report can
   name the functions in it. */
static int pin_libraries(lua_State *L) {
  Libraries libraries = {.count = 0};
  int i;
  (void)L;
  dl_iterate_phdr(collect_library, &libraries);
  for (i = 0; i < libraries.count; i++)
    (void)dlopen(libraries.names[i], RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  return 0;
}

static const luaL_Reg functions[] = {
    {"with_failing_lua", with_failing_lua},
    {"with_collecting_lua", with_collecting_lua},
    {"count_lua", count_lua},
    {"install_curl_allocator", install_curl_allocator},
    {"with_failing_curl", with_failing_curl},
    {"curl_outstanding", curl_outstanding},
    {"default_trust", default_trust},
    {"fork", testkit_fork},
    {"spawn", testkit_spawn},
    {"waitpid", testkit_waitpid},
    {"kill", testkit_kill},
    {"raise", testkit_raise},
    {"getpid", testkit_getpid},
    {"_exit", testkit__exit},
    {"setenv", testkit_setenv},
    {"unsetenv", testkit_unsetenv},
    {"monotonic", testkit_monotonic},
    {"run_in_thread", run_in_thread},
    {"shift_clocks", shift_clocks},
    {"sleep", testkit_sleep},
    {"mkfifo", testkit_mkfifo},
    {"resident", testkit_resident},
    {"heap", testkit_heap},
    {"open_sockets", open_sockets},
    {"close_descriptors", close_descriptors},
    {"pin_libraries", pin_libraries},
    {NULL, NULL},
};

__attribute__((visibility("default"))) int luaopen_testkit(lua_State *L);

int luaopen_testkit(lua_State *L) {
  const luaL_Reg *entry;
  lua_newtable(L);
  for (entry = functions; entry->name != NULL; entry++) {
    lua_pushcfunction(L, entry->func);
    lua_setfield(L, -2, entry->name);
  }
  return 1;
}
