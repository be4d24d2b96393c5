# shellcheck shell=bash
# shellcheck disable=SC2154 # bench/run and bench/guard set the variables, among them command, results, dir and started
# Counts the instructions of clients, in separate runs of one round and of two: the difference leaves start-up out.

perf_counts() {
  perf stat -x, -e instructions:u true 2>&1 | grep -q '^[0-9]'
}

choose_counter() {
  if command -v perf >/dev/null && perf_counts; then
    counter=perf
  elif command -v valgrind >/dev/null; then
    counter=callgrind
  else
    counter=none
  fi
  echo "counter $counter" >>"$results"
}

repeat_line() { # line, times
  local i
  for ((i = 0; i < $2; i++)); do echo "$1"; done
}

sum_logs() { # logs of callgrind...
  awk '/Collected *:/ { sum += $NF } END { printf "%.0f\n", sum }' "$@"
}

# Prints the instructions of a whole run of that many rounds, child processes included.
sum_run() { # rounds, count, command...
  local rounds=$1 count=$2
  shift 2
  rm -f "$dir"/count.*
  if [[ $counter == perf ]]; then
    repeat_line "$count" "$rounds" |
      perf stat -x, -e instructions:u -o "$dir/count.perf" "$@" >/dev/null 2>>"$dir/clients.log"
    awk -F, '/instructions/ { print $1 }' "$dir/count.perf"
  else
    repeat_line "$count" "$rounds" |
      valgrind --tool=callgrind --smc-check=all-non-file --trace-children=yes --log-file="$dir/count.log.%p" \
        --callgrind-out-file=/dev/null "$@" >/dev/null 2>>"$dir/clients.log"
    sum_logs "$dir"/count.log.*
  fi
}

# Under valgrind the number of connections that a client opens for many fetches at once varies from run to run. Only a
# pair of runs that opened the same number is used, so that handshakes cancel out. A client that opens a connection for
# each fetch pays for them itself.
run_pair() { # count of a round, function...: calls it for one round and for two; returns 1 if no pair is suitable
  local count=$1 before opened rounds
  shift
  for _ in 1 2 3 4 5 6; do
    opened=()
    for rounds in 1 2; do
      before=$(count_connections)
      "$@" "$rounds"
      opened+=($(($(count_connections) - before)))
    done
    ((opened[1] != opened[0] && opened[1] < opened[0] + count)) || return 0
  done
  return 1
}

sum_rounds() { # count, rounds
  sums[$2]=$(sum_run "$2" "$1" "${command[@]}")
}

count_instructions() {
  local i share sums
  choose_counter
  [[ $counter != none ]] || return 0
  for i in "${!started[@]}"; do
    case ${started[$i]} in popen:* | oneshot:* | xargs:*) continue ;; esac # would take minutes
    set_command "${started[$i]}"
    share=$(divide_up "$counted_count" "${shares[$i]}")
    sums=()
    run_pair "$share" sum_rounds "$share" || continue
    echo "instructions ${started[$i]} $share $((sums[2] - sums[1]))" >>"$results"
  done
}

profile_rounds() { # name, rounds
  repeat_line "$counted_count" "$2" |
    valgrind --tool=callgrind --smc-check=all-non-file --keep-debuginfo=yes --callgrind-out-file="$dir/$1.$2.out" \
      "${command[@]}" >"$dir/$1.said" 2>>"$dir/clients.log"
  ! grep '^[mf]' "$dir/$1.said" || fail "no profile of the $1"
}

profile_clients() {
  local limit variant runtime=${runtimes[0]}
  command -v valgrind >/dev/null || fail 'valgrind is not installed'
  case $benchmark in
    fetch) limit=safe:$runtime variant=icptoken:$runtime ;;
    cached) limit=least:$runtime variant=token:$runtime ;;
    many) limit=least_all:$runtime variant=fetch_all:$runtime ;;
  esac
  set_command "$limit"
  run_pair "$counted_count" profile_rounds limit || fail "the connections of $limit differ each time"
  set_command "$variant"
  run_pair "$counted_count" profile_rounds client || fail "the connections of $variant differ each time"
  lua5.4 "$here/profile.lua" "$dir" "$counted_count" "$limit" "$variant"
}
