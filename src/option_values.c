/* option_values.c - the readers of options with a single value, and of the credentials. */
#include "option_values.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "table.h"

static const char *check_string(const struct reading *reading, const char *name) {
  const char *text = option_check_text(reading, name);
  if (text[0] == '\0') option_refuse(reading, name, "must not be empty");
  return text;
}

static double check_number(const struct reading *reading, const char *name, const char *wanted) {
  if (lua_type(reading->L, -1) != LUA_TNUMBER) option_refuse_type(reading, name, wanted);
  return (double)lua_tonumber(reading->L, -1);
}

void option_read_string(const struct reading *reading, const struct option *option) {
  *(const char **)option_member(reading, option) = check_string(reading, option->name);
}

void option_read_text(const struct reading *reading, const struct option *option) {
  const char *text = option_check_text(reading, option->name);
  if (option->offset != OPTION_NOWHERE) *(const char **)option_member(reading, option) = text;
}

void option_read_integer(const struct reading *reading, const struct option *option) {
  double number = check_number(reading, option->name, "a whole number");
  if (!(number >= (double)option->min && number <= (double)option->max) ||
      number != floor(number)) {
    char what[80];
    snprintf(what, sizeof what, "must be a whole number from %lld to %lld", (long long)option->min,
             (long long)option->max);
    option_refuse(reading, option->name, what);
  }
  *(int64_t *)option_member(reading, option) = (int64_t)number;
}

void option_read_seconds(const struct reading *reading, const struct option *option) {
  double ms = check_number(reading, option->name, "a number of seconds") * 1000;
  if (!(ms > 0 && ms <= 2147483648.0))
    option_refuse(reading, option->name,
                  "must be a number of seconds above 0 and no more than 2147483");
  if (ms > INT32_MAX) ms = INT32_MAX; /* all that a long of 32 bits holds */
  *(int64_t *)option_member(reading, option) = ms < 1 ? 1 : (int64_t)ms;
}

void option_read_choice(const struct reading *reading, const struct option *option) {
  const char *text = option_check_text(reading, option->name);
  if (strcmp(text, option->text) != 0 && strcmp(text, option->other) != 0)
    option_refuse(
        reading, option->name,
        lua_pushfstring(reading->L, "must be \"%s\" or \"%s\"", option->text, option->other));
  *(const char **)option_member(reading, option) = text;
}

void option_read_boolean(const struct reading *reading, const struct option *option) {
  if (!lua_isboolean(reading->L, -1)) option_refuse_type(reading, option->name, "a boolean");
  if (option->offset != OPTION_NOWHERE)
    *(bool *)option_member(reading, option) = lua_toboolean(reading->L, -1) != 0;
}

void option_read_id_token(const struct reading *reading, const struct option *option) {
  struct settings *settings = reading->settings;
  bool may_be_function = reading->kind == OPTIONS_CLIENT;
  if (may_be_function && lua_isfunction(reading->L, -1))
    settings->credential.id_token_function = true;
  else if (lua_type(reading->L, -1) == LUA_TSTRING)
    settings->credential.id_token =
        lua_tolstring(reading->L, -1, &settings->credential.id_token_length);
  else
    option_refuse_type(reading, option->name,
                       may_be_function ? "a string or a function" : "a string");
}

/* Replaces the table at the top with a copy that keeps both strings alive. */
void option_read_login(const struct reading *reading, const struct option *option) {
  static const char *const names[] = {"username", "password"};
  lua_State *L = reading->L;
  const char *texts[2];
  int given = lua_gettop(L);
  if (!lua_istable(L, given)) option_refuse_type(reading, option->name, "a table");
  option_refuse_inherited(reading, given, option->name);
  lua_newtable(L);
  for (int i = 0; i < 2; i++) {
    lua_pushstring(L, names[i]);
    lua_rawget(L, given);
    if (lua_isnil(L, -1))
      option_refuse(reading, option->name, "must contain username and password");
    texts[i] = check_string(reading, option->name);
    lua_rawseti(L, given + 1, i + 1);
  }
  if (table_count(L, given) != 2)
    option_refuse(reading, option->name, "must contain username and password, and nothing else");
  reading->settings->credential.login_username = texts[0];
  reading->settings->credential.login_password = texts[1];
  lua_replace(L, given);
}
