/* options.c - the tables that callers pass in: reads, checks and copies them.
 * Tables are read raw, in one pass, into a private copy: nothing of the caller's runs meanwhile,
 * and what the caller changes later has no effect. The copy keeps the strings alive that settings
 * point to. */
#include "options.h"

#include <arpa/inet.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ascii.h"
#include "compat.h"

enum { MAX_TEXT = 1024 * 1024 };

enum kind {
  KIND_STRING, /* not empty */
  KIND_TEXT,   /* may be empty */
  KIND_CHOICE, /* one of two strings */
  KIND_BOOLEAN,
  KIND_INTEGER, /* from least to most */
  KIND_SECONDS, /* kept as milliseconds */
  KIND_SCOPE,   /* a string, split at spaces, or a list */
  KIND_HEADERS,
  KIND_ADDRESSES,
  KIND_ID_TOKEN, /* any bytes: judged at each fetch; or, for a client, a function */
  KIND_LOGIN,    /* a table of username and password */
  KIND_IGNORED   /* a string that a challenge brings along */
};

struct option {
  const char *name;
  enum kind kind;
  unsigned places;
  size_t offset;            /* in struct settings; NOWHERE for what stays in the Lua table alone */
  const char *text, *other; /* default and, for a choice, what else there is */
  int64_t number, least, most;
};

#define AT(member) offsetof(struct settings, member)
#define NOWHERE SIZE_MAX
#define ENDPOINT (OPTIONS_CLIENT | OPTIONS_LOGIN)
#define ASKING (OPTIONS_REQUEST | OPTIONS_FETCH)
#define REQUEST (OPTIONS_CLIENT | ASKING)
#define FETCH (OPTIONS_CLIENT | OPTIONS_FETCH)

