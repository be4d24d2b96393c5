/* options.c - reads, checks and copies the tables that callers pass in. Tables are read raw, in one
 * pass, into a private copy: no code of the caller runs meanwhile, and later changes of the table
 * have no effect. The copy keeps the strings alive to which settings points. */
#include "options.h"

#include <lauxlib.h>
#include <stddef.h>
#include <string.h>

#include "ascii.h"
#include "nearest.h"
#include "option_lists.h"
#include "option_values.h"

/* The tables of options: ENDPOINT, those of the client and of a login; ASKING, those of requests
 * alone; REQUEST, the client and every request; FETCH, the client and client:fetch. */
#define ENDPOINT (OPTIONS_CLIENT | OPTIONS_LOGIN)
#define ASKING (OPTIONS_REQUEST | OPTIONS_FETCH)
#define REQUEST (OPTIONS_CLIENT | ASKING)
#define FETCH (OPTIONS_CLIENT | OPTIONS_FETCH)

/* The kinds of rows: the initialisers of a row's members. A STRING must not be empty, a TEXT may
 * be. SECONDS are stored as milliseconds. A preset of 0 or NULL means none. */
#define ROW(option, tables, reader, place)                                                         \
  .name = (option), .kinds = (tables), .read = (reader), .offset = (place)
#define AT(member) offsetof(struct settings, member)
#define STRING(name, tables, member) ROW(name, tables, option_read_string, AT(member))
#define PATH(name, tables, member, preset) STRING(name, tables, member), .text = (preset)
#define TEXT(name, tables, member) ROW(name, tables, option_read_text, AT(member))
#define CHOICE(name, tables, member, preset, second)                                               \
  ROW(name, tables, option_read_choice, AT(member)), .text = (preset), .other = (second)
#define BOOLEAN(name, tables, member) ROW(name, tables, option_read_boolean, AT(member))
#define RANGE(least, most) .min = (least), .max = (most)
#define INTEGER(name, tables, member, preset, least, most)                                         \
  ROW(name, tables, option_read_integer, AT(member)), .number = (preset), RANGE(least, most)
#define SECONDS(name, tables, member, preset)                                                      \
  ROW(name, tables, option_read_seconds, AT(member)), .number = INT64_C(1000) * (preset)
#define CUSTOM(name, tables, member, reader) ROW(name, tables, reader, AT(member))
/* for what stays in the Lua table alone */
#define KEPT(name, tables, reader) ROW(name, tables, reader, OPTION_NOWHERE)

static const struct option option_list[] = {
    /* endpoint */
    {STRING("host", ENDPOINT, host)},
    {INTEGER("port", ENDPOINT, port, 8443, 1, 65535)},
    {PATH("path", ENDPOINT, path, "/image-manager/api/v1/auth/token")},
    {STRING("url", ENDPOINT, url)},
    {BOOLEAN("allow_http", ENDPOINT, allow_http)},
    /* credential */
    {CUSTOM("id_token", FETCH, credential.id_token, option_read_id_token)},
    {STRING("id_token_file", OPTIONS_CLIENT, credential.id_token_file)},
    {STRING("username", FETCH | OPTIONS_LOGIN, credential.username)},
    {TEXT("password", FETCH | OPTIONS_LOGIN, credential.password)},
    {CUSTOM("login", OPTIONS_CLIENT, credential.login_username, option_read_login)},
    {BOOLEAN("anonymous", OPTIONS_CLIENT, credential.anonymous)},
    /* request defaults */
    {KEPT("service", REQUEST, option_read_text)},
    {KEPT("scope", REQUEST, option_read_scope)},
    {KEPT("account", REQUEST, option_read_text)},
    {KEPT("client_id", REQUEST, option_read_text)},
    {KEPT("offline_token", REQUEST, option_read_boolean)},
    /* accepted because a challenge contains them, but not used */
    {KEPT("realm", ASKING, option_read_text)},
    {KEPT("error", ASKING, option_read_text)},
    /* TLS */
    {STRING("cacert", ENDPOINT, cacert)},
    {STRING("capath", ENDPOINT, capath)},
    {BOOLEAN("insecure", ENDPOINT, insecure)},
    {STRING("cert", ENDPOINT, cert)},
    {STRING("key", ENDPOINT, key)},
    {STRING("key_password", ENDPOINT, key_password)},
    {STRING("pinned_public_key", ENDPOINT, pinned_public_key)},
    {CHOICE("tls_min", ENDPOINT, tls_min, "1.2", "1.3")},
    {BOOLEAN("certificates", ENDPOINT, certificates)},
    /* network */
    {SECONDS("timeout", ENDPOINT | OPTIONS_FETCH, timeout_ms, 30)},
    {SECONDS("connect_timeout", ENDPOINT, connect_timeout_ms, 10)},
    {INTEGER("retries", ENDPOINT | OPTIONS_FETCH, retries, 2, 0, 100)},
    {SECONDS("hedge_after", OPTIONS_CLIENT | OPTIONS_FETCH, hedge_after_ms, 0)},
    {TEXT("proxy", ENDPOINT, proxy)},
    {TEXT("no_proxy", ENDPOINT, no_proxy)},
    {CUSTOM("resolve", ENDPOINT, resolve, option_read_resolve)},
    {CHOICE("http_version", ENDPOINT, http_version, "1.1", "2")},
    {CUSTOM("headers", ENDPOINT | OPTIONS_FETCH, headers, option_read_headers)},
    {TEXT("user_agent", ENDPOINT, user_agent)},
    {INTEGER("max_body_bytes", ENDPOINT, max_body_bytes, 1 << 20, 1, 1 << 30)},
    {INTEGER("parallel", OPTIONS_CLIENT, parallel, 16, 1, 256)},
    /* cache */
    {INTEGER("cache_size", OPTIONS_CLIENT, cache_size, 1024, 1, 1 << 20)},
};

