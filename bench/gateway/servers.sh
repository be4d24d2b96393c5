# shellcheck shell=bash
# shellcheck disable=SC2154 # the caller and bench/common.sh set the variables
# The nginx processes of the gateway's benchmarks and of bench/guard. The caller has sourced bench/common.sh and has set
# $root and the list on_second_core, the command that the servers run with; make_credentials comes first.

# Starts nginx and waits until it answers at a URL. Sets nginx_pid.
start_nginx() { # name, URL, command to run it with...
  local name=$1 url=$2
  shift 2
  setpriv --pdeathsig TERM "$@" nginx -p "$dir" -e "$dir/$name.log" -c "$dir/$name.conf" 2>"$dir/$name.said" &
  nginx_pid=$!
  children+=("$nginx_pid")
  await 120 curl --silent --insecure "$url" || fail "nginx does not answer: $(cat "$dir/$name.said" "$dir/$name.log")"
}

start_servers() {
  modules=$(find_modules)
  upstream_port=$(find_port) endpoint_port=$(find_port)
  fill_in "$root/bench/gateway/servers.conf" DIR "$dir" MODULES "$modules" ANSWER "$answer" \
    UPSTREAM_PORT "$upstream_port" ENDPOINT_PORT "$endpoint_port" >"$dir/servers.conf"
  start_nginx servers "https://localhost:$endpoint_port/" "${on_second_core[@]}"
}

# The part of the configuration in which the rows differ.
# shellcheck disable=SC2016 # nginx's variables
set_variant() { # variant: sets hook and authorization
  local variables='set $icptoken_authorization ""; set $icptoken_key "";'
  local constant='access_by_lua_block { ngx.var.icptoken_authorization = constant }'
  local authorize='access_by_lua_block { gateway:authorize() }'
  local header='header_filter_by_lua_block { return }'
  authorization='$icptoken_authorization'
  case $1 in
    plain) hook='' authorization="\"Bearer $token\"" ;;
    access) hook="$variables $constant" ;;
    limit) hook="$variables $constant $header" ;;
    hook)
      hook="$variables $authorize header_filter_by_lua_block { gateway:observe() }
      body_filter_by_lua_block { gateway:filter() }"
      ;;
    limit-body) hook="$variables $constant $header body_filter_by_lua_block { return }" ;;
    least)
      hook="$variables access_by_lua_block { parts.least() } header_filter_by_lua_block { parts.nothing() }
      body_filter_by_lua_block { parts.nothing() }"
      ;;
    observe) hook="$variables $authorize header_filter_by_lua_block { gateway:observe() }" ;;
    part:*) hook="$variables access_by_lua_block { parts.${1#part:}() } $header" ;;
    resty | resty-cache)
      hook="lua_ssl_trusted_certificate $dir/stub/ca.crt; lua_ssl_verify_depth 2; $variables
      access_by_lua_block { require('resty_hook').${1/-/_}('https://127.0.0.1:$endpoint_port/token') }"
      ;;
  esac
}

start_gateway() { # variant, workers, command to run it with...: sets url
  local port
  port=$(find_port)
  url=http://127.0.0.1:$port
  set_variant "$1"
  fill_in "$root/bench/gateway/gateway.conf" HOOK "$hook" AUTHORIZATION "$authorization" TOKEN "$token" WORKERS "$2" DIR "$dir" \
    ROOT "$root" MODULES "$modules" PORT "$port" UPSTREAM_PORT "$upstream_port" ENDPOINT_PORT "$endpoint_port" \
    >"$dir/gateway.conf"
  start_nginx gateway "$url/metrics" "${@:3}"
  gateway_pid=$nginx_pid
}

stop_gateway() {
  kill "$gateway_pid"
  wait "$gateway_pid" || fail "nginx failed: $(<"$dir/gateway.log")"
  unset 'children[-1]'
}

# Sets sum to the instructions of nginx, from its start, with that many requests for three targets in turn, as callgrind
# counts them. The caller has sourced bench/instructions.sh.
sum_gateway() { # variant, requests
  local log=$dir/callgrind i
  rm -f "$log".*
  start_gateway "$1" 1 valgrind --tool=callgrind --smc-check=all-non-file --callgrind-out-file=/dev/null \
    --log-file="$log.%p"
  for ((i = 0; i < $2; i += 3)); do
    printf 'url = "%s/v2/%s"\n' "$url" default/app/manifests/latest "$url" default/base/manifests/1.4.2 \
      "$url" team-a/tools/build/tags/list
  done >"$dir/urls"
  curl --silent --fail --config "$dir/id_token.curl" --config "$dir/urls" >/dev/null ||
    fail "the gateway refuses requests: $(<"$dir/gateway.log")"
  stop_gateway
  sum=$(sum_logs "$log".*)
}

# Sets count to the instructions of one request.
# shellcheck disable=SC2034 # for the caller
count_request() { # variant
  local few=1200 many=6000 sum before
  sum_gateway "$1" $few
  before=$sum
  sum_gateway "$1" $many
  count=$(((sum - before) / (many - few)))
}

# Prints the nanoseconds of CPU time of the gateway's workers, over all threads.
read_workers_cpu() {
  local worker
  for worker in $(pgrep -P "$gateway_pid"); do cat "/proc/$worker"/task/*/schedstat; done |
    awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}
