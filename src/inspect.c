/* inspect.c - functions on text that a script has: the parts of a JWT, and the Bearer challenge of
 * a WWW-Authenticate value. */
#include "inspect.h"

#include "bearer.h"
#include "buffer.h"
#include "challenge.h"
#include "json.h"
#include "jwt.h"

static bool refuse_part(struct failure *failure, const char *name, const char *what) {
  failure_set(failure, FAILURE_INVALID_RESPONSE, false, "the JWT's %s is %s", name, what);
  return false;
}

/* Sets field name of the table at the top to the object in a base64url part of a JWT. */
static bool set_part(lua_State *L, int decode, struct span part, const char *name,
                     struct failure *failure) {
  char *text = lua_newuserdata(L, JWT_ROOM(part)); /* Lua's, as what follows may raise */
  size_t length;
  if (!jwt_decode_part(part, text, &length)) {
    lua_pop(L, 1);
    return refuse_part(failure, name, "not in base64url");
  }
  bool ok = json_push_object(L, decode, text, length);
  buffer_wipe_memory(text, length);
  lua_remove(L, -2);
  if (ok) {
    lua_setfield(L, -2, name);
    return true;
  }
  lua_pop(L, 1);
  return refuse_part(failure, name, "not a JSON object");
}

bool inspect_push_jwt(lua_State *L, int decode, const char *text, size_t length,
                      struct failure *failure) {
  struct jwt jwt;
  struct span token = bearer_strip(text, length);
  if (!jwt_split(token.start, token.length, &jwt)) {
    failure_set(failure, FAILURE_INVALID_RESPONSE, false,
                "this is not a JWT, which has three base64url parts separated by dots");
    return false;
  }
  if (!jwt_is_base64url(jwt.signature))
    return refuse_part(failure, "signature", "not in base64url");
  lua_createtable(L, 0, 3);
  if (!set_part(L, decode, jwt.header, "header", failure) ||
      !set_part(L, decode, jwt.claims, "claims", failure)) {
    lua_pop(L, 1);
    return false;
  }
  lua_pushlstring(L, jwt.signature.start, jwt.signature.length);
  lua_setfield(L, -2, "signature");
  return true;
}

bool inspect_push_challenge(lua_State *L, const char *text, size_t length,
                            struct failure *failure) {
  struct challenge challenge;
  const char *problem = challenge_read(text, length, &challenge);
  if (problem != NULL) {
    failure_set(failure, FAILURE_INVALID_RESPONSE, false,
                "cannot read this WWW-Authenticate value: %s", problem);
    return false;
  }
  lua_createtable(L, 0, CHALLENGE_FIELDS);
  for (size_t i = 0; i <= CHALLENGE_ERROR; i++) {
    const struct span *value = &challenge.value[i];
    if (value->start == NULL) continue;
    char *room = lua_newuserdata(L, value->length + 1);
    lua_pushlstring(L, room, challenge_unescape(*value, room));
    lua_setfield(L, -3, challenge_names[i]);
    lua_pop(L, 1);
  }
  return true;
}