enum { OPTION_COUNT = sizeof option_list / sizeof *option_list };

static const char *find_nearest(const char *name, enum options_kind kind) {
  struct nearest nearest = nearest_begin(name);
  for (size_t i = 0; i < OPTION_COUNT; i++)
    if ((option_list[i].kinds & kind) != 0) nearest_offer(&nearest, option_list[i].name);
  return nearest.best;
}

static bool is_plain_name(const char *name, size_t length) {
  if (length == 0 || length > 40) return false;
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)name[i] <= ' ' || (unsigned char)name[i] >= 0x7F) return false;
  return true;
}

static void refuse_unknown(const struct reading *reading) {
  lua_State *L = reading->L;
  size_t length;
  if (lua_type(L, -2) != LUA_TSTRING)
    option_refuse_table(
        reading, lua_pushfstring(L, "option names are strings, not %s", luaL_typename(L, -2)));
  const char *name = lua_tolstring(L, -2, &length);
  if (!is_plain_name(name, length)) option_refuse_table(reading, "unknown option");
  const char *nearest = find_nearest(name, reading->kind);
  const char *message =
      nearest == NULL
          ? lua_pushfstring(L, "unknown option '%s'", name)
          : lua_pushfstring(L, "unknown option '%s'; did you mean '%s'?", name, nearest);
  option_refuse_table(reading, message);
}

static const struct option *find_option(lua_State *L, int index) {
  size_t length;
  if (lua_type(L, index) != LUA_TSTRING) return NULL;
  const char *name = lua_tolstring(L, index, &length);
  if (strlen(name) != length) return NULL;
  for (size_t i = 0; i < OPTION_COUNT; i++)
    if (strcmp(option_list[i].name, name) == 0) return &option_list[i];
  return NULL;
}

/* Raises for a known option in a table of the wrong kind. */
static void refuse_kind(const struct reading *reading, const struct option *option) {
  const char *what = "is not an option of icptoken.login";
  if (reading->kind == OPTIONS_CLIENT)
    what = "belongs to a request, not to a client";
  else if (reading->kind == OPTIONS_REQUEST && (option->kinds & OPTIONS_FETCH) != 0)
    what = "belongs to the client, or to a request of client:fetch";
  else if (reading->kind != OPTIONS_LOGIN)
    what = "belongs to the client, not to a request";
  option_refuse(reading, option->name, what);
}

static void read_all(const struct reading *reading) {
  lua_State *L = reading->L;
  luaL_checkstack(L, 12, "options");
  for (lua_pushnil(L); lua_next(L, reading->origin.index) != 0;) {
    const struct option *option = find_option(L, -2);
    if (option == NULL) {
      refuse_unknown(reading);
      return; /* not reached */
    }
    if ((option->kinds & reading->kind) == 0) refuse_kind(reading, option);
    option->read(reading, option);
    lua_setfield(L, reading->copy, option->name); /* leaves the key for lua_next */
  }
}

static void set_defaults(const struct reading *reading) {
  memset(reading->settings, 0, sizeof *reading->settings);
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    const struct option *option = &option_list[i];
    if (option->text != NULL)
      *(const char **)option_member(reading, option) = option->text;
    else if (option->number != 0)
      *(int64_t *)option_member(reading, option) = option->number;
  }
  if (reading->kind == OPTIONS_LOGIN) reading->settings->path = OPTIONS_LOGIN_PATH;
}

static bool was_given(const struct reading *reading, const char *name) {
  lua_getfield(reading->L, reading->copy, name);
  bool given = !lua_isnil(reading->L, -1);
  lua_pop(reading->L, 1);
  return given;
}

