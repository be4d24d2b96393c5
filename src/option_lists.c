/* option_lists.c - the readers of options that are lists: scopes, headers, addresses. */
#include "option_lists.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ascii.h"
#include "compat.h"
#include "table.h"

/* Appends the parts of the string at the top, which are separated by spaces, to the list below it;
 * pops the string. */
static void split_scopes(const struct reading *reading, const char *name) {
  lua_State *L = reading->L;
  const char *text = option_check_text(reading, name);
  int list = lua_gettop(L) - 1;
  while (*(text += strspn(text, " ")) != '\0') {
    size_t length = strcspn(text, " ");
    lua_pushlstring(L, text, length);
    lua_rawseti(L, list, (int)compat_rawlen(L, list) + 1);
    text += length;
  }
  lua_pop(L, 1);
}

/* Replaces the string or list at the top with a list of single scopes. */
void option_read_scope(const struct reading *reading, const struct option *option) {
  lua_State *L = reading->L;
  int given = lua_gettop(L);
  if (lua_type(L, given) != LUA_TSTRING && lua_type(L, given) != LUA_TTABLE)
    option_refuse_type(reading, option->name, "a string or a list of strings");
  lua_newtable(L);
  if (lua_type(L, given) == LUA_TSTRING) {
    lua_pushvalue(L, given);
    split_scopes(reading, option->name);
  } else {
    option_refuse_inherited(reading, given, option->name);
    size_t length = compat_rawlen(L, given);
    if (table_count(L, given) != length)
      option_refuse(reading, option->name, "must be a list without gaps or names");
    for (size_t i = 1; i <= length; i++) {
      lua_rawgeti(L, given, (int)i);
      split_scopes(reading, option->name);
    }
  }
  lua_replace(L, given);
}

static bool is_header_name(const char *name) {
  if (*name == '\0') return false;
  while (ascii_is_tchar(*name))
    name++;
  return *name == '\0';
}

/* The headers that only the module or libcurl may set. */
static bool is_reserved_header(const char *name) {
  static const char *const reserved[] = {
      "Authorization",     "Proxy-Authorization", "Host",   "Content-Length",
      "Transfer-Encoding", "Connection",          "Cookie", "Expect"};
  for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
    if (ascii_same(name, reserved[i])) return true;
  return false;
}

/* Pushes libcurl's form of the header whose name and value are at the top. */
static void push_header(const struct reading *reading, const struct option *option) {
  lua_State *L = reading->L;
  size_t length;
  const char *value = option_check_text(reading, option->name);
  if (lua_type(L, -2) != LUA_TSTRING)
    option_refuse(reading, option->name, "must have names that are strings");
  const char *name = lua_tolstring(L, -2, &length);
  if (strlen(name) != length || !is_header_name(name))
    option_refuse(reading, option->name, "has a name that is not an HTTP token");
  bool is_accept = ascii_same(name, "Accept"), is_of_client = reading->kind != OPTIONS_FETCH;
  if (is_reserved_header(name) || (is_accept && !is_of_client))
    option_refuse(reading, option->name, lua_pushfstring(L, "must not set %s", name));
  if (is_accept) reading->settings->own_accept = true;
  if (value[strspn(value, " ")] == '\0')
    lua_pushfstring(L, "%s;", name); /* libcurl's syntax for a header without a value */
  else
    lua_pushfstring(L, "%s: %s", name, value);
}

/* Is this the "host:port" of an address? Leading signs and the star have a meaning of their own in
 * libcurl. */
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

/* Appends an IP address to the string at the top, with brackets around IPv6. */
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
    option_refuse(reading, option->name, "must have IP addresses as values");
  lua_concat(reading->L, 2);
}

/* Appends the IP addresses, separated by commas, of the string at index to the string at the top.
 */
static void append_addresses(const struct reading *reading, const struct option *option, int index,
                             const char *divider) {
  lua_pushvalue(reading->L, index);
  const char *text = option_check_text(reading, option->name);
  lua_pop(reading->L, 1); /* the table that was given keeps it */
  for (;; text++) {
    text += strspn(text, " ");
    size_t length = strcspn(text, ", ");
    append_address(reading, option, text, length, divider);
    text += length;
    text += strspn(text, " ");
    if (*text == '\0') return;
    if (*text != ',') option_refuse(reading, option->name, "must have IP addresses as values");
    divider = ",";
  }
}

/* Pushes libcurl's "host:port:address,address" for the entry whose key and value, a string or a
 * list of strings, are at the top. */
static void push_address(const struct reading *reading, const struct option *option) {
  lua_State *L = reading->L;
  size_t key_length = 0;
  int value = lua_gettop(L);
  const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tolstring(L, -2, &key_length) : "";
  if (!is_place(key, key_length))
    option_refuse(reading, option->name, "must have keys \"host:port\"");
  lua_pushvalue(L, value - 1);
  if (!lua_istable(L, value)) {
    append_addresses(reading, option, value, ":");
    return;
  }
  option_refuse_inherited(reading, value, option->name);
  size_t count = compat_rawlen(L, value);
  if (count == 0 || table_count(L, value) != count)
    option_refuse(reading, option->name, "must have IP addresses as values");
  for (size_t i = 1; i <= count; i++) {
    lua_rawgeti(L, value, (int)i);
    lua_insert(L, -2);
    append_addresses(reading, option, lua_gettop(L) - 1, i == 1 ? ":" : ",");
    lua_remove(L, -2);
  }
}

/* Makes a string_list of the table at the top, one line for each entry, and replaces the table with
 * one that keeps all lines alive. */
static void read_lines(const struct reading *reading, const struct option *option,
                       option_reader *push_line, struct string_list *list) {
  lua_State *L = reading->L;
  int given = lua_gettop(L);
  size_t count = 0;
  if (!lua_istable(L, given)) option_refuse_type(reading, option->name, "a table");
  option_refuse_inherited(reading, given, option->name);
  size_t room = table_count(L, given);
  lua_newtable(L);
  int keeper = lua_gettop(L);
  const char **items = lua_newuserdata(L, (room + 1) * sizeof *items);
  lua_rawseti(L, keeper, 1);
  for (lua_pushnil(L); lua_next(L, given) != 0; lua_pop(L, 1)) {
    push_line(reading, option);
    if (count == room) option_refuse(reading, option->name, "was changed while it was read");
    items[count++] = lua_tostring(L, -1);
    lua_rawseti(L, keeper, (int)count + 1);
  }
  *list = (struct string_list){items, count};
  lua_replace(L, given);
}

void option_read_headers(const struct reading *reading, const struct option *option) {
  struct settings *settings = reading->settings;
  bool is_of_client = reading->kind != OPTIONS_FETCH;
  read_lines(reading, option, push_header,
             is_of_client ? &settings->headers : &settings->request_headers);
}

void option_read_resolve(const struct reading *reading, const struct option *option) {
  read_lines(reading, option, push_address, option_member(reading, option));
}
