/* json.c - converts JSON text to a Lua table with lua-cjson. cjson reads numbers with strtod, whose
 * decimal point depends on the current locale, and replaces the point with that of the locale in
 * which any Lua state of the process last called cjson.new. These may differ, so cjson gets numbers
 * without a decimal point: 12.5 as 125e-1. */
#include "json.h"

#include <langinfo.h>
#include <lauxlib.h>
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "compat.h"

enum { MAX_DEPTH = 32, DECODER_RESULTS = 2 };

/* Pushes the function with this name of the table at the top. */
static void push_function(lua_State *L, const char *name) {
  if (lua_istable(L, -1))
    lua_getfield(L, -1, name);
  else
    lua_pushnil(L);
  if (!lua_isfunction(L, -1))
    luaL_error(L, "icptoken needs lua-cjson, but the module 'cjson' has no function '%s'", name);
}

/* Calls a function of the table at the top with the argument above it, which it pops. */
static void configure_decoder(lua_State *L, const char *name) {
  int argument = lua_gettop(L);
  lua_pushvalue(L, argument - 1);
  push_function(L, name);
  lua_pushvalue(L, argument);
  lua_call(L, 1, 0);
  lua_settop(L, argument - 1);
}

static int push_decoder(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "cjson");
  lua_call(L, 1, 1);
  push_function(L, "new");
  lua_call(L, 0, 1);
  lua_pushboolean(L, 0);
  configure_decoder(L, "decode_invalid_numbers");
  lua_pushinteger(L, MAX_DEPTH);
  configure_decoder(L, "decode_max_depth");
  push_function(L, "decode");
  return 1;
}

/* cjson aborts the process if the decimal point is not a single byte, as in Persian. Only in such a
 * locale is this thread switched to the C locale while cjson is loaded: for a decimal point that
 * cjson can read it must see the current locale, for other users of cjson. */
void json_push_decoder(lua_State *L) {
  lua_pushcfunction(L, push_decoder); /* what may raise is done before the change of locale */
  bool readable = strlen(nl_langinfo(RADIXCHAR)) == 1;
  locale_t own = readable ? (locale_t)0 : newlocale(LC_ALL_MASK, "C", (locale_t)0);
  if (!readable && own == (locale_t)0) luaL_error(L, "not enough memory");
  locale_t before = readable ? (locale_t)0 : uselocale(own);
  int status = lua_pcall(L, 0, 1, 0);
  if (!readable) {
    uselocale(before);
    freelocale(own);
  }
  if (status != 0) lua_error(L);
}

/* The result of converting a value to the form that users see. */
enum tidiness { TIDY_AS_IS, TIDY_REPLACED, TIDY_NOT_FINITE, TIDY_NOT_JSON };

static enum tidiness tidy_table(lua_State *L, int depth);

static enum tidiness tidy_number(lua_State *L) {
  double number = (double)lua_tonumber(L, -1);
  if (!isfinite(number)) return TIDY_NOT_FINITE;
  if (compat_isinteger(L, -1) || !compat_is_whole(number)) return TIDY_AS_IS;
  lua_pop(L, 1);
  compat_pushwhole(L, number);
  return TIDY_REPLACED;
}

/* Converts the value at the top, or leaves it. */
static enum tidiness tidy_value(lua_State *L, int depth) {
  switch (lua_type(L, -1)) {
  case LUA_TSTRING:
  case LUA_TBOOLEAN:
    return TIDY_AS_IS;
  case LUA_TNUMBER:
    return tidy_number(L);
  case LUA_TLIGHTUSERDATA: /* cjson.null, which is true in a condition */
    lua_pop(L, 1);
    lua_pushnil(L);
    return TIDY_REPLACED;
  case LUA_TTABLE:
    return depth < MAX_DEPTH ? tidy_table(L, depth + 1) : TIDY_NOT_JSON;
  default:
    return TIDY_NOT_JSON;
  }
}

/* Assigning to existing fields is allowed during lua_next. */
static enum tidiness tidy_table(lua_State *L, int depth) {
  luaL_checkstack(L, 4, "JSON");
  if (lua_getmetatable(L, -1)) {
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_setmetatable(L, -2);
  }
  for (lua_pushnil(L); lua_next(L, -2) != 0;) {
    enum tidiness tidiness = tidy_value(L, depth);
    if (tidiness == TIDY_NOT_FINITE || tidiness == TIDY_NOT_JSON) {
      lua_pop(L, 2);
      return tidiness;
    }
    if (tidiness == TIDY_REPLACED) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, -4);
    } else {
      lua_pop(L, 1);
    }
  }
  return TIDY_AS_IS;
}

/* A number as RFC 8259 section 6 writes it. */
struct number {
  const char *integer, *fraction; /* where their digits begin */
  size_t integer_length, fraction_length;
  int64_t exponent;
  bool negative;
};

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static size_t count_digits(const char *text, const char *end) {
  size_t count = 0;
  while (text + count < end && is_digit(text[count]))
    count++;
  return count;
}

/* Skips the exponent at text, if there is one. */
static const char *read_exponent(const char *text, const char *end, int64_t *exponent) {
  const int64_t max_exponent = INT64_C(1000000000000); /* more than any text has digits */
  const char *digits = text + 1;
  *exponent = 0;
  if (text == end || (*text | 0x20) != 'e') return text;
  if (digits < end && (*digits == '+' || *digits == '-')) digits++;
  size_t count = count_digits(digits, end);
  for (size_t i = 0; i < count; i++)
    if (*exponent < max_exponent) *exponent = *exponent * 10 + (digits[i] - '0');
  if (digits[-1] == '-') *exponent = -*exponent;
  return count == 0 ? text : digits + count;
}

