/* pool.c - a client's connections: one curl multi handle and the sockets it opened. */
#include "pool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#if LIBCURL_VERSION_NUM < 0x081400 /* which may run with a newer libcurl */
#define CURLMOPT_QUICK_EXIT ((CURLMoption)(CURLOPTTYPE_LONG + 21))
#endif

static struct pool_socket describe_socket(int fd) {
  struct pool_socket described = {.fd = fd};
  struct stat status;
  if (fstat(fd, &status) == 0) {
    described.device = status.st_dev;
    described.inode = status.st_ino;
  }
  return described;
}

static bool is_ours(const struct pool_socket *recorded) {
  struct stat status;
  return fstat(recorded->fd, &status) == 0 && S_ISSOCK(status.st_mode) &&
         status.st_dev == recorded->device && status.st_ino == recorded->inode;
}

static int close_recorded(const struct pool_socket *recorded) {
  return recorded->blind || is_ours(recorded) ? close(recorded->fd) : 0;
}

/* libcurl closes a socket without the callback when it abandons a connection that is not
 * established yet. This removes the records of such sockets, before their numbers are reused. */
static void forget_closed(struct pool *pool) {
  size_t kept = 0;
  for (size_t i = 0; i < pool->count; i++)
    if (is_ours(&pool->sockets[i])) pool->sockets[kept++] = pool->sockets[i];
  pool->count = kept;
}

static bool record_socket(struct pool *pool, int fd) {
  forget_closed(pool);
  if (pool->count == pool->capacity) {
    size_t capacity = pool->capacity == 0 ? 8 : pool->capacity * 2;
    struct pool_socket *sockets = realloc(pool->sockets, capacity * sizeof *sockets);
    if (sockets == NULL) return false;
    pool->sockets = sockets;
    pool->capacity = capacity;
  }
  pool->sockets[pool->count++] = describe_socket(fd);
  return true;
}

int pool_address_port(const struct curl_sockaddr *address) {
  if (address->family == AF_INET)
    return ntohs(((const struct sockaddr_in *)(const void *)&address->addr)->sin_port);
  if (address->family == AF_INET6)
    return ntohs(((const struct sockaddr_in6 *)(const void *)&address->addr)->sin6_port);
  return 0;
}

static int new_socket(int family, int type, int protocol) {
#ifdef SOCK_CLOEXEC
  return socket(family, type | SOCK_CLOEXEC, protocol);
#else
  int fd = socket(family, type, protocol);
  if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
  return fd;
#endif
}

int pool_probe_descriptors(int count) {
  enum { MAX_PROBES = 4 };
  int opened[MAX_PROBES], held = 0, problem = 0;
  while (problem == 0 && held < count && held < MAX_PROBES) {
    opened[held] = new_socket(AF_UNIX, SOCK_STREAM, 0);
    if (opened[held] < 0)
      problem = errno;
    else
      held++;
  }
  while (held > 0)
    close(opened[--held]);
  return problem;
}

static curl_socket_t open_socket(void *data, curlsocktype purpose, struct curl_sockaddr *address) {
  struct opener *opener = data;
  (void)purpose;
  opener->last_port = pool_address_port(address);
  curl_easy_setopt(opener->easy, CURLOPT_VERBOSE, 1L);
  int fd = new_socket(address->family, address->socktype, address->protocol);
  opener->problem = fd < 0 ? errno : 0;
  if (fd < 0) return CURL_SOCKET_BAD;
  opener->exhausted = pool_probe_descriptors(1);
  if (record_socket(opener->pool, fd)) return fd;
  opener->problem = ENOMEM;
  close(fd);
  return CURL_SOCKET_BAD;
}

/* A descriptor that no longer refers to the recorded socket is not closed: the process has closed
 * it, and may have another file under its number. */
static int close_socket(void *data, curl_socket_t fd) {
  struct pool *pool = data;
  for (size_t i = 0; i < pool->count; i++) {
    if (pool->sockets[i].fd != fd) continue;
    int result = close_recorded(&pool->sockets[i]);
    pool->sockets[i] = pool->sockets[--pool->count];
    return result;
  }
  return close(fd);
}

static void close_witness(struct pool *pool) {
  close_recorded(&pool->witness);
  pool->witness = (struct pool_socket){.fd = -1};
}