static const struct option option_list[] = {
    /* endpoint */
    {"host", KIND_STRING, ENDPOINT, AT(host), NULL, NULL, 0, 0, 0},
    {"port", KIND_INTEGER, ENDPOINT, AT(port), NULL, NULL, 8443, 1, 65535},
    {"path", KIND_STRING, ENDPOINT, AT(path), "/image-manager/api/v1/auth/token", NULL, 0, 0, 0},
    {"url", KIND_STRING, ENDPOINT, AT(url), NULL, NULL, 0, 0, 0},
    {"allow_http", KIND_BOOLEAN, ENDPOINT, AT(allow_http), NULL, NULL, 0, 0, 0},
    /* credential */
    {"id_token", KIND_ID_TOKEN, FETCH, AT(credential.id_token), NULL, NULL, 0, 0, 0},
    {"id_token_file", KIND_STRING, OPTIONS_CLIENT, AT(credential.id_token_file), NULL, NULL, 0, 0,
     0},
    {"username", KIND_STRING, FETCH | OPTIONS_LOGIN, AT(credential.username), NULL, NULL, 0, 0, 0},
    {"password", KIND_TEXT, FETCH | OPTIONS_LOGIN, AT(credential.password), NULL, NULL, 0, 0, 0},
    {"login", KIND_LOGIN, OPTIONS_CLIENT, AT(credential.login_username), NULL, NULL, 0, 0, 0},
    {"anonymous", KIND_BOOLEAN, OPTIONS_CLIENT, AT(credential.anonymous), NULL, NULL, 0, 0, 0},
    /* request defaults */
    {"service", KIND_TEXT, REQUEST, NOWHERE, NULL, NULL, 0, 0, 0},
    {"scope", KIND_SCOPE, REQUEST, NOWHERE, NULL, NULL, 0, 0, 0},
    {"account", KIND_TEXT, REQUEST, NOWHERE, NULL, NULL, 0, 0, 0},
    {"client_id", KIND_TEXT, REQUEST, NOWHERE, NULL, NULL, 0, 0, 0},
    {"offline_token", KIND_BOOLEAN, REQUEST, NOWHERE, NULL, NULL, 0, 0, 0},
    {"realm", KIND_IGNORED, ASKING, NOWHERE, NULL, NULL, 0, 0, 0},
    {"error", KIND_IGNORED, ASKING, NOWHERE, NULL, NULL, 0, 0, 0},
    /* TLS */
    {"cacert", KIND_STRING, ENDPOINT, AT(cacert), NULL, NULL, 0, 0, 0},
    {"capath", KIND_STRING, ENDPOINT, AT(capath), NULL, NULL, 0, 0, 0},
    {"insecure", KIND_BOOLEAN, ENDPOINT, AT(insecure), NULL, NULL, 0, 0, 0},
    {"cert", KIND_STRING, ENDPOINT, AT(cert), NULL, NULL, 0, 0, 0},
    {"key", KIND_STRING, ENDPOINT, AT(key), NULL, NULL, 0, 0, 0},
    {"key_password", KIND_STRING, ENDPOINT, AT(key_password), NULL, NULL, 0, 0, 0},
    {"pinned_public_key", KIND_STRING, ENDPOINT, AT(pinned_public_key), NULL, NULL, 0, 0, 0},
    {"tls_min", KIND_CHOICE, ENDPOINT, AT(tls_min), "1.2", "1.3", 0, 0, 0},
    /* network */
    {"timeout", KIND_SECONDS, ENDPOINT | OPTIONS_FETCH, AT(timeout_ms), NULL, NULL, 30000, 0, 0},
    {"connect_timeout", KIND_SECONDS, ENDPOINT, AT(connect_timeout_ms), NULL, NULL, 10000, 0, 0},
    {"retries", KIND_INTEGER, ENDPOINT | OPTIONS_FETCH, AT(retries), NULL, NULL, 2, 0, 100},
    {"hedge_after", KIND_SECONDS, OPTIONS_CLIENT | OPTIONS_FETCH, AT(hedge_after_ms), NULL, NULL, 0,
     0, 0},
    {"proxy", KIND_TEXT, ENDPOINT, AT(proxy), NULL, NULL, 0, 0, 0},
    {"no_proxy", KIND_TEXT, ENDPOINT, AT(no_proxy), NULL, NULL, 0, 0, 0},
    {"resolve", KIND_ADDRESSES, ENDPOINT, AT(resolve), NULL, NULL, 0, 0, 0},
    {"http_version", KIND_CHOICE, ENDPOINT, AT(http_version), "1.1", "2", 0, 0, 0},
    {"headers", KIND_HEADERS, ENDPOINT, AT(headers), NULL, NULL, 0, 0, 0},
    {"user_agent", KIND_TEXT, ENDPOINT, AT(user_agent), NULL, NULL, 0, 0, 0},
    {"max_body_bytes", KIND_INTEGER, ENDPOINT, AT(max_body_bytes), NULL, NULL, 1 << 20, 1, 1 << 30},
    {"parallel", KIND_INTEGER, OPTIONS_CLIENT, AT(parallel), NULL, NULL, 16, 1, 256},
};

enum { OPTION_COUNT = sizeof option_list / sizeof *option_list };

/* What is being read: the place and the argument that errors name. */
struct reading {
  lua_State *L;
  struct options_origin origin;
  enum options_place place;
  struct settings *settings;
  int copy; /* stack index of the private copy */
};

static void *member(const struct reading *reading, const struct option *option) {
  return (char *)reading->settings + option->offset;
}

/* Raises "bad argument #n to 'new' (…)". */
static int refuse_table(const struct reading *reading, const char *what) {
  if (reading->origin.number > 0)
    what = lua_pushfstring(reading->L, "request %d: %s", reading->origin.number, what);
  return luaL_argerror(reading->L, reading->origin.argument, what);
}

static int refuse(const struct reading *reading, const char *name, const char *what) {
  return refuse_table(reading, lua_pushfstring(reading->L, "option '%s' %s", name, what));
}

static int refuse_type(const struct reading *reading, const char *name, const char *wanted) {
  const char *what =
      lua_pushfstring(reading->L, "must be %s, not %s", wanted, luaL_typename(reading->L, -1));
  return refuse(reading, name, what);
}

/* Tables are read raw. What comes by a metatable would be overlooked, which nobody would see: an
 * inherited cacert, say. name is the option whose value the table at index is, or NULL. */
