/* errors.c - the errors that a server reports with a refusal: the list for details.errors, and the
 * text for a message. */
#include "errors.h"

#include <stdio.h>
#include <string.h>

#include "challenge.h"
#include "compat.h"
#include "json.h"
#include "table.h"
#include "transfer.h"

enum { MAX_ERRORS = 32 };

/* Sets field name of the table at the top to the scrubbed text at value, if it is a string. */
static void set_sample(lua_State *L, const struct reader *reader, const char *name, int value) {
  char sample[SCRUB_SIZE];
  size_t length;
  if (lua_type(L, value) != LUA_TSTRING) return;
  const char *text = lua_tolstring(L, value, &length);
  lua_pushstring(L, scrub_sample(reader->context->secrets, text, length, sample));
  lua_setfield(L, -2, name);
}

/* Pops code and message (strings, or anything else for none) and appends them as an entry to the
 * list at index. */
static void append_error(lua_State *L, const struct reader *reader, int list) {
  int code = lua_gettop(L) - 1, message = code + 1;
  lua_createtable(L, 0, 2);
  set_sample(L, reader, "code", code);
  set_sample(L, reader, "message", message);
  lua_rawseti(L, list, (int)compat_rawlen(L, list) + 1);
  lua_settop(L, code - 1);
}

/* Reads the distribution project's { "errors": [{ "code", "message" }] }, whose list is at the top.
 */
static void append_registry_errors(lua_State *L, const struct reader *reader, int list) {
  int errors = lua_gettop(L);
  size_t count = compat_rawlen(L, errors);
  for (size_t i = 1; i <= count && i <= MAX_ERRORS; i++) {
    lua_rawgeti(L, errors, (int)i);
    if (lua_istable(L, -1)) {
      table_push_field(L, errors + 1, "code");
      table_push_field(L, errors + 1, "message");
      append_error(L, reader, list);
    }
    lua_settop(L, errors);
  }
}

/* Reads the three simpler forms: OAuth 2's error and error_description, details, message. The
 * object is at index. */
static void append_plain_error(lua_State *L, const struct reader *reader, int object, int list) {
  if (table_push_field(L, object, "error") == LUA_TSTRING) {
    table_push_field(L, object, "error_description");
    append_error(L, reader, list);
    return;
  }
  lua_pop(L, 1);
  lua_pushnil(L);
  if (table_push_field(L, object, "details") == LUA_TNIL) {
    lua_pop(L, 1);
    table_push_field(L, object, "message");
  }
  if (lua_type(L, -1) == LUA_TSTRING)
    append_error(L, reader, list);
  else
    lua_pop(L, 2);
}

void errors_push_object(lua_State *L, const struct reader *reader, int object) {
  luaL_checkstack(L, 12, "errors");
  lua_newtable(L);
  int list = lua_gettop(L);
  if (table_push_field(L, object, "errors") == LUA_TTABLE)
    append_registry_errors(L, reader, list);
  else
    append_plain_error(L, reader, object, list);
  lua_settop(L, list);
  if (compat_rawlen(L, list) > 0) return;
  lua_pop(L, 1);
  lua_pushnil(L);
}

void errors_push_body(lua_State *L, const struct reader *reader, const struct buffer *body) {
  int top = lua_gettop(L);
  if (body->length > 0 && json_push_object(L, reader->decode, body->data, body->length))
    errors_push_object(L, reader, top + 1);
  else
    lua_pushnil(L);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

void errors_push_challenge(lua_State *L, const struct reader *reader, const char *value) {
  char text[ANSWER_VALUE_SIZE];
  struct challenge challenge;
  if (challenge_read(value, strlen(value), &challenge) != NULL ||
      challenge.value[CHALLENGE_ERROR].start == NULL) {
    lua_pushnil(L);
    return;
  }
  lua_newtable(L);
  int list = lua_gettop(L);
  for (int i = CHALLENGE_ERROR; i <= CHALLENGE_DESCRIPTION; i++) {
    const struct span *said = &challenge.value[i];
    if (said->start != NULL)
      lua_pushlstring(L, text, challenge_unescape(*said, text));
    else
      lua_pushnil(L);
  }
  append_error(L, reader, list);
}

void errors_write_words(lua_State *L, const struct reader *reader, const struct buffer *body,
                        char words[SCRUB_SIZE]) {
  words[0] = '\0';
  if (!lua_istable(L, -1)) {
    if (body->length > 0) scrub_sample(reader->context->secrets, body->data, body->length, words);
    return;
  }
  lua_rawgeti(L, -1, 1);
  if (table_push_field(L, -1, "message") != LUA_TSTRING) {
    lua_pop(L, 1);
    table_push_field(L, -1, "code");
  }
  if (lua_type(L, -1) == LUA_TSTRING) snprintf(words, SCRUB_SIZE, "%s", lua_tostring(L, -1));
  lua_pop(L, 2);
}
