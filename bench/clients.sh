# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the caller sets and uses the variables; see below
# What bench/run and bench/guard have in common: building the clients of the benchmarks, the server that they call, and
# the command that starts one. The caller has sourced bench/common.sh and has set $here to this directory, $root, $build
# (of the module) and the list runtimes; set_command needs benchmark, too.

# --- what is compiled for the benchmarks

compile() {
  local cc=${CC:-gcc}
  # shellcheck disable=SC2046,SC2086 # the flags are lists
  "$cc" -std=c11 ${CFLAGS:--O2 -g -Wall -Wextra -Wpedantic -Wshadow -Wconversion} "$@" \
    $(pkg-config --cflags --libs libcurl) -lm
}

# If the headers of a runtime are missing, or a module does not compile, its row of the table says so.
build_clients() {
  local runtime
  mkdir -p "$build/bench"
  compile -o "$build/bench/bare" "$here/bare.c" "$here/many.c" "$here/easy.c"
  for runtime in "${runtimes[@]}"; do
    pkg-config --exists "$runtime" || continue
    make --silent -C "$root" LUA="$runtime" all "build/$runtime/testkit.so" >"$build/bench/make.log" 2>&1 || true
    mkdir -p "$build/bench/$runtime"
    # shellcheck disable=SC2046 # flags again
    compile -shared -fPIC $(pkg-config --cflags "$runtime") -o "$build/bench/$runtime/baseline.so" \
      "$here/baseline.c" "$here/many.c" "$here/easy.c"
    # shellcheck disable=SC2046 # flags again
    compile -shared -fPIC $(pkg-config --cflags "$runtime") -o "$build/bench/$runtime/meter.so" "$here/meter.c"
  done
}

# --- the server

# ICP's answer to a request without a query, as in its documentation, and the credential in the forms that clients need.
write_credentials() {
  make_credentials ''
  id_token=${id_token:0:${id_token_bytes:-16000}}
  printf '%s' "$id_token" >"$dir/id_token"
  printf 'header = "Authorization: Bearer %s"\nheader = "Accept: application/json"\n' "$id_token" >"$dir/id_token.curl"
}

# Prints how many connections nginx has accepted, including the one that this needs.
count_connections() {
  curl --silent --fail --unix-socket "$dir/status" http://localhost/ | awk 'NR == 3 { print $1 }'
}

# The status socket answers only after nginx has bound all ports. Returns 1 if another process has taken the port.
start_endpoint_on() { # port
  local pid
  fill_in "$here/nginx.conf" DIR "$dir" PORT "$1" ANSWER "$answer" >"$dir/nginx.conf"
  rm -f "$dir/status"
  setpriv --pdeathsig TERM nginx -p "$dir" -e "$dir/error.log" -c "$dir/nginx.conf" 2>"$dir/nginx.log" &
  pid=$!
  children+=("$pid")
  until count_connections >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || return 1
    sleep 0.02
  done
}

start_endpoint() {
  local port try
  command -v nginx >/dev/null || fail 'nginx is not installed'
  for try in 1 2 3 4 5; do
    port=$(find_port)
    start_endpoint_on "$port" || continue
    url=https://localhost:$port/image-manager/api/v1/auth/token
    return
  done
  fail "nginx does not start after $try tries: $(cat "$dir/nginx.log")"
}

# --- the clients

# lua-resty-lrucache runs inside nginx; all other clients that are not in C run in an interpreter.
write_lrucache_conf() { # driver's arguments
  local arguments
  printf -v arguments "'%s', " "$@"
  fill_in "$here/lrucache.conf" DIR "$dir" MODULES "$(find_modules)" ARGUMENTS "${arguments%, }" >"$dir/lrucache.conf"
}

set_command() { # variant: sets command
  local client=${1%%:*} runtime=${1##*:}
  local files=("$url" "$dir/stub/ca.crt" "$dir/id_token")
  local driver=("$here/driver.lua" "$benchmark" "$client" "$here" "$build" "${files[@]}")
  case $client in
    bare) command=("$build/bench/bare" one "${files[@]}") ;;
    many | many2) command=("$build/bench/bare" "$client" "${files[@]}") ;;
    xargs) command=(lua5.4 "${driver[@]}") ;;
    lrucache)
      write_lrucache_conf "${driver[@]}"
      command=(nginx -p "$dir" -e "$dir/lrucache.log" -c "$dir/lrucache.conf")
      ;;
    *) command=("$runtime" "${driver[@]}") ;;
  esac
}

divide_up() { # n, parts: at least 1
  echo $(($1 / $2 > 0 ? $1 / $2 : 1))
}
