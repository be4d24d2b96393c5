# Code that scripts/test and scripts/test-deep share; both source it with bash.
# shellcheck shell=bash

# Slow files whose subject is C code that does not depend on the runtime.
COSTLY='spec/memory_spec.lua spec/batch_spec.lua spec/daemon_spec.lua spec/truncation_spec.lua spec/limit_spec.lua
  spec/retry_spec.lua spec/secret_spec.lua spec/locale_spec.lua spec/process_spec.lua spec/tls_spec.lua
  spec/hedge_spec.lua spec/failure_spec.lua spec/proxy_spec.lua'
# Files whose specs are all tagged `deep`.
# shellcheck disable=SC2034 # scripts/test uses it
ONLY_DEEP='spec/gateway/clients_spec.lua spec/gateway/docker_spec.lua spec/gateway/fleet_chaos_spec.lua
  spec/gateway/helper_spec.lua spec/scripts/test_on_spec.lua'
runtimes=$(scripts/list-runtimes)
# The runtimes that have the libraries of the programs in bin/. scripts/test runs all specs of the programs on one of them.
command_runtimes=$(scripts/list-runtimes --command 2>/dev/null)
# shellcheck disable=SC2034 # scripts/test and scripts/test-deep use it
command_first=$(printf '%s\n' "$command_runtimes" | grep -x -e lua5.4 -e lua5.3 | head -n 1)

is_one_of() { # file, list
  [[ " ${2//$'\n'/ } " == *" $1 "* ]]
}

is_costly() { # file
  is_one_of "$1" "$COSTLY"
}

# Jobs that share a build directory would disturb each other, so everything is built first. BUILT=1 tells scripts/specs.
build_specs() { # variables for make
  local cores
  cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
  case $runtimes in *lua5.5*) scripts/lua55-modules build/lua5.5 || return ;; esac
  # shellcheck disable=SC2086 # one word a runtime
  printf '%s\n' $runtimes | xargs -I{} make --no-print-directory -s -j"$cores" for-specs LUA={} "$@" && export BUILT=1
}

fail_build() { # part
  mkdir -p "build/$1"
  echo '0 passed, 1 failed' | tee "build/$1/total"
  exit 1
}
