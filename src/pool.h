/* pool.h - a client's connections: one curl multi handle and the sockets it opened. A process that
 * was forked must not write to its parent's connections, not even a close_notify. The sockets are
 * recorded so that the child can replace its copies with /dev/null before it frees the handles. A
 * process that closed its descriptors, as daemons do, may have other files under the same numbers:
 * a descriptor is ours only while it refers to the recorded socket. */
#ifndef ICPTOKEN_POOL_H
#define ICPTOKEN_POOL_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#pragma GCC visibility push(hidden)

/* A socket of the pool, identified by its number and by the result of fstat. */
struct pool_socket {
  int fd;
  dev_t device;
  ino_t inode;
  bool blind; /* it was replaced with /dev/null */
};

/* A zeroed struct pool is a valid closed one. */
struct pool {
  CURLM *multi;
  struct pool_socket *sockets;
  struct pool_socket
      witness; /* never used: if it is gone, the process has closed its descriptors */
  size_t count, capacity;
  pid_t owner;
  size_t active;     /* transfers in progress */
  bool multiplexed;  /* HTTP/2: a server may send at any time; set before the pool is opened */
  bool timed_out;    /* a request did, and its connection may still be there */
  uint64_t received; /* how often a part of an answer has arrived */
  uint64_t drops;    /* how often all connections were closed because a request timed out */
  long kept; /* idle connections to keep, and streams of one; set before the pool is opened */
};

/* The data of a handle's socket callback. It must live as long as the handle, and the pool longer.
 */
struct opener {
  struct pool *pool;
  CURL *easy;
  int last_port; /* of the address that was tried last; 0 if none was */
  int problem;   /* errno of the socket that was tried last; 0 if it could be opened */
  int exhausted; /* errno of a second descriptor; 0 if one was left */
};

/* Returns 0, or an errno: ENOMEM, or that no descriptor is left. */
int pool_open(struct pool *pool);

/* Can the process open that many more descriptors at once, at most 4? Returns 0, or the errno of
 * the first that fails. */
int pool_probe_descriptors(int count);

/* Is the pool usable? Not if it is closed, if the process was forked since it was opened, or if the
 * process has closed descriptors that belong to the pool. */
bool pool_is_usable(const struct pool *pool);

/* Replaces an unusable pool with a new one of this process, without connections. No transfer may be
 * in progress. Returns the result of pool_open: after a failure the pool is closed, and may be
 * opened again. */
int pool_adopt(struct pool *pool);

/* Closes kept connections on which data arrived that was not requested, such as a server's 408
 * before it closes an idle connection: libcurl would take it for the answer to the next request.
 * After pool_note_timeout it closes all of them. Does nothing while a transfer is in progress. */
void pool_drop_unclean(struct pool *pool);

/* What had happened when a request was started. */
struct pool_mark {
  uint64_t received, drops;
};

struct pool_mark pool_mark(const struct pool *pool);

/* Notes that a request timed out. With HTTP/2 libcurl keeps its connection, which may be dead, such
 * as one that a NAT has dropped: then each later request would time out on it, too. If nothing has
 * arrived for any request since this one was started, all connections are closed at once. If they
 * were closed since then, its own was among them, and those that are open now are new. */
void pool_note_timeout(struct pool *pool, struct pool_mark start);

/* Makes an easy handle open and close its sockets through the opener's pool. Opening one also sets
 * CURLOPT_VERBOSE, without which libcurl does not pass the TLS handshake to the handle's debug
 * callback. */
CURLcode pool_attach(struct opener *opener, CURL *easy);

/* Returns the port number of an address; 0 if it is neither IPv4 nor IPv6. */
int pool_address_port(const struct curl_sockaddr *address);

void pool_close(struct pool *pool);

#pragma GCC visibility pop

#endif