static void refuse_inherited(const struct reading *reading, int index, const char *name) {
  static const char what[] =
      "must hold its values itself, not inherit them by a metatable's __index";
  lua_State *L = reading->L;
  if (!lua_getmetatable(L, index)) return;
  lua_pushliteral(L, "__index");
  lua_rawget(L, -2);
  bool inherits = !lua_isnil(L, -1);
  lua_pop(L, 2);
  if (!inherits) return;
  if (name != NULL) refuse(reading, name, what);
  refuse_table(reading, lua_pushfstring(L, "the table %s", what));
}

/* Letters that must be inserted, removed, replaced or swapped to make one name of the other. */
static size_t distance(const char *a, const char *b) {
  enum { LONGEST = 24 };
  size_t row[3][LONGEST + 1];
  size_t a_length = strlen(a), b_length = strlen(b);
  if (a_length > LONGEST || b_length > LONGEST) return SIZE_MAX;
  for (size_t j = 0; j <= b_length; j++)
    row[0][j] = j;
  for (size_t i = 1; i <= a_length; i++) {
    size_t *now = row[i % 3], *before = row[(i + 2) % 3], *earlier = row[(i + 1) % 3];
    now[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      size_t best = before[j - 1] + (a[i - 1] != b[j - 1]);
      if (before[j] + 1 < best) best = before[j] + 1;
      if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && earlier[j - 2] + 1 < best) best = earlier[j - 2] + 1;
      now[j] = best;
    }
  }
  return row[a_length % 3][b_length];
}

static const char *nearest_name(const char *name, enum options_place place) {
  const char *nearest = NULL;
  size_t least = strlen(name) / 2 + 2; /* closer than that, and never further than 3 */
  if (least > 4) least = 4;
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    if ((option_list[i].places & place) == 0) continue;
    size_t away = distance(name, option_list[i].name);
    if (away > 0 && strncmp(name, option_list[i].name, 3) == 0) away--; /* people err at the end */
    if (away >= least) continue;
    least = away;
    nearest = option_list[i].name;
  }
  return nearest;
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
    refuse_table(reading,
                 lua_pushfstring(L, "option names are strings, not %s", luaL_typename(L, -2)));
  const char *name = lua_tolstring(L, -2, &length);
  if (!is_plain_name(name, length)) refuse_table(reading, "unknown option");
  const char *nearest = nearest_name(name, reading->place);
  const char *message =
      nearest == NULL
          ? lua_pushfstring(L, "unknown option '%s'", name)
          : lua_pushfstring(L, "unknown option '%s'; did you mean '%s'?", name, nearest);
  refuse_table(reading, message);
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

/* The string at the top of the stack, which must be one and hold no control character. */
static const char *check_text(const struct reading *reading, const char *name) {
  size_t length;
  if (lua_type(reading->L, -1) != LUA_TSTRING) refuse_type(reading, name, "a string");
  const char *text = lua_tolstring(reading->L, -1, &length);
  if (length > MAX_TEXT) refuse(reading, name, "must not be longer than 1 MiB");
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
      refuse(reading, name, "must not hold a control character");
  return text;
}

static const char *check_string(const struct reading *reading, const char *name) {
  const char *text = check_text(reading, name);
  if (text[0] == '\0') refuse(reading, name, "must not be empty");
  return text;
}

static double check_number(const struct reading *reading, const char *name, const char *wanted) {
  if (lua_type(reading->L, -1) != LUA_TNUMBER) refuse_type(reading, name, wanted);
  return (double)lua_tonumber(reading->L, -1);
}

static void read_integer(const struct reading *reading, const struct option *option) {
  double number = check_number(reading, option->name, "a whole number");
  if (!(number >= (double)option->least && number <= (double)option->most) ||
      number != floor(number)) {
    char what[80];
    snprintf(what, sizeof what, "must be a whole number from %lld to %lld",
             (long long)option->least, (long long)option->most);
    refuse(reading, option->name, what);
  }
  *(int64_t *)member(reading, option) = (int64_t)number;
}

static void read_seconds(const struct reading *reading, const struct option *option) {
  double ms = check_number(reading, option->name, "a number of seconds") * 1000;
  if (!(ms > 0 && ms <= 2147483648.0))
    refuse(reading, option->name, "must be a number of seconds above 0 and no more than 2147483");
  if (ms > INT32_MAX) ms = INT32_MAX; /* all that a long of 32 bits holds */
  *(int64_t *)member(reading, option) = ms < 1 ? 1 : (int64_t)ms;
}

