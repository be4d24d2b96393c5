/* call.h - one call on a client that may contact the cluster: its start, its attempts, and cleaning
 * up. Whatever allocates in Lua may run the caller's finalisers, and those may use or close the
 * client. So the client is marked busy from call_run until it returns; before that, only its
 * settings are used. The body runs protected, so that an error leaves no transfer running in
 * libcurl. */
#ifndef ICPTOKEN_CALL_H
#define ICPTOKEN_CALL_H

#include <lua.h>
#include <stdbool.h>

#include "client.h"
#include "diagnose.h"
#include "response.h"
#include "scrub.h"

#pragma GCC visibility push(hidden)

/* The longest wait before a pending hook (Ctrl-C) is run. */
enum { CALL_SLICE_MS = 250 };

/* Stack layout of a protected body: a struct call, the client, and a table that options_read has
 * pushed (or nil, or for a batch a list of such tables). */
enum { CALL_ITSELF = 1, CALL_CLIENT, CALL_REQUEST };

struct call;

/* The protected body of a call: pushes its results and returns how many. */
typedef int call_body(lua_State *L, struct call *call);

/* A call in progress. It lives on the C stack of the function that started it, possibly as the
 * first member of a larger struct. */
struct call {
  call_body *body;
  void (*clean_up)(
      struct call *call); /* frees what the body has opened, even if it raised; may be NULL */
  struct client *client;
  const struct settings *settings;    /* the client's, or the request's own */
  struct string_list request_headers; /* of the request, beside the client's */
  int64_t timeout_ms, retries, hedge_ms, deadline_ms;
  unsigned attempts;      /* those of all its exchanges */
  struct failure failure; /* why it failed; FAILURE_NONE until it has */
  bool logged_in;         /* a login was part of it */
  bool polls;             /* it is client:token, which scripts call repeatedly */
  bool identified;   /* authorization_identify has called the id_token function, or read the file */
  bool has_identity; /* with success: the credential is in session.line */
  bool has_malformed_identity;     /* with a result that is no credential */
  const struct endpoint *endpoint; /* that of tokens, or of a call of icptoken.login its own */
  const char *shown_url;           /* of the endpoint that failed, for details.url */
  struct secrets secrets;
  struct context context;
  struct token_limits limits; /* of the token that was read */
};

/* The result of reading an answer. */
enum call_outcome {
  CALL_READ,  /* success: the table is at the top of the stack */
  CALL_AGAIN, /* another attempt is scheduled; nothing was pushed */
  CALL_FAILED /* the owner's failure is set; the server's errors, or nil, are at the top */
};

/* Initialises a call, of which at most body, clean_up and client are set, with the client's own
 * settings and the token endpoint. */
void call_begin(struct call *call);

/* Runs the body of a call for the client at index, with the value at the top as CALL_REQUEST, and
 * cleans up in all cases. Pops that value, pushes the results and returns how many. A closed client
 * is a failure. Raises if the client is busy, and raises every error of the body except lack of
 * memory. */
int call_run(lua_State *L, struct call *call, int index);

/* Calls the body of the call at CALL_ITSELF. Upvalue CLIENT_BODY is a closure of it, so that
 * call_run can run a body protected without allocating anything. */
int call_trampoline(lua_State *L);

/* The functions below are for protected bodies. */

/* Sets the deadline of the call: its time limit, from now on. */
void call_start_clock(struct call *call);

/* Registers the secrets that no message may contain, from the settings and the current credential.
 */
void call_gather_secrets(struct call *call);

/* Closes a file of the client whose descriptor, plus 1, is in *opened; 0 means none. */
void call_close_file(int *opened);

/* Sets the call's failure for an errno to too many open files, or else to out of memory. Returns
 * false. */
bool call_fail_resource(struct call *call, int problem);

/* Sets the call's failure to out of memory. Returns false. */
bool call_fail_no_memory(struct call *call);

/* Returns whether the credential is the client's own user name and password, and the server has not
 * accepted them yet or has refused them since. Only one request at a time sends such a password,
 * because several failures can lock an account. */
bool call_has_doubtful_password(const struct call *call);

/* The wait before a second attempt beside an unanswered token request, in milliseconds; 0 for none.
 */
int64_t call_hedge_ms(const struct call *call);

/* Reads the answer of an exchange that has finished, or schedules another attempt. */
enum call_outcome call_settle(lua_State *L, struct call *call, struct exchange *exchange,
                              const struct context *context, response_reader *read);

/* Makes all attempts of one exchange. Pushes the result and returns true, or pushes the server's
 * errors (or nil) and returns false. */
bool call_converse(lua_State *L, struct call *call, struct exchange *exchange, const char *url,
                   const struct context *context, response_reader *read);

/* Pushes the results of a call that failed. The server's errors, or nil, are at the top. */
int call_push_failure(lua_State *L, struct call *call);

#pragma GCC visibility pop

#endif
