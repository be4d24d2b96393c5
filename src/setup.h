/* setup.h - sets the options of an easy handle until libcurl refuses one, and records which. */
#ifndef ICPTOKEN_SETUP_H
#define ICPTOKEN_SETUP_H

#include <curl/curl.h>
#include <stdbool.h>

/* Why an easy handle could not be set up: CURLE_OUT_OF_MEMORY, or the option that this libcurl
 * refuses. */
struct transfer_problem {
  CURLcode code;
  const char *option;
};

struct setup {
  CURL *easy;
  struct transfer_problem *problem;
};

/* Records the result of setting an option. Returns whether it was accepted. */
static inline bool setup_note(const struct setup *setup, CURLcode code, const char *option) {
  *setup->problem = (struct transfer_problem){code, option};
  return code == CURLE_OK;
}

/* Sets an option, unless an earlier one was refused. */
#define SETUP_SET(setup, option, value)                                                            \
  do {                                                                                             \
    if ((setup)->problem->code == CURLE_OK)                                                        \
      setup_note(setup, curl_easy_setopt((setup)->easy, option, value), #option);                  \
  } while (0)

#endif
