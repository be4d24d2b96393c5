/* result.c - the results of a failed call for the script: nil, message, code, details. */
#include "result.h"

#include "table.h"

int result_push_failure(lua_State *L, const struct failure *failure, const char *url, int errors) {
  lua_pushnil(L);
  lua_pushstring(L, failure->message);
  lua_pushstring(L, failure_name(failure->code));
  lua_createtable(L, 0, 6);
  lua_pushboolean(L, failure->retryable);
  lua_setfield(L, -2, "retryable");
  table_set_number(L, -1, "attempts", failure->attempts);
  if (failure->status != 0) table_set_number(L, -1, "status", (double)failure->status);
  if (failure->curl_code != 0) table_set_number(L, -1, "curl_code", failure->curl_code);
  if (failure->retry_after >= 0) table_set_number(L, -1, "retry_after", failure->retry_after);
  if (url != NULL) {
    lua_pushstring(L, url);
    lua_setfield(L, -2, "url");
  }
  if (errors != 0 && lua_istable(L, errors)) {
    lua_pushvalue(L, errors);
    lua_setfield(L, -2, "errors");
  }
  return 4;
}
