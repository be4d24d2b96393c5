/* trust.h - which certificates a handle accepts, and which one it presents. */
#ifndef ICPTOKEN_TRUST_H
#define ICPTOKEN_TRUST_H

#include "settings.h"
#include "setup.h"

#pragma GCC visibility push(hidden)

/* Sets the TLS options of a handle. */
void trust_set(const struct setup *setup, const struct settings *settings);

#pragma GCC visibility pop

#endif
