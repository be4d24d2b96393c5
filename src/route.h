/* route.h - whether an attempt went to a proxy or straight to the endpoint. */
#ifndef ICPTOKEN_ROUTE_H
#define ICPTOKEN_ROUTE_H

#include <stdbool.h>

#include "endpoint.h"
#include "settings.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

/* Did the transfer, which failed before its request could be sent, use a proxy, of the options or
 * of the environment? Where it opened no socket, a proxy of the options is taken to be the reason.
 */
bool route_used_proxy(const struct transfer *transfer, const struct settings *settings,
                      const struct endpoint *endpoint);

enum { ROUTE_PROXY_SIZE = 400 };

/* Writes a sentence of where the proxy comes from, an option or a variable of the environment, and
 * which it is, by host and port alone: never with its user name and password. */
void route_describe_proxy(const struct settings *settings, char out[ROUTE_PROXY_SIZE]);

#pragma GCC visibility pop

#endif
