/* call.h - one call on a client that may talk to the cluster: its beginning, its attempts, its end.
 * Whatever allocates in Lua may run the caller's finalisers, and those may use or close the client.
 * So from call_run on, and until it returns, the client is busy and nobody else's; before that,
 * nothing of the client but its settings is used. Inside, the call runs protected, so that an error
 * leaves nothing in libcurl's hands. */
#ifndef ICPTOKEN_CALL_H
#define ICPTOKEN_CALL_H

#include <lua.h>
#include <stdbool.h>

#include "client.h"
#include "diagnose.h"
#include "response.h"
#include "scrub.h"

#pragma GCC visibility push(hidden)

/* The longest wait before a hook (Ctrl-C) gets its turn. */
enum { CALL_SLICE_MS = 250 };

/* The arguments of a protected half: a struct call, the client, and a table that options_read has
 * pushed (or nil, or for a batch a list of such tables). */
enum { CALL_ITSELF = 1, CALL_CLIENT, CALL_REQUEST };

/* A call while it lasts. It lives on the C stack of the function that began it. */
struct call {
  struct client *client;
  const struct settings *settings; /* the client's, or the request's own */
  int64_t timeout_ms, retries, hedge_ms, deadline_ms;
  unsigned attempts; /* all that were made */
  bool logged_in;    /* a login was part of it */
  bool polls;        /* it is client:token, which is called again and again */
  bool identified;   /* the id_token function was called, or the file read, by session_identify */
  bool has_identity; /* and that gave a credential, which is in client->line */
  const char *shown_url; /* of the endpoint that failed, for details.url */
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

/* Fills a call in, of which nothing but the client is set, for the client's own settings. */
void call_begin(struct call *call);

/* Runs the protected half that is upvalue number run for the client at index, with the value at the
 * top as CALL_REQUEST, and cleans up whatever happens. Pops that value, pushes the results and
 * returns how many. The result is a failure when the client was closed; raises when it is busy, and
 * what the half raises, but for lack of memory. */
int call_run(lua_State *L, struct call *call, int index, int run);

/* What follows is for protected halves. */

/* Sets the limit of the call, in milliseconds from now. */
void call_start_clock(struct call *call);

/* Notes the secrets that no message may hold, from the settings and the credential in use. */
void call_gather_secrets(struct call *call);

/* Reads a file of no more than limit bytes into content, which is the client's own. Waits for the
 * writer of a pipe until the call's limit, and lets a hook have its turn meanwhile. Returns 0, or
 * an errno: ETIMEDOUT for a pipe whose writer has not finished, EFBIG, ENOMEM. */
int call_read_file(lua_State *L, struct call *call, const char *path, size_t limit,
                   struct buffer *content);

/* Sets the call's failure to what an errno says the process lacks: descriptors, else memory.
 * Returns false. */
bool call_fail_resource(struct call *call, int problem);

/* Sets the call's failure to memory that ran out. Returns false. */
bool call_fail_no_memory(struct call *call);

/* Reads what an exchange has brought. */
enum call_outcome call_settle(lua_State *L, struct call *call, struct exchange *exchange,
                              const struct circumstances *about, response_reader *read);

/* All attempts of one exchange. Leaves what it read at the top and returns true, or the server's
 * errors (or nil) and returns false. */
bool call_converse(lua_State *L, struct call *call, struct exchange *exchange, const char *url,
                   const struct circumstances *about, response_reader *read);

/* Pushes the results of a call that failed; the server's errors, or nil, are at the top. */
int call_push_failure(lua_State *L, struct call *call);

#pragma GCC visibility pop

#endif
