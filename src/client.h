/* client.h - the client object that scripts hold: its members, how it is created and how it is
 * freed. */
#ifndef ICPTOKEN_CLIENT_H
#define ICPTOKEN_CLIENT_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "cache.h"
#include "endpoint.h"
#include "exchange.h"
#include "failure.h"
#include "jitter.h"
#include "options.h"
#include "pool.h"
#include "session.h"
#include "settings.h"
#include "span.h"
#include "tls_files.h"

#pragma GCC visibility push(hidden)

/* The name of the clients' metatable in Lua's registry. */
#define CLIENT_TYPE "icptoken.client"

/* The upvalues of every function of the module that uses a client. */
enum {
  CLIENT_DECODE = 1, /* the JSON decoder */
  CLIENT_NOTHING,    /* a function that does nothing */
  CLIENT_BODY,       /* call_trampoline, which runs the protected body of a call */
  CLIENT_NO_MEMORY,  /* strings that must already exist when memory runs out */
  CLIENT_CACHED,
  CLIENT_UPVALUES = CLIENT_CACHED
};

/* Keys in the client's own Lua table, whose other keys are option names: the details for a call
 * that is out of memory, the server's errors of the last refusal (or false), and at CLIENT_TOKENS +
 * slot the cached tokens. */
enum { CLIENT_SPARE_DETAILS = 1, CLIENT_REFUSAL_ERRORS, CLIENT_TOKENS };

struct counters {
  uint64_t requests, attempts, cache_hits, refreshes, stale, failures[FAILURE_COUNT];
};

struct client {
  const char *mark; /* tells a client from other userdata */
  bool open;
  bool busy; /* a call is in progress, so the handles are in use */
  struct settings settings;
  struct span proxy_password; /* from the proxy's URL */
  struct endpoint endpoint;   /* of tokens; empty in a client made for icptoken.login */
  struct pool pool;
  struct exchange exchange; /* with the token endpoint */
  struct session session;
  struct jitter jitter;
  struct cache cache;
  struct buffer own_url, own_key; /* of the client's own request */
  struct buffer url, key;         /* of a call's request */
  struct tls_files files;         /* contents of the TLS files that are pipes */
  int reading;                    /* 1 + the descriptor of a file that a call reads; 0 for none */
  struct buffer scratch;
  struct counters counters;
};

/* Creates a client from the options table at argument, pushes it and returns 1. If out of memory,
 * pushes nil, message, code, details and returns 4. Raises on an invalid option. kind is
 * OPTIONS_CLIENT, or OPTIONS_LOGIN for a client whose endpoint is the identity provider. */
int client_new(lua_State *L, int argument, enum options_kind kind);

/* Returns the client at index; raises if the value is no client. */
struct client *client_check(lua_State *L, int index);

/* Raises if a call on the client is in progress. */
void client_refuse_busy(lua_State *L, const struct client *client);

/* Pushes nil, message, code, details for a client that was closed, and returns 4. */
int client_fail_closed(lua_State *L);

/* Frees everything that the client at index owns. Calling it again has no effect. */
void client_close(lua_State *L, int index);

/* Pushes the text that tostring returns for the client at index. */
int client_tostring(lua_State *L, int index);

#pragma GCC visibility pop

#endif
