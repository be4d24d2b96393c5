# shellcheck shell=bash
# What the benchmarks have in common: a private directory, child processes that are stopped on exit, and credentials of
# the fake ICP. For bash; the caller has set $root to the root of the project.

# A proxy from the environment would stand between the clients and the servers of the benchmarks.
unset http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY no_proxy NO_PROXY

dir=$(mktemp -d)
children=()

clean_up() {
  local child
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  for child in "${children[@]}"; do wait "$child" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
  echo "$0: $1" >&2
  exit 1
}

await() { # seconds, command...: polls until it succeeds
  local deadline=$((${EPOCHREALTIME/./} + $1 * 1000000))
  shift
  until "$@" >/dev/null 2>&1; do
    ((${EPOCHREALTIME/./} < deadline)) || return 1
    sleep 0.02
  done
}

find_port() {
  luajit -e 'local s = assert(require("socket").bind("127.0.0.1", 0)); print((select(2, s:getsockname())))'
}

find_modules() {
  nginx -V 2>&1 | sed -n 's/.*--modules-path=\([^ ]*\).*/\1/p'
}

fill_in() { # file, name, value...: prints the file with each @NAME@ replaced
  local text
  text=$(<"$1")
  shift
  while (($#)); do
    text=${text//"@$1@"/"$2"}
    shift 2
  done
  printf '%s\n' "$text"
}

# Sets id_token, answer (of the token endpoint to this query) and token, and leaves certificates and the ID token in
# $dir/stub. The fake ICP that they come from has exited when something is measured. Files that are created from then on
# are readable by this user only.
make_credentials() { # query
  local pid url
  umask 077
  # shellcheck disable=SC2154 # the caller sets root
  (cd "$root" && exec setpriv --pdeathsig TERM luajit stub/icp.lua --dir "$dir/stub") >"$dir/stub.log" 2>&1 &
  pid=$!
  children+=("$pid")
  await 30 grep -q '^Requests are shown' "$dir/stub.log" || fail "the fake ICP did not start: $(<"$dir/stub.log")"
  id_token=$(<"$dir/stub/id_token")
  url=$(sed -n 's/.*listens at //p' "$dir/stub.log")/image-manager/api/v1/auth/token
  answer=$(curl --silent --fail --cacert "$dir/stub/ca.crt" --config - "$url$1" \
    <<<"header = \"Authorization: Bearer $id_token\"") || fail 'the fake ICP returned no token'
  token=${answer#*\"token\":\"}
  # shellcheck disable=SC2034 # for the caller
  token=${token%%\"*}
  kill "$pid"
}
