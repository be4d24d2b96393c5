/* login.c - exchanges user name and password for an ID token of the identity provider. */
#include "login.h"

#include <string.h>

#include "compat.h"
#include "credential.h"
#include "files.h"
#include "lockout.h"

static bool append_field(struct buffer *form, const char *name, const char *value) {
  return buffer_append_string(form, name) && buffer_append_encoded(form, value, strlen(value));
}

/* The form that the identity provider expects (RFC 6749 section 4.3.2). */
static bool write_form(const struct settings *settings, struct buffer *form) {
  return buffer_append_string(form, "grant_type=password") &&
         append_field(form, "&username=", settings->credential.login_username) &&
         append_field(form, "&password=", settings->credential.login_password) &&
         append_field(form, "&scope=", "openid");
}

/* Makes the attempts to log in; the form is already set. */
static bool exchange_form(lua_State *L, struct call *call) {
  struct client *client = call->client;
  struct context context = call->context;
  context.endpoint = &client->session.endpoint;
  context.credential = "user name and password";
  return call_converse(L, call, &client->session.login, client->session.endpoint.url.data, &context,
                       response_read_login);
}

/* Sends the login to the identity provider. Leaves the answer at the top; or the server's errors,
 * or nil, with failure set. */
static bool send_form(lua_State *L, struct call *call, struct failure *failure) {
  struct client *client = call->client;
  struct transfer *transfer = &client->session.login.transfer;
  struct buffer form = {0};
  bool read = false;
  call->logged_in = true;
  bool ready =
      write_form(&client->settings, &form) && transfer_set_form(transfer, &form) == CURLE_OK;
  buffer_free(&form);
  if (ready) {
    client->session.login.failure = failure;
    read = exchange_form(L, call);
  } else {
    failure_set_no_memory(failure);
    lua_pushnil(L);
  }
  transfer_clear_form(transfer);
  if (!read) call->shown_url = client->session.endpoint.shown.data;
  return read;
}

bool login_perform(lua_State *L, struct call *call, struct failure *failure) {
  struct client *client = call->client;
  if (!send_form(L, call, failure)) {
    lockout_note_login(L, call, failure);
    return false;
  }
  lua_getfield(L, -1, "id_token");
  bool kept = credential_write_token(lua_tostring(L, -1), compat_rawlen(L, -1),
                                     "the identity provider's ID token",
                                     &client->session.login_line, failure);
  transfer_forget_answer(&client->session.login.transfer);
  lua_pop(L, 2);
  if (!kept) lua_pushnil(L);
  return kept;
}

static int run_login(lua_State *L, struct call *call) {
  call->client->counters.requests++;
  call_start_clock(call);
  call_gather_secrets(call);
  if (!files_ready(L, call)) {
    lua_pushnil(L);
    return call_push_failure(L, call);
  }
  return send_form(L, call, &call->failure) ? 1 : call_push_failure(L, call);
}

int login_fetch(lua_State *L, int index) {
  struct call call = {.body = run_login, .client = client_check(L, index)};
  call_begin(&call);
  call.endpoint = &call.client->session.endpoint;
  lua_pushnil(L);
  return call_run(L, &call, index);
}