static void read_choice(const struct reading *reading, const struct option *option) {
  const char *text = check_text(reading, option->name);
  if (strcmp(text, option->text) != 0 && strcmp(text, option->other) != 0)
    refuse(reading, option->name,
           lua_pushfstring(reading->L, "must be \"%s\" or \"%s\"", option->text, option->other));
  *(const char **)member(reading, option) = text;
}

static void read_boolean(const struct reading *reading, const struct option *option) {
  if (!lua_isboolean(reading->L, -1)) refuse_type(reading, option->name, "a boolean");
  if (option->offset != NOWHERE)
    *(bool *)member(reading, option) = lua_toboolean(reading->L, -1) != 0;
}

static void read_id_token(const struct reading *reading, const struct option *option) {
  struct settings *settings = reading->settings;
  bool may_be_function = reading->place == OPTIONS_CLIENT;
  if (may_be_function && lua_isfunction(reading->L, -1))
    settings->credential.id_token_function = true;
  else if (lua_type(reading->L, -1) == LUA_TSTRING)
    settings->credential.id_token =
        lua_tolstring(reading->L, -1, &settings->credential.id_token_length);
  else
    refuse_type(reading, option->name, may_be_function ? "a string or a function" : "a string");
}

/* Puts a copy that keeps both strings alive in the place of the table at the top. */
static void read_login(const struct reading *reading, const struct option *option) {
  static const char *const names[] = {"username", "password"};
  lua_State *L = reading->L;
  const char *texts[2];
  int given = lua_gettop(L), entries = 0;
  if (!lua_istable(L, given)) refuse_type(reading, option->name, "a table");
  refuse_inherited(reading, given, option->name);
  for (lua_pushnil(L); lua_next(L, given) != 0; lua_pop(L, 1))
    entries++;
  lua_newtable(L);
  for (int i = 0; i < 2; i++) {
    lua_pushstring(L, names[i]);
    lua_rawget(L, given);
    if (lua_isnil(L, -1)) refuse(reading, option->name, "must hold username and password");
    texts[i] = check_string(reading, option->name);
    lua_rawseti(L, given + 1, i + 1);
  }
  if (entries != 2) refuse(reading, option->name, "must hold username and password alone");
  reading->settings->credential.login_username = texts[0];
  reading->settings->credential.login_password = texts[1];
  lua_replace(L, given);
}

/* Appends the parts of the string at the top, which spaces divide, to the list below it; pops the
 * string. */
static void split_scopes(const struct reading *reading, const char *name) {
  lua_State *L = reading->L;
  const char *text = check_text(reading, name);
  int list = lua_gettop(L) - 1;
  while (*(text += strspn(text, " ")) != '\0') {
    size_t length = strcspn(text, " ");
    lua_pushlstring(L, text, length);
    lua_rawseti(L, list, (int)compat_rawlen(L, list) + 1);
    text += length;
  }
  lua_pop(L, 1);
}

/* Puts a list of single scopes in the place of the string or list at the top. */
static void read_scope(const struct reading *reading, const struct option *option) {
  lua_State *L = reading->L;
  int given = lua_gettop(L);
  if (lua_type(L, given) != LUA_TSTRING && lua_type(L, given) != LUA_TTABLE)
    refuse_type(reading, option->name, "a string or a list of strings");
  lua_newtable(L);
  if (lua_type(L, given) == LUA_TSTRING) {
    lua_pushvalue(L, given);
    split_scopes(reading, option->name);
  } else {
    refuse_inherited(reading, given, option->name);
    size_t entries = 0, length = compat_rawlen(L, given);
    for (lua_pushnil(L); lua_next(L, given) != 0; lua_pop(L, 1))
      entries++;
    if (entries != length) refuse(reading, option->name, "must be a list without gaps or names");
    for (size_t i = 1; i <= length; i++) {
      lua_rawgeti(L, given, (int)i);
      split_scopes(reading, option->name);
    }
  }
  lua_replace(L, given);
}

