/* session.c - who the client is to the cluster: the Authorization header of a call, and the log-in
 * that may be needed for it. */
#include "session.h"

#include <string.h>

#include "clock.h"
#include "compat.h"
#include "credential.h"
#include "files.h"

/* A process that was forked since must not use the connections that it inherited, and one that has
 * closed its descriptors has none. */
static bool ready_pool(struct call *call) {
  struct client *client = call->client;
  if (pool_is_usable(&client->pool)) return true;
  jitter_seed(&client->jitter);
  int problem = pool_adopt(&client->pool);
  return problem == 0 || call_fail_resource(call, problem);
}

static bool append_field(struct buffer *form, const char *name, const char *value) {
  return buffer_append_string(form, name) && buffer_append_encoded(form, value, strlen(value));
}

/* The form that the identity provider wants (RFC 6749 section 4.3.2). */
static bool write_form(const struct settings *settings, struct buffer *form) {
  return buffer_append_string(form, "grant_type=password") &&
         append_field(form, "&username=", settings->credential.login_username) &&
         append_field(form, "&password=", settings->credential.login_password) &&
         append_field(form, "&scope=", "openid");
}

/* The attempts to log in, for a form that is in place. */
static bool converse(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct circumstances about = call->about;
  about.endpoint = &client->login_endpoint;
  about.credential = "user name and password";
  return call_converse(L, call, &client->login, client->login_endpoint.url.data, &about,
                       response_read_login);
}

/* Asks the identity provider. Leaves its answer at the top, or the server's errors (or nil). */
static bool ask_identity_provider(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct transfer *transfer = &client->login.transfer;
  struct buffer form = {0};
  bool read = false;
  call->logged_in = true;
  bool ready =
      write_form(&client->settings, &form) && transfer_set_form(transfer, &form) == CURLE_OK;
  buffer_free(&form);
  if (ready) {
    read = converse(L, call);
    client->exchange.failure = client->login.failure;
  } else {
    call_fail_no_memory(call);
    lua_pushnil(L);
  }
  transfer_clear_form(transfer);
  if (!read) call->shown_url = client->login_endpoint.shown.data;
  return read;
}

/* What a refusal is remembered by: the Authorization header, or nothing for a client that logs in,
 * whose user name and password never change. NULL when it is not remembered: of a credential that
 * is not the client's own, and of an ID token, which locks no account, where a call must send it.
 */
static const struct buffer *own_credential(const struct call *call) {
  static const struct buffer of_login = {0};
  const struct client *client = call->client;
  const struct settings *settings = &client->settings;
  if (call->settings != settings || settings->credential.anonymous) return NULL;
  if (settings->credential.login_username != NULL) return &of_login;
  return settings->credential.username != NULL || call->polls ? &client->line : NULL;
}

/* Notes the refusal with the server's errors, or nil, that are at the top. */
static void note_refusal(lua_State *L, struct call *call, const struct failure *failure) {
  const struct buffer *credential = own_credential(call);
  if (credential == NULL || failure->code != FAILURE_UNAUTHORIZED) return;
  compat_getown(L, CALL_CLIENT);
  if (lua_istable(L, -2))
    lua_pushvalue(L, -2);
  else
    lua_pushboolean(L, 0);
  lua_rawseti(L, -2, CLIENT_REFUSAL_ERRORS);
  lua_pop(L, 1);
  refusal_note(&call->client->refusal, credential, failure, call->shown_url, clock_steady_ms());
}

void session_note_refusal(lua_State *L, struct call *call, const struct failure *failure) {
  bool logs_in = call->settings->credential.login_username != NULL;
  /* what a login would have brought was not refused where the login itself failed */
  if (!logs_in || call->client->login_line.length > 0) note_refusal(L, call, failure);
}

void session_note_acceptance(struct call *call) {
  if (own_credential(call) == NULL) return;
  refusal_forget(&call->client->refusal);
  call->client->accepted = true;
}

bool session_is_refused(lua_State *L, struct call *call, struct failure *failure) {
  const struct refusal *refusal = &call->client->refusal;
  const struct buffer *credential = own_credential(call);
  int64_t now = clock_steady_ms();
  if (credential == NULL || !refusal_holds(refusal, credential, now)) return false;
  call->shown_url = refusal_tell(refusal, failure, now);
  compat_getown(L, CALL_CLIENT);
  lua_rawgeti(L, -1, CLIENT_REFUSAL_ERRORS);
  lua_remove(L, -2);
  if (lua_istable(L, -1)) return true;
  lua_pop(L, 1);
  lua_pushnil(L);
  return true;
}

/* Logs in and keeps the ID token as the client's credential. On failure the server's errors (or
 * nil) are at the top. */
static bool log_in(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct failure *failure = &client->exchange.failure;
  if (!ask_identity_provider(L, call)) {
    note_refusal(L, call, failure);
    return false;
  }
  lua_getfield(L, -1, "id_token");
  bool kept =
      credential_write_token(lua_tostring(L, -1), compat_rawlen(L, -1),
                             "the identity provider's ID token", &client->login_line, failure);
  transfer_forget_answer(&client->login.transfer);
  lua_pop(L, 2);
  if (!kept) lua_pushnil(L);
  return kept;
}

