/* pool.c - a client's kept connections: one curl multi handle and the sockets it opened. */
#include "pool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#if LIBCURL_VERSION_NUM < 0x081400 /* which may run with a newer libcurl */
#define CURLMOPT_QUICK_EXIT ((CURLMoption)(CURLOPTTYPE_LONG + 21))
#endif

static bool record_socket(struct pool *pool, int fd) {
  if (pool->count == pool->capacity) {
    size_t capacity = pool->capacity == 0 ? 8 : pool->capacity * 2;
    int *sockets = realloc(pool->sockets, capacity * sizeof *sockets);
    if (sockets == NULL) return false;
    pool->sockets = sockets;
    pool->capacity = capacity;
  }
  pool->sockets[pool->count++] = fd;
  return true;
}

int pool_address_port(const struct curl_sockaddr *address) {
  if (address->family == AF_INET)
    return ntohs(((const struct sockaddr_in *)(const void *)&address->addr)->sin_port);
  if (address->family == AF_INET6)
    return ntohs(((const struct sockaddr_in6 *)(const void *)&address->addr)->sin6_port);
  return 0;
}

static curl_socket_t open_socket(void *data, curlsocktype purpose, struct curl_sockaddr *address) {
  struct opener *opener = data;
  (void)purpose;
  opener->last_port = pool_address_port(address);
  curl_easy_setopt(opener->easy, CURLOPT_VERBOSE, 1L);
#ifdef SOCK_CLOEXEC
  int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
#else
  int fd = socket(address->family, address->socktype, address->protocol);
  if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
#endif
  if (fd < 0) return CURL_SOCKET_BAD;
  if (record_socket(opener->pool, fd)) return fd;
  close(fd);
  return CURL_SOCKET_BAD;
}

static int close_socket(void *data, curl_socket_t fd) {
  struct pool *pool = data;
  for (size_t i = 0; i < pool->count; i++) {
    if (pool->sockets[i] != fd) continue;
    pool->sockets[i] = pool->sockets[--pool->count];
    break;
  }
  return close(fd);
}

bool pool_open(struct pool *pool) {
  pool->multi = curl_multi_init();
  if (pool->multi == NULL) return false;
  curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, pool->kept);
  curl_multi_setopt(pool->multi, CURLMOPT_MAX_CONCURRENT_STREAMS, pool->kept);
  /* From 8.20 on the lookup threads belong to the multi handle, and freeing it would wait for one
   * that hangs, and in a forked child for one that does not exist. Unknown before. */
  curl_multi_setopt(pool->multi, CURLMOPT_QUICK_EXIT, 1L);
  pool->owner = getpid();
  return true;
}

bool pool_is_foreign(const struct pool *pool) {
  return pool->multi != NULL && pool->owner != getpid();
}

static int open_blind(void) {
  int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  return fd >= 0 ? fd : socket(AF_UNIX, SOCK_STREAM, 0);
}

/* Puts something harmless in the place of each socket, so that nothing libcurl says while it lets
 * go of them reaches the parent's connections. */
static bool blind_sockets(struct pool *pool) {
  if (pool->count == 0) return true;
  int blind = open_blind();
  if (blind < 0) return false;
  bool all = true;
  for (size_t i = 0; i < pool->count; i++) {
    int fd = dup2(blind, pool->sockets[i]);
    if (fd < 0)
      all = false;
    else
      fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  close(blind);
  return all;
}

/* Where the sockets cannot be blinded, losing a little memory is better than cutting the parent's
 * connections. */
static void drop_foreign(struct pool *pool) {
  if (blind_sockets(pool)) {
    curl_multi_cleanup(pool->multi);
  } else {
    for (size_t i = 0; i < pool->count; i++)
      close(pool->sockets[i]);
  }
  pool->multi = NULL;
  pool->count = 0;
}

bool pool_adopt(struct pool *pool) {
  drop_foreign(pool);
  return pool_open(pool);
}

CURLcode pool_attach(struct opener *opener, CURL *easy) {
  opener->easy = easy;
  CURLcode code = curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  if (!code) code = curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, opener);
  if (!code) code = curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  if (!code) code = curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, opener->pool);
  return code;
}

void pool_close(struct pool *pool) {
  if (pool_is_foreign(pool))
    drop_foreign(pool);
  else if (pool->multi != NULL)
    curl_multi_cleanup(pool->multi);
  free(pool->sockets);
  *pool = (struct pool){0};
}
