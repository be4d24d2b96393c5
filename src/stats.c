/* stats.c - client:stats: the counters of a client, and the timings of its last transfer. */
#include "stats.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <string.h>

#include "client.h"
#include "span.h"
#include "table.h"

/* The stages of a transfer, in microseconds since its start. */
static const struct {
  const char *name;
  CURLINFO what;
} stages[] = {
    {"namelookup", CURLINFO_NAMELOOKUP_TIME_T},       {"connect", CURLINFO_CONNECT_TIME_T},
    {"appconnect", CURLINFO_APPCONNECT_TIME_T},       {"pretransfer", CURLINFO_PRETRANSFER_TIME_T},
    {"starttransfer", CURLINFO_STARTTRANSFER_TIME_T}, {"total", CURLINFO_TOTAL_TIME_T}};

enum { STAGES = sizeof stages / sizeof *stages };

static void push_timings(lua_State *L, const curl_off_t *reached, long connections) {
  lua_createtable(L, 0, STAGES + 1);
  for (size_t i = 0; i < STAGES; i++) {
    lua_pushnumber(L, (lua_Number)reached[i] / 1000000);
    lua_setfield(L, -2, stages[i].name);
  }
  table_set_number(L, -1, "connections", (double)connections);
}

/* Copies the certificates that the server sent when the last transfer opened its connection to
 * room, in PEM and one after the other, and returns their size. If room is NULL, returns only the
 * size. */
static size_t copy_certificates(const struct client *client, char *room, size_t size) {
  static const char name[] = "Cert:";
  struct curl_certinfo *info = NULL;
  size_t used = 0;
  if (!client->settings.certificates) return 0;
  if (curl_easy_getinfo(client->exchange.transfer.easy, CURLINFO_CERTINFO, &info) != CURLE_OK)
    return 0;
  for (int i = 0; info != NULL && i < info->num_of_certs; i++)
    for (const struct curl_slist *line = info->certinfo[i]; line != NULL; line = line->next) {
      if (strncmp(line->data, name, sizeof name - 1) != 0) continue;
      const char *start = line->data + sizeof name - 1;
      struct span pem = {start, strlen(start)};
      if (room != NULL && pem.length > size - used) return used;
      if (room != NULL) memcpy(room + used, pem.start, pem.length);
      used += pem.length;
    }
  return used;
}

/* Pushes the certificates, or nil if there are none. Returns false if a finaliser has closed the
 * client meanwhile. */
static bool push_certificates(lua_State *L, const struct client *client) {
  size_t size = copy_certificates(client, NULL, 0);
  if (size == 0) {
    lua_pushnil(L);
    return true;
  }
  char *room = lua_newuserdata(L, size);
  if (!client->open) return false;
  lua_pushlstring(L, room, copy_certificates(client, room, size));
  return client->open;
}

int stats_push(lua_State *L, int index) {
  const struct client *client = client_check(L, index);
  if (!client->open || !push_certificates(L, client)) return client_fail_closed(L);
  int certificates = lua_gettop(L);
  /* everything is read before anything is pushed, because pushing may run a finaliser that closes
   * the client */
  const struct counters counters = client->counters;
  const uint64_t evictions = client->cache.evictions;
  curl_off_t reached[STAGES] = {0};
  long connections = 0;
  CURL *easy = client->exchange.transfer.easy;
  for (size_t i = 0; i < STAGES; i++)
    curl_easy_getinfo(easy, stages[i].what, &reached[i]);
  curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections);
  lua_createtable(L, 0, 9);
  lua_pushvalue(L, certificates);
  lua_setfield(L, -2, "certificates");
  table_set_number(L, -1, "requests", (double)counters.requests);
  table_set_number(L, -1, "attempts", (double)counters.attempts);
  table_set_number(L, -1, "cache_hits", (double)counters.cache_hits);
  table_set_number(L, -1, "refreshes", (double)counters.refreshes);
  table_set_number(L, -1, "stale", (double)counters.stale);
  table_set_number(L, -1, "evictions", (double)evictions);
  lua_newtable(L);
  for (unsigned code = FAILURE_NONE + 1; code < FAILURE_COUNT; code++)
    if (counters.failures[code] > 0)
      table_set_number(L, -1, failure_name((enum failure_code)code),
                       (double)counters.failures[code]);
  lua_setfield(L, -2, "failures");
  push_timings(L, reached, connections);
  lua_setfield(L, -2, "timings");
  return 1;
}
