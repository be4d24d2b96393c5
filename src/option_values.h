/* option_values.h - the readers of options with a single value, and of the credentials. */
#ifndef ICPTOKEN_OPTION_VALUES_H
#define ICPTOKEN_OPTION_VALUES_H

#include "option.h"

#pragma GCC visibility push(hidden)

/* Each raises if the value is wrong, naming the option. */
option_reader option_read_string; /* not empty */
option_reader option_read_text;   /* may be empty */
option_reader option_read_choice; /* one of two strings */
option_reader option_read_boolean;
option_reader option_read_integer; /* from min to max */
option_reader option_read_seconds; /* kept as milliseconds */
option_reader
    option_read_id_token; /* any bytes, checked at each fetch; for a client also a function */
option_reader option_read_login; /* a table of username and password */

#pragma GCC visibility pop

#endif
