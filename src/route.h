/* route.h - whether an attempt used a proxy or connected directly to the endpoint. */
#ifndef ICPTOKEN_ROUTE_H
#define ICPTOKEN_ROUTE_H

#include <stdbool.h>

#include "context.h"
#include "settings.h"
#include "span.h"
#include "transfer.h"

#pragma GCC visibility push(hidden)

/* Did the transfer, which failed before its request could be sent, use a proxy, from the options or
 * the environment? If it opened no socket, a proxy in the options is assumed to be the reason. */
bool route_used_proxy(const struct transfer *transfer, const struct context *context);

/* Was it the proxy's name that a DNS lookup did not find, rather than the endpoint's? */
bool route_looked_up_proxy(const struct transfer *transfer);

/* Did the transfer end before a proxy had answered the request for a tunnel? */
bool route_awaited_tunnel(const struct transfer *transfer, const struct context *context);

enum { ROUTE_PROXY_SIZE = 400 };

/* Writes a sentence that says where the proxy comes from, an option or an environment variable, and
 * names it by host and port only: never with its user name and password. */
void route_describe_proxy(const struct settings *settings, char out[ROUTE_PROXY_SIZE]);

/* Finds the password in a proxy's URL: the text between the first colon after the scheme and the
 * last @. proxy may be NULL; the start of the span is NULL if there is no password. */
struct span route_find_password(const char *proxy);

#pragma GCC visibility pop

#endif
