/* exchange.c - fuzzes a whole exchange: the input is all that the endpoint sends, status line,
 * headers and body, and client:fetch makes of it a token or a failure. No network: the socket that
 * libcurl gets is one end of a pair. */
#include <curl/curl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int luaopen_icptoken(lua_State *L);

/* The secret that no message may contain. The dictionary has it, so that answers repeat it. */
#define SECRET "hush-hush-id-token"

static const unsigned char *answer;
static size_t answer_size;
static int peer = -1;

// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): glibc's names are reserved ones

/* Replaces the C library's socket() in this program and in libcurl. The other end of the pair has
 * already sent the answer. */
int socket(int family, int type, int protocol) {
  int pair[2];
  (void)protocol;
  if (family != AF_INET && family != AF_INET6)
    return (int)syscall(SYS_socket, family, type, protocol);
  if (socketpair(AF_UNIX, type, 0, pair) != 0) abort();
  if (peer >= 0) close(peer);
  peer = pair[1];
  if (send(peer, answer, answer_size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && answer_size > 0) abort();
  shutdown(peer, SHUT_WR);
  return pair[0];
}

/* An end of a pair is already connected. */
int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t length) {
  (void)fd;
  (void)address;
  (void)length;
  return 0;
}

// NOLINTEND(readability-inconsistent-declaration-parameter-name)

/* Replaces libcurl's function. After a failed transfer, route.c has libcurl prepare a connection
 * and refuses it, to see whether it would go to a proxy. That takes a tenth of the time, and does
 * not depend on the input. */
CURLcode curl_easy_perform(CURL *curl) {
  (void)curl;
  return CURLE_COULDNT_CONNECT;
}

/* Makes and checks an exchange, over one client for all. */
static const char script[] =
    "local icptoken = ...\n"
    "local client\n"
    "local function visit(value, check)\n"
    "  if type(value) == 'string' then return check(value) end\n"
    "  if type(value) ~= 'table' then return end\n"
    "  for k, v in pairs(value) do visit(k, check) visit(v, check) end\n"
    "end\n"
    "local function check_message(text)\n"
    "  assert(not text:find('%c') and not text:find('" SECRET "', 1, true), text)\n"
    "end\n"
    "return function()\n"
    "  client = client or assert(icptoken.new { url = 'http://127.0.0.1:9/t', id_token = '" SECRET
    "',\n"
    "    retries = 0, timeout = 60, proxy = '', max_body_bytes = 65536 })\n"
    "  local token, message, code, details = client:fetch()\n"
    "  if token then\n"
    "    assert(type(token.token) == 'string' and token.token:find '^[%w%-._~+/]+=*$')\n"
    "    assert(math.type(token.expires_in) == 'integer' and token.expires_in > 0)\n"
    "    assert(token.refresh_at <= token.expires_at)\n"
    "  else\n"
    "    assert(type(code) == 'string' and code ~= 'timeout' and code ~= 'connect', code)\n"
    "    visit(message, check_message)\n"
    "    visit(details, check_message)\n"
    "  end\n"
    "end\n";

/* A state whose only value is the function that makes an exchange. It has only the libraries that
 * the script and the module need, because collecting garbage takes as long as the state is big. */
static lua_State *open_state(void) {
  static const luaL_Reg libraries[] = {{"_G", luaopen_base},
                                       {LUA_LOADLIBNAME, luaopen_package},
                                       {LUA_STRLIBNAME, luaopen_string},
                                       {LUA_MATHLIBNAME, luaopen_math}};
  lua_State *L = luaL_newstate();
  if (L == NULL) abort();
  for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
    lua_pushcfunction(L, libraries[i].func);
    lua_pushstring(L, libraries[i].name);
    lua_call(L, 1, 1);
    lua_setglobal(L, libraries[i].name);
  }
  if (luaL_loadstring(L, script) != 0) abort();
  lua_pushcfunction(L, luaopen_icptoken);
  lua_call(L, 0, 1);
  lua_call(L, 1, 1);
  return L;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  static lua_State *L;
  if (size > 100000) return 0; /* more than a socket holds */
  answer = data;
  answer_size = size;
  if (L == NULL) L = open_state();
  lua_settop(L, 1);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 0, 0, 0) != 0) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
  if (peer >= 0) close(peer);
  peer = -1;
  lua_gc(L, LUA_GCCOLLECT, 0); /* or libFuzzer reports garbage as a leak */
  return 0;
}
