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

#pragma GCC visibility pop

#endif
