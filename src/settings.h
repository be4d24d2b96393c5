/* settings.h - a client's options after they were read and checked, without any Lua. The strings
 * belong to the function that filled in the struct, and outlive it. */
#ifndef ICPTOKEN_SETTINGS_H
#define ICPTOKEN_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A list of "name<separator>value" strings in libcurl's format of headers and addresses. */
struct string_list {
  const char *const *item;
  size_t count;
};

/* The credential: one of an ID token (a string, a function or a file), user name and password, a
 * login, or none. Always copied as a whole, so that parts of two credentials cannot be combined. */
struct credential {
  const char *id_token, *id_token_file, *username, *password;
  size_t id_token_length; /* only the ID token may contain any byte; it is checked at each fetch */
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
  bool certificates; /* libcurl keeps those that the server sends, for client:stats */
  /* network */
  int64_t timeout_ms, connect_timeout_ms, hedge_after_ms, retries, max_body_bytes, parallel,
      cache_size;
  const char *proxy, *no_proxy, *http_version, *user_agent;
  struct string_list headers, resolve;
  struct string_list request_headers; /* of one request of client:fetch, beside headers */
  bool own_accept;                    /* headers contains an Accept header */
};

#endif
