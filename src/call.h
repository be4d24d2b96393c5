/* call.h - one call on a client that may talk to the cluster, from its request to its result.
 * The part of a call that holds transfers runs protected, so that an error leaves nothing in
 * libcurl's hands. */
#ifndef ICPTOKEN_CALL_H
#define ICPTOKEN_CALL_H

#include <lua.h>
#include <stdbool.h>

#include "client.h"
#include "diagnose.h"
#include "response.h"
#include "scrub.h"

#pragma GCC visibility push(hidden)

/* A call while it lasts. It lives on the C stack of the function that began it. */
struct call {
  struct client *client;
  const struct settings *settings; /* the client's, or the request's own */
  const char *url;
  int64_t timeout_ms, retries, deadline_ms;
  unsigned attempts;     /* all that were made */
  bool logged_in;        /* a log-in was part of it */
  const char *shown_url; /* for details.url */
  struct secrets secrets;
  struct circumstances about;
  struct token_limits limits; /* of the token that was read */
};

/* What comes of an exchange that was answered. */
enum call_outcome {
  CALL_READ,  /* the table is at the top of the stack */
  CALL_AGAIN, /* another attempt is arranged; nothing was pushed */
  CALL_FAILED /* the exchange's failure says why; the server's errors, or nil, are at the top */
};

/* The client at index, ready for a call; NULL when it was closed. Raises when it is busy. */
struct client *call_client(lua_State *L, int index);

/* Fills a call in, of which nothing but the client is set, for the client's own settings and
 * request. */
void call_begin(struct call *call);

/* Runs the function that is upvalue number run protected, with the call and the client at index as
 * its arguments and with what more arguments are at the top, and cleans up whatever happens.
 * Returns how many results it left at the top. Raises what it raised, but for memory. */
int call_run(lua_State *L, struct call *call, int index, int run, int arguments);

/* Inside call_run: sees to connections and credential. client is the client's stack index. False
 * with the client's exchange's failure set. */
bool call_ready(lua_State *L, struct call *call, int client);

/* Inside call_run: gives the transfer the credential in use. False when memory is short. */
bool call_lend_credential(struct client *client, struct transfer *transfer);

/* Inside call_run: logs in anew, once a call. False as call_ready, or when it was done already. */
bool call_log_in_again(lua_State *L, struct call *call);

/* Reads what an exchange has brought. */
enum call_outcome call_settle(lua_State *L, struct call *call, struct exchange *exchange,
                              response_reader *read);

/* client:fetch: a new token for the request at argument (a table, or nil for the client's own).
 * Pushes the token and returns 1, or nil, message, code, details and 4. */
int call_fetch(lua_State *L, int index, int argument);

/* Fills the URL of the request at argument in, and for OPTIONS_REQUEST client->key. settings get
 * what the request sets; the table that is left at the top keeps their strings alive. False when
 * memory is short. Raises on a wrong option. */
bool call_prepare(lua_State *L, struct call *call, int index, int argument,
                  enum options_place place, struct settings *settings);

/* Fills circumstances in again after the call's limit or settings were changed. */
void call_describe(struct call *call);

/* icptoken.login, with a client made for it at index. Pushes the identity provider's answer. */
int call_login(lua_State *L, int index);

/* The protected halves of fetch and login. */
int call_run_fetch(lua_State *L);
int call_run_login(lua_State *L);

#pragma GCC visibility pop

#endif
