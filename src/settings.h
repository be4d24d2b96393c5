/* settings.h - a client's options once they were read and checked, without any Lua.
 * The strings belong to whoever filled the struct in and outlive it. */
#ifndef ICPTOKEN_SETTINGS_H
#define ICPTOKEN_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A list of "name<separator>value" strings, as libcurl wants headers and addresses. */
struct string_list {
  const char *const *item;
  size_t count;
};

/* Who asks: one of an ID token (a string, a function or a file), user name and password, a login,
 * or nobody. Always copied as a whole, so that no part of one credential can join another. */
struct credential {
  const char *id_token, *id_token_file, *username, *password;
  size_t id_token_length; /* the ID token alone may hold any byte; it is judged at each fetch */
  const char *login_username, *login_password;
  bool id_token_function; /* the function itself stays in Lua */
  bool anonymous;
};

struct settings {
  /* endpoint */
  const char *host, *path, *url; /* host or url, not both */
  int64_t port;
  bool allow_http;
  struct credential credential;
  /* TLS */
  const char *cacert, *capath, *cert, *key, *key_password, *pinned_public_key, *tls_min;
  bool insecure;
  /* network */
  int64_t timeout_ms, connect_timeout_ms, hedge_after_ms, retries, max_body_bytes, parallel;
  const char *proxy, *no_proxy, *http_version, *user_agent;
  struct string_list headers, resolve;
  bool own_accept; /* headers has an Accept of its own */
};

#endif