/* Says why what the id_token function returned, two values at the top, is no ID token. */
static void blame_function(lua_State *L, const struct call *call, struct failure *failure) {
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

/* Calls the id_token function for client->line. What it raises is the caller's. */
static bool call_function(lua_State *L, struct call *call) {
  struct failure *failure = &call->client->exchange.failure;
  size_t length;
  int top = lua_gettop(L);
  bool ok = false;
  compat_getown(L, CALL_CLIENT);
  lua_getfield(L, -1, "id_token");
  lua_call(L, 0, 2);
  if (lua_type(L, -2) == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -2, &length);
    ok = credential_write_token(text, length, "the ID token that the id_token function returned",
                                &call->client->line, failure);
  } else {
    blame_function(L, call, failure);
  }
  lua_settop(L, top);
  return ok;
}

/* Reads the ID token file for client->line, anew each time. */
static bool read_token_file(lua_State *L, struct call *call) {
  struct client *client = call->client;
  const char *path = call->settings->credential.id_token_file;
  buffer_clear(&client->scratch);
  int problem = call_read_file(L, call, path, CREDENTIAL_MAX_FILE, &client->scratch);
  bool ok = credential_write_file(path, problem, &client->scratch, &client->line,
                                  &client->exchange.failure);
  buffer_clear(&client->scratch);
  return ok;
}

/* Brings the Authorization header of the call into client->line. On failure the server's errors
 * (or nil) are at the top. */
static bool ready_line(lua_State *L, struct call *call) {
  struct client *client = call->client;
  const struct settings *settings = call->settings;
  bool own = settings == &client->settings;
  bool ok;
  if (own && client->line_is_own) return true;
  if (call->identified) {
    if (!call->has_identity) lua_pushnil(L);
    return call->has_identity;
  }
  if (settings->credential.login_username != NULL && client->login_line.length == 0 &&
      !log_in(L, call))
    return false;
  client->line_is_own = false;
  client->line_serial++;
  buffer_clear(&client->line);
  if (settings->credential.login_username != NULL)
    ok = buffer_append(&client->line, client->login_line.data, client->login_line.length) ||
         call_fail_no_memory(call);
  else if (settings->credential.id_token_function)
    ok = call_function(L, call);
  else if (settings->credential.id_token_file != NULL)
    ok = read_token_file(L, call);
  else
    ok = credential_write(settings, &client->line, &client->exchange.failure);
  client->line_is_own = ok && own && !credential_may_change(&settings->credential);
  call_gather_secrets(call);
  if (!ok) lua_pushnil(L);
  return ok;
}

void session_identify(lua_State *L, struct call *call) {
  struct client *client = call->client;
  if (!credential_may_change(&call->settings->credential)) return;
  call_start_clock(call);
  call_gather_secrets(call);
  call->has_identity = ready_line(L, call);
  call->identified = true;
  if (!call->has_identity) {
    lua_pop(L, 1); /* no server's errors */
    return;
  }
  buffer_clear(&client->identity);
  if (buffer_append(&client->identity, client->line.data, client->line.length)) return;
  call->has_identity = call_fail_no_memory(call);
}

bool session_ready(lua_State *L, struct call *call) {
  struct failure *failure = &call->client->exchange.failure;
  bool logs_in = call->settings->credential.login_username != NULL;
  if (!call->identified) call_start_clock(call);
  call_gather_secrets(call);
  if (!ready_pool(call) || !files_ready(L, call)) {
    lua_pushnil(L);
    return false;
  }
  /* before a login, and for other credentials when they are known */
  if (logs_in && session_is_refused(L, call, failure)) return false;
  if (!ready_line(L, call)) return false;
  if (!logs_in && session_is_refused(L, call, failure)) return false;
  if (!call->settings->credential.id_token_function) return true;
  call_start_clock(call);            /* the function's time does not count */
  if (ready_pool(call)) return true; /* and it may have forked */
  lua_pushnil(L);
  return false;
}

bool session_lend(const struct client *client, struct transfer *transfer) {
  if (transfer->credential_serial == client->line_serial) return true;
  bool lent = transfer_set_credential(transfer, &client->line);
  transfer->credential_serial = lent ? client->line_serial : 0;
  return lent;
}

bool session_log_in_again(lua_State *L, struct call *call) {
  struct client *client = call->client;
  if (call->settings->credential.login_username == NULL || call->logged_in) {
    session_note_refusal(L, call, &client->exchange.failure);
    return false;
  }
  lua_pop(L, 1);
  buffer_clear(&client->login_line);
  client->line_is_own = false;
  return ready_line(L, call);
}

int session_run_login(lua_State *L) {
  struct call *call = lua_touserdata(L, CALL_ITSELF);
  call->client->counters.requests++;
  call_start_clock(call);
  call_gather_secrets(call);
  if (!files_ready(L, call)) {
    lua_pushnil(L);
    return call_push_failure(L, call);
  }
  return ask_identity_provider(L, call) ? 1 : call_push_failure(L, call);
}

int session_login(lua_State *L, int index) {
  struct call call = {.client = client_check(L, index)};
  call_begin(&call);
  lua_pushnil(L);
  return call_run(L, &call, index, CLIENT_RUN_LOGIN);
}