/* Finds the longest number at text and returns its end; text itself if there is none. */
static const char *read_number(const char *text, const char *end, struct number *number) {
  const char *p = text;
  *number = (struct number){0};
  number->negative = *p == '-';
  if (number->negative) p++;
  number->integer = p;
  number->integer_length = count_digits(p, end);
  if (number->integer_length == 0) return text;
  if (*p == '0') number->integer_length = 1; /* and cjson refuses what follows */
  p += number->integer_length;
  if (p < end && *p == '.') {
    number->fraction = p + 1;
    number->fraction_length = count_digits(p + 1, end);
    if (number->fraction_length == 0) return p;
    p += 1 + number->fraction_length;
  }
  return read_exponent(p, end, &number->exponent);
}

/* Writes a number with a fraction as its digits and an exponent. */
static void add_scaled(luaL_Buffer *out, const struct number *number) {
  char tail[32];
  const char *integer = number->integer, *fraction = number->fraction;
  size_t integer_length = number->integer_length, fraction_length = number->fraction_length;
  int64_t exponent = number->exponent - (int64_t)fraction_length;
  if (*integer == '0') { /* a number must not begin with it, unless it is all of it */
    integer_length = 0;
    while (fraction_length > 1 && *fraction == '0')
      fraction++, fraction_length--;
  }
  if (number->negative) luaL_addchar(out, '-');
  luaL_addlstring(out, integer, integer_length);
  luaL_addlstring(out, fraction, fraction_length);
  int size = snprintf(tail, sizeof tail, "e%lld", (long long)exponent);
  luaL_addlstring(out, tail, (size_t)size);
}

/* Returns the position after the closing quote of the string that starts at text, or the end. The
 * quote is searched for again only behind one that was escaped, so the time is linear. */
static const char *skip_string(const char *text, const char *end) {
  const char *quote = text;
  for (text++; text < end;) {
    if (quote < text) quote = memchr(text, '"', (size_t)(end - text));
    if (quote == NULL) return end;
    const char *escape = memchr(text, '\\', (size_t)(quote - text));
    if (escape == NULL) return quote + 1;
    text = escape + 2;
  }
  return end;
}

/* Pushes the text with its numbers in a form that strtod reads identically in every locale: without
 * a decimal point, and followed by a space, because a comma may be a decimal point. */
static void push_portable(lua_State *L, const char *text, size_t length) {
  luaL_Buffer out;
  struct number number;
  const char *end = text + length, *done = text, *p = text;
  luaL_buffinit(L, &out);
  while (p < end) {
    if (*p == '"') {
      p = skip_string(p, end);
    } else if (*p == '-' || is_digit(*p)) {
      const char *behind = read_number(p, end, &number);
      if (number.fraction_length > 0) {
        luaL_addlstring(&out, done, (size_t)(p - done));
        add_scaled(&out, &number);
      } else {
        if (behind == p) behind = p + 1; /* a sign alone, which cjson refuses */
        luaL_addlstring(&out, done, (size_t)(behind - done));
      }
      luaL_addchar(&out, ' ');
      done = p = behind;
    } else {
      p++;
    }
  }
  luaL_addlstring(&out, done, (size_t)(end - done));
  luaL_pushresult(&out);
}

static bool begins_object(const char *text, size_t length) {
  size_t i = 0;
  while (i < length && strchr(" \t\r\n", text[i]) != NULL && text[i] != '\0')
    i++;
  return i < length && text[i] == '{';
}

/* Replaces the two values at the top with a string that says what is wrong. Returns false. */
static bool refuse_json(lua_State *L, const char *why) {
  lua_pop(L, DECODER_RESULTS);
  lua_pushstring(L, why);
  return false;
}

/* The same with the decoder's message, the value at index, if it is a string. It names a position,
 * but not one in the original text. */
static bool refuse_by_decoder(lua_State *L, int index) {
  size_t length = 0;
  const char *text = lua_type(L, index) == LUA_TSTRING ? lua_tolstring(L, index, &length) : NULL;
  if (text == NULL) return refuse_json(L, "it is not valid JSON");
  const char *position = strstr(text, " at character ");
  if (position != NULL) length = (size_t)(position - text);
  lua_pushlstring(L, text, length);
  lua_replace(L, -1 - DECODER_RESULTS);
  lua_pop(L, DECODER_RESULTS - 1);
  return false;
}

bool json_push_object(lua_State *L, int decode, const char *text, size_t length) {
  if (!begins_object(text, length) ||
      memchr(text, '\0', length) != NULL) { /* cjson ends at a NUL */
    lua_pushliteral(L, "it is not a JSON object");
    return false;
  }
  luaL_checkstack(L, LUA_MINSTACK, "JSON");
  lua_pushvalue(L, decode);
  push_portable(L, text, length);
  int status = lua_pcall(L, 1, DECODER_RESULTS, 0);
  if (status == LUA_ERRMEM) lua_error(L);
  if (status != 0) {
    lua_pushnil(L);
    return refuse_by_decoder(L, -2);
  }
  if (!lua_istable(L, -2)) return refuse_by_decoder(L, -1); /* cjson.safe returns nil, message */
  lua_pop(L, 1);
  switch (tidy_table(L, 1)) {
  case TIDY_NOT_FINITE:
    lua_pushnil(L);
    return refuse_json(L, "it contains a number that is not finite");
  case TIDY_NOT_JSON:
    lua_pushnil(L);
    return refuse_json(L, "it is not valid JSON");
  default:
    return true;
  }
}
