/* endpoint.h - where to ask: builds the URL from its parts and has libcurl parse it again, so that
 * nothing in a part can move the request to another place. */
#ifndef ICPTOKEN_ENDPOINT_H
#define ICPTOKEN_ENDPOINT_H

#include <stdbool.h>

#include "buffer.h"
#include "settings.h"

#pragma GCC visibility push(hidden)

struct endpoint {
  struct buffer url;       /* the whole, with the query that option url may bring */
  struct buffer shown;     /* the same without query, for details.url */
  struct buffer authority; /* host:port as people write it, for messages */
  int port;
  bool https;
  bool loopback; /* the host is this machine, by its name or number alone */
  bool has_query;
};

enum { ENDPOINT_PROBLEM_SIZE = 256 };

enum endpoint_result { ENDPOINT_OK, ENDPOINT_WRONG, ENDPOINT_NO_MEMORY };

/* Fills the zeroed endpoint in from host, port and path or from url. On ENDPOINT_WRONG, problem
 * says which option is wrong and why, without quoting its value. The caller frees the endpoint in
 * every case. */
enum endpoint_result endpoint_build(struct endpoint *endpoint, const struct settings *settings,
                                    char problem[ENDPOINT_PROBLEM_SIZE]);

/* Fills the zeroed sibling in: the same place with another path. False when memory is short. */
bool endpoint_build_sibling(struct endpoint *sibling, const struct endpoint *endpoint,
                            const char *path);

void endpoint_free(struct endpoint *endpoint);

#pragma GCC visibility pop

#endif
