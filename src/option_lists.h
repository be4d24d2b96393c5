/* option_lists.h - the readers of options that are lists: scopes, headers, addresses. */
#ifndef ICPTOKEN_OPTION_LISTS_H
#define ICPTOKEN_OPTION_LISTS_H

#include "option.h"

#pragma GCC visibility push(hidden)

/* Each raises if the value is wrong, naming the option. */
option_reader option_read_scope;   /* a string, split at spaces, or a list */
option_reader option_read_headers; /* name to string */
option_reader option_read_resolve; /* "host:port" to an IP number or several */

#pragma GCC visibility pop

#endif
