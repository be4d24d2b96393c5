/* authorization.c - stores the Authorization header of a call in the session, and logs in if
 * necessary. */
#include "authorization.h"

#include <errno.h>

#include "bearer.h"
#include "compat.h"
#include "credential.h"
#include "files.h"
#include "lockout.h"
#include "login.h"
#include "pipe.h"

/* A process that was forked must not use the connections that it inherited, and one that has closed
 * its descriptors has none left. */
static bool ready_pool(struct call *call) {
  struct client *client = call->client;
  if (pool_is_usable(&client->pool)) return true;
  jitter_seed(&client->jitter);
  int problem = pool_adopt(&client->pool);
  return problem == 0 || call_fail_resource(call, problem);
}

/* Sets the failure for results of the id_token function, the two values at the top, that are no ID
 * token. */
static void fail_function(lua_State *L, const struct call *call, struct failure *failure) {
  char sample[SCRUB_SIZE];
  size_t length;
  if (lua_isnil(L, -2) && lua_type(L, -1) == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -1, &length);
    failure_set(failure, FAILURE_INVALID_CREDENTIAL, false, "the id_token function failed: %s",
                scrub_sample(&call->secrets, text, length, sample));
  } else {
    failure_set(failure, FAILURE_INVALID_CREDENTIAL, false,
                "the id_token function returned %s, not a string", luaL_typename(L, -2));
  }
}

/* Calls the id_token function and writes its result to client->session.line. Raises what the
 * function raises. */
static bool call_function(lua_State *L, struct call *call, struct failure *failure) {
  size_t length;
  int top = lua_gettop(L);
  bool ok = false;
  compat_getown(L, CALL_CLIENT);
  lua_getfield(L, -1, "id_token");
  lua_call(L, 0, 2);
  if (lua_type(L, -2) == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -2, &length);
    ok = credential_write_token(text, length, "the ID token that the id_token function returned",
                                &call->client->session.line, failure);
  } else {
    fail_function(L, call, failure);
  }
  call->has_malformed_identity = !ok && !lua_isnil(L, -2);
  lua_settop(L, top);
  return ok;
}

/* Reads the ID token file into client->session.line for each call. */
static bool read_token_file(lua_State *L, struct call *call, struct failure *failure) {
  struct client *client = call->client;
  const char *path = call->settings->credential.id_token_file;
  buffer_clear(&client->scratch);
  int problem = pipe_read(L, call, path, CREDENTIAL_MAX_FILE, &client->scratch);
  bool ok = credential_write_file(path, problem, &client->scratch, &client->session.line, failure);
  /* a file that is rewritten is empty for a moment */
  bool is_blank =
      problem == 0 && bearer_strip(client->scratch.data, client->scratch.length).length == 0;
  call->has_malformed_identity = !ok && !is_blank && (problem == 0 || problem == EFBIG);
  buffer_clear(&client->scratch);
  return ok;
}

/* Stores the Authorization header of the call in client->session.line. False with failure set and
 * the server's errors, or nil, at the top. */
static bool ready_line(lua_State *L, struct call *call, struct failure *failure) {
  struct client *client = call->client;
  const struct settings *settings = call->settings;
  bool own = settings == &client->settings;
  bool ok = true;
  if (own && client->session.line_is_own) return true;
  if (call->identified) {
    if (!call->has_identity) lua_pushnil(L);
    return call->has_identity;
  }
  if (settings->credential.login_username != NULL && client->session.login_line.length == 0 &&
      !login_perform(L, call, failure))
    return false;
  client->session.line_is_own = false;
  client->session.serial++;
  buffer_clear(&client->session.line);
  if (settings->credential.login_username != NULL) {
    ok = buffer_append(&client->session.line, client->session.login_line.data,
                       client->session.login_line.length);
    if (!ok) failure_set_no_memory(failure);
  } else if (settings->credential.id_token_function)
    ok = call_function(L, call, failure);
  else if (settings->credential.id_token_file != NULL)
    ok = read_token_file(L, call, failure);
  else
    ok = credential_write(settings, &client->session.line, failure);
  client->session.line_is_own = ok && own && !credential_may_change(&settings->credential);
  call_gather_secrets(call);
  if (!ok) lua_pushnil(L);
  return ok;
}

bool authorization_identify(lua_State *L, struct call *call) {
  struct client *client = call->client;
  if (!credential_may_change(&call->settings->credential)) return true;
  call_start_clock(call);
  call_gather_secrets(call);
  call->has_identity = ready_line(L, call, &call->failure);
  call->identified = true;
  if (!call->has_identity) {
    lua_pop(L, 1); /* no server's errors */
    return !call->has_malformed_identity;
  }
  buffer_clear(&client->session.identity);
  if (buffer_append(&client->session.identity, client->session.line.data,
                    client->session.line.length))
    return true;
  call->has_identity = call_fail_no_memory(call);
  return true;
}

bool authorization_prepare(lua_State *L, struct call *call) {
  bool logs_in = call->settings->credential.login_username != NULL;
  struct failure *failure = &call->failure;
  if (!call->identified) call_start_clock(call);
  call_gather_secrets(call);
  if (!ready_pool(call) || !files_ready(L, call)) {
    lua_pushnil(L);
    return false;
  }
  /* before a login, and for other credentials when they are known */
  if (logs_in && lockout_holds(L, call, failure)) return false;
  if (!ready_line(L, call, failure)) return false;
  if (!logs_in && lockout_holds(L, call, failure)) return false;
  if (!call->settings->credential.id_token_function) return true;
  call_start_clock(call);            /* the function's time does not count */
  if (ready_pool(call)) return true; /* and it may have forked */
  lua_pushnil(L);
  return false;
}

bool authorization_renew(lua_State *L, struct call *call, struct failure *failure) {
  struct client *client = call->client;
  if (call->settings->credential.login_username == NULL || call->logged_in) {
    lockout_note_request(L, call, failure);
    return false;
  }
  lua_pop(L, 1);
  buffer_clear(&client->session.login_line);
  client->session.line_is_own = false;
  return ready_line(L, call, failure);
}
