/* endpoint.h - the endpoint's address: builds the URL from its parts and has libcurl parse it
 * again, so that no part can direct the request to another host or path. */
#ifndef ICPTOKEN_ENDPOINT_H
#define ICPTOKEN_ENDPOINT_H

#include <stdbool.h>

#include "buffer.h"
#include "settings.h"

#pragma GCC visibility push(hidden)

struct endpoint {
  struct buffer url;       /* the whole URL, with the query that option url may contain */
  struct buffer shown;     /* the URL without query, for details.url */
  struct buffer authority; /* host:port, for messages */
  int port;
  bool https;
  bool loopback; /* the host is this machine, by its name or number only */
  bool has_query;
};

enum { ENDPOINT_PROBLEM_SIZE = 256 };

enum endpoint_result { ENDPOINT_OK, ENDPOINT_WRONG, ENDPOINT_NO_MEMORY };

/* Fills in the zeroed endpoint from host, port and path, or from url. On ENDPOINT_WRONG, problem
 * says which option is wrong and why, without quoting its value. The caller must free the endpoint
 * in all cases. */
enum endpoint_result endpoint_build(struct endpoint *endpoint, const struct settings *settings,
                                    char problem[ENDPOINT_PROBLEM_SIZE]);

/* Fills in the zeroed sibling: the same host and port with another path. False if out of memory. */
bool endpoint_build_sibling(struct endpoint *sibling, const struct endpoint *endpoint,
                            const char *path);

void endpoint_free(struct endpoint *endpoint);

#pragma GCC visibility pop

#endif