static void check_endpoint(const struct reading *reading) {
  static const char *const parts[] = {"host", "port", "path"};
  const struct settings *settings = reading->settings;
  if (settings->url == NULL && settings->host == NULL)
    option_refuse_table(reading, "option 'host' (or 'url') is missing");
  for (size_t i = 0; settings->url != NULL && i < sizeof parts / sizeof *parts; i++)
    if (was_given(reading, parts[i]))
      option_refuse(reading, "url", "cannot be combined with host, port or path");
}

/* User name and password go together, and the name must fit RFC 7617's "user:password". */
static void check_user(const struct reading *reading) {
  const struct settings *settings = reading->settings;
  if (settings->credential.username != NULL && settings->credential.password == NULL)
    option_refuse(reading, "username", "needs option 'password' as well");
  if (settings->credential.password != NULL && settings->credential.username == NULL)
    option_refuse(reading, "password", "needs option 'username' as well");
  bool basic = reading->kind != OPTIONS_LOGIN;
  /* RFC 7617 permits an empty one, but directories treat it as an anonymous login */
  if (!basic && settings->credential.password != NULL && settings->credential.password[0] == '\0')
    option_refuse(reading, "password", "must not be empty");
  if (basic && settings->credential.username != NULL &&
      strchr(settings->credential.username, ':') != NULL)
    option_refuse(reading, "username", "must not contain a colon");
}

static unsigned count_credentials(const struct settings *settings) {
  unsigned count = settings->credential.anonymous;
  if (settings->credential.id_token != NULL) count++;
  if (settings->credential.id_token_function) count++;
  if (settings->credential.id_token_file != NULL) count++;
  if (settings->credential.username != NULL) count++;
  if (settings->credential.login_username != NULL) count++;
  return count;
}

static const char several_credentials[] =
    "more than one credential: pass only one of id_token, id_token_file, username and password, "
    "login, anonymous";

/* A client has exactly one. */
static void check_credential(const struct reading *reading) {
  check_user(reading);
  unsigned count = count_credentials(reading->settings);
  if (count == 1) return;
  const char *problem = several_credentials;
  if (reading->kind == OPTIONS_LOGIN)
    problem = "login needs username and password";
  else if (count == 0)
    problem = "no credential: pass id_token, id_token_file, username and password, login, or "
              "anonymous = true";
  option_refuse_table(reading, problem);
}

/* User name and password are for the identity provider's form, not for HTTP Basic. */
static void turn_into_login(struct settings *settings) {
  settings->credential.login_username = settings->credential.username;
  settings->credential.login_password = settings->credential.password;
  settings->credential.username = settings->credential.password = NULL;
}

static void check_tls(const struct reading *reading) {
  if (reading->settings->key != NULL && reading->settings->cert == NULL)
    option_refuse(reading, "key", "needs option 'cert' as well");
}

/* libcurl would report another scheme only at each connection. */
static void check_proxy(const struct reading *reading) {
  static const char *const schemes[] = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"};
  const char *proxy = reading->settings->proxy;
  const char *end = proxy == NULL ? NULL : strstr(proxy, "://");
  if (end == NULL) return;
  size_t length = (size_t)(end - proxy);
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
    if (ascii_is(proxy, length, schemes[i])) return;
  option_refuse(reading, "proxy",
                "must begin with http://, https://, socks4://, socks4a://, socks5:// or "
                "socks5h://, or with the proxy's name");
}

/* Makes the private copy and fills it. */
static void read_table(struct reading *reading) {
  lua_State *L = reading->L;
  int index = reading->origin.index;
  if (!lua_istable(L, index))
    option_refuse_table(reading,
                        lua_pushfstring(L, "a table is expected, not %s", luaL_typename(L, index)));
  option_refuse_inherited(reading, index, NULL);
  lua_newtable(L);
  reading->copy = lua_gettop(L);
  read_all(reading);
}

void options_read_client(lua_State *L, int argument, enum options_kind kind,
                         struct settings *settings) {
  struct reading reading = {L, {argument, argument, 0}, kind, settings, 0};
  set_defaults(&reading);
  read_table(&reading);
  check_credential(&reading);
  check_endpoint(&reading);
  check_tls(&reading);
  check_proxy(&reading);
  if (kind == OPTIONS_LOGIN) turn_into_login(settings);
}

bool options_read_request(lua_State *L, struct options_origin origin, struct settings *settings) {
  enum options_kind kind = settings == NULL ? OPTIONS_REQUEST : OPTIONS_FETCH;
  struct reading reading = {L, origin, kind, settings, 0};
  if (settings == NULL) {
    read_table(&reading);
    return false;
  }
  const struct credential inherited = settings->credential;
  settings->credential = (struct credential){0};
  read_table(&reading);
  check_user(&reading);
  unsigned count = count_credentials(settings);
  if (count > 1) option_refuse_table(&reading, several_credentials);
  if (count == 0) settings->credential = inherited;
  return count > 0;
}