static bool is_header_name(const char *name) {
  static const char marks[] =
      "!#$%&'*+-.^_`|~"; /* RFC 9110 section 5.6.2, besides letters, digits */
  if (*name == '\0') return false;
  for (; *name != '\0'; name++) {
    bool letter = (*name | 0x20) >= 'a' && (*name | 0x20) <= 'z';
    bool decimal = *name >= '0' && *name <= '9';
    if (!letter && !decimal && strchr(marks, *name) == NULL) return false;
  }
  return true;
}

/* The headers that are the module's or libcurl's own to set. */
static bool is_reserved_header(const char *name) {
  static const char *const reserved[] = {
      "Authorization",     "Proxy-Authorization", "Host",   "Content-Length",
      "Transfer-Encoding", "Connection",          "Cookie", "Expect"};
  for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
    if (ascii_same(name, reserved[i])) return true;
  return false;
}

/* Pushes the line that libcurl wants for the header whose name and value are at the top. */
static void push_header(const struct reading *reading, const struct option *option) {
  lua_State *L = reading->L;
  size_t length;
  const char *value = check_text(reading, option->name);
  if (lua_type(L, -2) != LUA_TSTRING)
    refuse(reading, option->name, "must have names that are strings");
  const char *name = lua_tolstring(L, -2, &length);
  if (strlen(name) != length || !is_header_name(name))
    refuse(reading, option->name, "has a name that is no HTTP token");
  if (is_reserved_header(name))
    refuse(reading, option->name, lua_pushfstring(L, "must not set %s", name));
  if (ascii_same(name, "Accept")) reading->settings->own_accept = true;
  if (value[strspn(value, " ")] == '\0')
    lua_pushfstring(L, "%s;", name); /* libcurl's way of sending a header without a value */
  else
    lua_pushfstring(L, "%s: %s", name, value);
}

/* Is this the "host:port" of an address? The signs before it and the star would be libcurl's. */
static bool is_place(const char *key, size_t length) {
  const char *colon = strrchr(key, ':');
  char *rest = NULL;
  if (strlen(key) != length || colon == NULL || colon == key || strchr("+-", *key) != NULL)
    return false;
  for (const char *p = key; p < colon; p++)
    if ((unsigned char)*p <= ' ' || strchr("*/@,\x7F", *p) != NULL) return false;
  long port = strtol(colon + 1, &rest, 10);
  return colon[1] >= '1' && colon[1] <= '9' && *rest == '\0' && port <= 65535;
}

/* Appends an IP number to the string at the top, with the brackets of IPv6. */
static void append_address(const struct reading *reading, const struct option *option,
                           const char *address, size_t length, const char *divider) {
  unsigned char parsed[sizeof(struct in6_addr)];
  char bare[INET6_ADDRSTRLEN];
  bool brackets = length > 2 && address[0] == '[' && address[length - 1] == ']';
  snprintf(bare, sizeof bare, "%.*s", (int)(brackets ? length - 2 : length),
           brackets ? address + 1 : address);
  bool fits = length < sizeof bare;
  if (fits && !brackets && inet_pton(AF_INET, bare, parsed) == 1)
    lua_pushfstring(reading->L, "%s%s", divider, bare);
  else if (fits && inet_pton(AF_INET6, bare, parsed) == 1)
    lua_pushfstring(reading->L, "%s[%s]", divider, bare);
  else
    refuse(reading, option->name, "must have IP numbers as values");
  lua_concat(reading->L, 2);
}

/* Appends the IP numbers, which commas divide, of the string at index to the string at the top. */
static void append_addresses(const struct reading *reading, const struct option *option, int index,
                             const char *divider) {
  lua_pushvalue(reading->L, index);
  const char *text = check_text(reading, option->name);
  lua_pop(reading->L, 1); /* the table that was given keeps it */
  for (;; text++) {
    text += strspn(text, " ");
    size_t length = strcspn(text, ", ");
    append_address(reading, option, text, length, divider);
    text += length;
    text += strspn(text, " ");
    if (*text == '\0') return;
    if (*text != ',') refuse(reading, option->name, "must have IP numbers as values");
    divider = ",";
  }
}

/* Pushes the "host:port:address,address" that libcurl wants for the entry whose key and value, a
 * string or a list of them, are at the top. */