int pool_open(struct pool *pool) {
  int witness = new_socket(AF_UNIX, SOCK_STREAM, 0);
  if (witness < 0) return errno;
  pool->witness = describe_socket(witness);
  pool->multi = curl_multi_init();
  if (pool->multi == NULL) {
    enum {
      MULTI_DESCRIPTORS = 3
    }; /* newer versions of libcurl create no handle without their own descriptors */
    int problem = pool_probe_descriptors(MULTI_DESCRIPTORS);
    close_witness(pool);
    return problem != 0 ? problem : ENOMEM;
  }
  curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, pool->kept);
  curl_multi_setopt(pool->multi, CURLMOPT_MAX_CONCURRENT_STREAMS, pool->kept);
  /* From 8.20 on the lookup threads belong to the multi handle, and freeing it would wait for a
   * thread that hangs, and in a forked child for one that does not exist. Older versions do not
   * know this option. */
  /* NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange): older headers do not have it */
  curl_multi_setopt(pool->multi, CURLMOPT_QUICK_EXIT, 1L);
  pool->owner = getpid();
  return 0;
}

/* Has the process left the pool's descriptors open? A process that closes descriptors that it does
 * not know closes all of them, including those of libcurl that only libcurl knows: the witness
 * represents them all. (A single socket may have been closed by libcurl.) */
static bool is_intact(const struct pool *pool) { return is_ours(&pool->witness); }

bool pool_is_usable(const struct pool *pool) {
  return pool->multi != NULL && pool->owner == getpid() && is_intact(pool);
}

static int open_blind(void) {
  int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  return fd >= 0 ? fd : new_socket(AF_UNIX, SOCK_STREAM, 0);
}

/* Replaces each socket with a descriptor of /dev/null, so that nothing that libcurl writes while it
 * frees its handles reaches the parent's connections. */
static bool blind_sockets(struct pool *pool) {
  if (pool->count == 0) return true;
  int blind = open_blind();
  if (blind < 0) return false;
  bool all = true;
  for (size_t i = 0; i < pool->count; i++) {
    struct pool_socket *recorded = &pool->sockets[i];
    if (!is_ours(recorded)) continue; /* closed, and maybe another file by now */
    recorded->blind = dup2(blind, recorded->fd) >= 0;
    if (recorded->blind)
      fcntl(recorded->fd, F_SETFD, FD_CLOEXEC);
    else
      all = false;
  }
  close(blind);
  return all;
}

/* Abandons a multi handle that this process may not use. If descriptors of it were closed, or
 * cannot be replaced, it is not freed: libcurl would write to files that now belong to others, or
 * to the parent's connections, and close them. So one handle is leaked each time that a process
 * closes the descriptors of a client. */
static void let_go(struct pool *pool) {
  if (!is_intact(pool) || (pool->owner != getpid() && !blind_sockets(pool))) {
    for (size_t i = 0; i < pool->count; i++)
      close_recorded(&pool->sockets[i]);
  } else {
    curl_multi_cleanup(pool->multi);
  }
  close_witness(pool);
  pool->multi = NULL;
  pool->count = 0;
}

int pool_adopt(struct pool *pool) {
  if (pool->multi != NULL) let_go(pool);
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

/* libcurl checks whether a kept connection is readable: if it is at its end, it is not used. */
static void make_end(int fd) {
  enum { MAX_READS = 256 };
  char ignored[4096];
  shutdown(fd, SHUT_RDWR);
  for (int i = 0; i < MAX_READS; i++)
    if (recv(fd, ignored, sizeof ignored, MSG_DONTWAIT) <= 0) return;
}

static bool is_readable(int fd) {
  struct pollfd waiting = {.fd = fd, .events = POLLIN};
  return poll(&waiting, 1, 0) > 0;
}

static void drop_sockets(const struct pool *pool, bool all) {
  for (size_t i = 0; i < pool->count; i++) {
    int fd = pool->sockets[i].fd;
    if ((all || is_readable(fd)) && is_ours(&pool->sockets[i])) make_end(fd);
  }
}

void pool_drop_unclean(struct pool *pool) {
  if (pool->active > 0 || (pool->multiplexed && !pool->timed_out)) return;
  drop_sockets(pool, pool->timed_out);
  pool->timed_out = false;
}

struct pool_mark pool_mark(const struct pool *pool) {
  return (struct pool_mark){pool->received, pool->drops};
}

void pool_note_timeout(struct pool *pool, struct pool_mark start) {
  if (!pool->multiplexed || start.drops != pool->drops) return;
  pool->timed_out = start.received != pool->received;
  if (pool->timed_out) return;
  drop_sockets(pool, true);
  pool->drops++;
}

void pool_close(struct pool *pool) {
  if (pool->multi != NULL) let_go(pool);
  free(pool->sockets);
  *pool = (struct pool){0};
}
