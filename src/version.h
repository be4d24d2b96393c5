/* version.h - the version number; the rockspec is tested to agree with it. */
#ifndef ICPTOKEN_VERSION_H
#define ICPTOKEN_VERSION_H

#define ICPTOKEN_VERSION "1.0.0"

#endif
