/* pool.h - a client's kept connections: one curl multi handle and the sockets it opened.
 * A process that was forked must not write to the connections of its parent, not even a
 * close_notify: the sockets are on record so that the child can replace its copies with /dev/null
 * before it frees the handles. A process that closed its descriptors, as daemons do, may have other
 * files under the same numbers: a descriptor is ours only while it is the socket on record. */
#ifndef ICPTOKEN_POOL_H
#define ICPTOKEN_POOL_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#pragma GCC visibility push(hidden)

/* A socket of ours, by its number and by what fstat says of it. */
struct pool_socket {
  int fd;
  dev_t device;
  ino_t inode;
  bool blind; /* /dev/null was put in its place */
};

/* A zeroed struct pool is a legal closed one. */
struct pool {
  CURLM *multi;
  struct pool_socket *sockets;
  struct pool_socket witness; /* never used: gone once the process has closed its descriptors */
  size_t count, capacity;
  pid_t owner;
  size_t active;    /* transfers under way */
  bool multiplexed; /* HTTP/2: a server may send at any time; set before the pool is opened */
  long kept;        /* connections to keep, and streams of one; set before the pool is opened */
};

/* What a handle opens its sockets with. It lives as long as the handle, the pool longer. */
struct opener {
  struct pool *pool;
  CURL *easy;
  int last_port; /* of the address that was tried last; 0 when none was */
  int problem;   /* errno of the socket that was tried last; 0 when it could be opened */
  int exhausted; /* errno of a descriptor beside that socket; 0 when there was one left */
};

/* Returns 0, or an errno: ENOMEM, or that no descriptor is left. */
int pool_open(struct pool *pool);

/* Can the process open that many more descriptors at once, at most 4? Returns 0, or the errno of
 * the one that it cannot. */
int pool_probe_descriptors(int count);

/* May the pool be used as it is? Not when it is closed, when the process has been forked since it
 * was opened, or when the process has closed descriptors that are not its own to close. */
bool pool_is_usable(const struct pool *pool);

/* Makes a pool that is not usable one of this process's own, without connections. No transfer may
 * be under way. Returns what pool_open does: after a failure the pool is closed, and may be opened
 * again. */
int pool_adopt(struct pool *pool);

/* Makes sure that libcurl does not use a kept connection on which something has come unasked: it
 * would be taken for the answer to the next request, as a server's 408 before it closes an idle
 * connection. Does nothing while a transfer is under way. */
void pool_drop_unclean(const struct pool *pool);

/* Tells an easy handle to open and close its sockets through the opener's pool. Opening one also
 * turns CURLOPT_VERBOSE on, without which libcurl does not show the TLS handshake to the handle's
 * debug callback. */
CURLcode pool_attach(struct opener *opener, CURL *easy);

/* The port number of an address; 0 when it is not one of IPv4 or IPv6. */
int pool_address_port(const struct curl_sockaddr *address);

void pool_close(struct pool *pool);

#pragma GCC visibility pop

#endif
