/* client.h - the client that scripts hold: what it consists of, its making and its end. */
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
#include "refusal.h"
#include "settings.h"

#pragma GCC visibility push(hidden)

/* The registry's name of the metatable of clients. */
#define CLIENT_TYPE "icptoken.client"

/* What every function that ends up here has as upvalues. */
enum {
  CLIENT_DECODE = 1, /* the JSON decoder */
  CLIENT_NOTHING,    /* a function that does nothing */
  CLIENT_RUN_FETCH,  /* the protected halves of the calls */
  CLIENT_RUN_GET,
  CLIENT_RUN_FETCH_ALL,
  CLIENT_RUN_LOGIN,
  CLIENT_NO_MEMORY, /* strings that must be there when memory is not */
  CLIENT_CACHED,
  CLIENT_UPVALUES = CLIENT_CACHED
};

/* Places in the client's own Lua table, which has option names for keys otherwise: the details of a
 * call that Lua has no memory for, the server's errors of the refusal (or false), and at
 * CLIENT_TOKENS + place the tokens of the cache. */
enum { CLIENT_SPARE_DETAILS = 1, CLIENT_REFUSAL_ERRORS, CLIENT_TOKENS };

/* The files of the TLS options. */
enum { CLIENT_FILE_CA, CLIENT_FILE_CERT, CLIENT_FILE_KEY, CLIENT_FILE_PIN, CLIENT_FILES };

/* One of the requests of a fetch_all that are under way. */
struct slot {
  struct exchange exchange;
  struct buffer url;
  int request; /* its number; 0 when the slot is free */
  int64_t deadline_ms;
  bool tried_again; /* with the ID token of a new log-in */
};

struct counters {
  uint64_t requests, attempts, cache_hits, refreshes, stale, failures[FAILURE_COUNT];
};

struct client {
  const char *mark; /* tells a client from other userdata */
  bool open;
  bool busy; /* in the middle of a call: the handles are in use */
  struct settings settings;
  struct endpoint endpoint, login_endpoint;
  struct pool pool;
  struct exchange exchange; /* with the token endpoint */
  struct exchange login;    /* with the identity provider */
  struct slot *slots;       /* those of a fetch_all, while it lasts */
  size_t slot_count;
  struct jitter jitter;
  struct cache cache;
  struct buffer own_url, own_key; /* of the client's own request */
  struct buffer url, key;         /* of a call's request */
  struct buffer line;             /* the Authorization header in use */
  struct buffer login_line;       /* the one that the last log-in gave */
  struct buffer pair;             /* the base64 of user name and password, for messages to hide */
  struct buffer files[CLIENT_FILES]; /* what was in them, where they are pipes */
  int reading, pin;       /* 1 + descriptors that are open while a call lasts; 0 for none */
  struct buffer identity; /* the last one that the id_token function or file gave client:token */
  struct buffer scratch;
  struct refusal refusal; /* of the client's own credential */
  bool accepted;          /* the client's own user name and password were, at least once */
  bool line_is_own;       /* line is the client's own, and does not change by itself */
  uint64_t line_serial;   /* counts the changes of line */
  struct counters counters;
};

/* Makes a client from the options table at argument and pushes it: returns 1. Pushes nil, message,
 * code, details when memory is short: returns 4. Raises on a wrong option. place is OPTIONS_CLIENT,
 * or OPTIONS_LOGIN for one whose endpoint is the identity provider. */
int client_new(lua_State *L, int argument, enum options_place place);

/* The client at index; raises when there is none. */
struct client *client_check(lua_State *L, int index);

/* Raises when the client is in the middle of a call. */
void client_refuse_busy(lua_State *L, const struct client *client);

/* Pushes nil, message, code, details of a client that was closed, and returns 4. */
int client_fail_closed(lua_State *L);

/* Pushes the counters and timings of the client at index. */
int client_stats(lua_State *L, int index);

/* Frees all that the client at index holds. Again does nothing. */
void client_close(lua_State *L, int index);

/* Pushes how the client at index is to be shown. */
int client_tostring(lua_State *L, int index);

#pragma GCC visibility pop

#endif