static void push_address(const struct reading *reading, const struct option *option) {
  lua_State *L = reading->L;
  size_t key_length = 0;
  int value = lua_gettop(L);
  const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tolstring(L, -2, &key_length) : "";
  if (!is_place(key, key_length)) refuse(reading, option->name, "must have keys \"host:port\"");
  lua_pushvalue(L, value - 1);
  if (!lua_istable(L, value)) {
    append_addresses(reading, option, value, ":");
    return;
  }
  refuse_inherited(reading, value, option->name);
  size_t count = compat_rawlen(L, value), entries = 0;
  for (lua_pushnil(L); lua_next(L, value) != 0; lua_pop(L, 1))
    entries++;
  if (count == 0 || entries != count)
    refuse(reading, option->name, "must have IP numbers as values");
  for (size_t i = 1; i <= count; i++) {
    lua_rawgeti(L, value, (int)i);
    lua_insert(L, -2);
    append_addresses(reading, option, lua_gettop(L) - 1, i == 1 ? ":" : ",");
    lua_remove(L, -2);
  }
}

/* Makes a string_list of the table at the top, one line for each entry, and puts a table that keeps
 * all of it alive in its place. */
static void read_lines(const struct reading *reading, const struct option *option,
                       void (*push_line)(const struct reading *, const struct option *)) {
  lua_State *L = reading->L;
  int given = lua_gettop(L);
  size_t count = 0, room = 0;
  if (!lua_istable(L, given)) refuse_type(reading, option->name, "a table");
  refuse_inherited(reading, given, option->name);
  for (lua_pushnil(L); lua_next(L, given) != 0; lua_pop(L, 1))
    room++;
  lua_newtable(L);
  int keeper = lua_gettop(L);
  const char **items = lua_newuserdata(L, (room + 1) * sizeof *items);
  lua_rawseti(L, keeper, 1);
  for (lua_pushnil(L); lua_next(L, given) != 0; lua_pop(L, 1)) {
    push_line(reading, option);
    if (count == room) refuse(reading, option->name, "was changed while it was read");
    items[count++] = lua_tostring(L, -1);
    lua_rawseti(L, keeper, (int)count + 1);
  }
  struct string_list *list = member(reading, option);
  *list = (struct string_list){items, count};
  lua_replace(L, given);
}

/* Checks and stores the value at the top of the stack; what the copy is to keep is left there. */
static void read_value(const struct reading *reading, const struct option *option) {
  switch (option->kind) {
  case KIND_STRING:
    *(const char **)member(reading, option) = check_string(reading, option->name);
    break;
  case KIND_TEXT: {
    const char *text = check_text(reading, option->name);
    if (option->offset != NOWHERE) *(const char **)member(reading, option) = text;
    break;
  }
  case KIND_IGNORED:
    check_text(reading, option->name);
    break;
  case KIND_CHOICE:
    read_choice(reading, option);
    break;
  case KIND_BOOLEAN:
    read_boolean(reading, option);
    break;
  case KIND_INTEGER:
    read_integer(reading, option);
    break;
  case KIND_SECONDS:
    read_seconds(reading, option);
    break;
  case KIND_SCOPE:
    read_scope(reading, option);
    break;
  case KIND_HEADERS:
    read_lines(reading, option, push_header);
    break;
  case KIND_ADDRESSES:
    read_lines(reading, option, push_address);
    break;
  case KIND_ID_TOKEN:
    read_id_token(reading, option);
    break;
  case KIND_LOGIN:
    read_login(reading, option);
    break;
  }
}

/* Raises for an option that is known but stands in the wrong table. */
static void refuse_place(const struct reading *reading, const struct option *option) {
  const char *what = "does not belong to a log-in";
  if (reading->place == OPTIONS_CLIENT)
    what = "belongs to a request, not to a client";
  else if (reading->place == OPTIONS_REQUEST && (option->places & OPTIONS_FETCH) != 0)
    what = "belongs to the client, or to a request of client:fetch";
  else if (reading->place != OPTIONS_LOGIN)
    what = "belongs to the client, not to a request";
  refuse(reading, option->name, what);
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
    if ((option->places & reading->place) == 0) refuse_place(reading, option);
    read_value(reading, option);
    lua_setfield(L, reading->copy, option->name); /* leaves the key for lua_next */
  }
}

static void set_defaults(const struct reading *reading) {
  memset(reading->settings, 0, sizeof *reading->settings);
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    const struct option *option = &option_list[i];
    if (option->text != NULL)
      *(const char **)member(reading, option) = option->text;
    else if (option->number != 0)
      *(int64_t *)member(reading, option) = option->number;
  }
  if (reading->place == OPTIONS_LOGIN) reading->settings->path = OPTIONS_LOGIN_PATH;
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
    refuse_table(reading, "option 'host' (or 'url') is missing");
  for (size_t i = 0; settings->url != NULL && i < sizeof parts / sizeof *parts; i++)
    if (was_given(reading, parts[i]))
      refuse(reading, "url", "stands instead of host, port and path");
}

/* User name and password go together, and the name must fit RFC 7617's "user:password". */
static void check_user(const struct reading *reading) {
  const struct settings *settings = reading->settings;
  if (settings->credential.username != NULL && settings->credential.password == NULL)
    refuse(reading, "username", "needs option 'password' beside it");
  if (settings->credential.password != NULL && settings->credential.username == NULL)
    refuse(reading, "password", "needs option 'username' beside it");
  bool basic = reading->place != OPTIONS_LOGIN;
  /* RFC 7617 permits an empty one, and directories take it for no login at all */
  if (!basic && settings->credential.password != NULL && settings->credential.password[0] == '\0')
    refuse(reading, "password", "must not be empty");
  if (basic && settings->credential.username != NULL &&
      strchr(settings->credential.username, ':') != NULL)
    refuse(reading, "username", "must not hold a colon");
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

static bool is_request(const struct reading *reading) {
  return reading->place == OPTIONS_REQUEST || reading->place == OPTIONS_FETCH;
}

static void check_credential(const struct reading *reading) {
  check_user(reading);
  unsigned count = count_credentials(reading->settings);
  if (count == 1 || (count == 0 && is_request(reading))) return;
  const char *problem = "more than one credential: pass only one of id_token, id_token_file, "
                        "username and password, login, anonymous";
  if (reading->place == OPTIONS_LOGIN)
    problem = "a log-in needs username and password";
  else if (count == 0)
    problem = "no credential: pass id_token, id_token_file, username and password, login, or "
              "anonymous = true";
  refuse_table(reading, problem);
}

/* User name and password are for the identity provider's form, not for HTTP Basic. */
static void turn_into_login(struct settings *settings) {
  settings->credential.login_username = settings->credential.username;
  settings->credential.login_password = settings->credential.password;
  settings->credential.username = settings->credential.password = NULL;
}

static void check_tls(const struct reading *reading) {
  if (reading->settings->key != NULL && reading->settings->cert == NULL)
    refuse(reading, "key", "needs option 'cert' beside it");
}

/* libcurl finds out about another scheme at each connection only. */
static void check_proxy(const struct reading *reading) {
  static const char *const schemes[] = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"};
  const char *proxy = reading->settings->proxy;
  const char *end = proxy == NULL ? NULL : strstr(proxy, "://");
  if (end == NULL) return;
  size_t length = (size_t)(end - proxy);
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
    if (strlen(schemes[i]) == length && ascii_begins(proxy, schemes[i], length)) return;
  refuse(reading, "proxy",
         "must begin with http://, https://, socks4://, socks4a://, socks5:// or "
         "socks5h://, or with the proxy's name");
}

bool options_read(lua_State *L, struct options_origin origin, enum options_place place,
                  struct settings *settings) {
  const struct credential inherited = settings->credential;
  struct reading reading = {L, origin, place, settings, 0};
  if (!lua_istable(L, origin.index))
    refuse_table(&reading,
                 lua_pushfstring(L, "a table is expected, not %s", luaL_typename(L, origin.index)));
  refuse_inherited(&reading, origin.index, NULL);
  lua_newtable(L);
  reading.copy = lua_gettop(L);
  if (is_request(&reading))
    settings->credential = (struct credential){0};
  else
    set_defaults(&reading);
  read_all(&reading);
  check_credential(&reading);
  if (!is_request(&reading)) {
    check_endpoint(&reading);
    check_tls(&reading);
    check_proxy(&reading);
    if (place == OPTIONS_LOGIN) turn_into_login(settings);
    return true;
  }
  if (count_credentials(settings) > 0) return true;
  settings->credential = inherited;
  return false;
}
