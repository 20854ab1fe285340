# shellcheck shell=bash
# What goes on behind the phases on the instance: the data's bytes come behind the environment, the checked sync behind
# preflight. The phases and their statuses keep their order; each waits for its own part, and fails with its words.
# Reads the CHRONOS_* variables of the user data, and the places of phases.sh.
[[ -n ${_CHRONOS_PREFETCH:-} ]] && return 0
readonly _CHRONOS_PREFETCH=1

_prefetch_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=bulk_copy.sh
source "$_prefetch_lib_dir/bulk_copy.sh"

# Files that come at once. The environment comes beside them, and everything else waits for it: s5cmd's own 256 workers would
# leave it a fiftieth of the network.
readonly PREFETCH_WORKERS=32
readonly DATA_PREFIX=cached-datasets/training-data/
prefetch_pid=''
data_sync_pid=''

# Begins to fetch the files that the data's manifest names, without checking them: the sync does that, and fetches again
# what is not right. It needs no Python, so it can begin before the environment is there. <folder>
begin_prefetch() {
  local -a s5cmd_call=()
  _find_s5cmd || return 0
  _prefetch "$1" "${s5cmd_call[@]}" --numworkers "$PREFETCH_WORKERS" &
  prefetch_pid=$!
}

# <folder> <s5cmd and its options…>
_prefetch() {
  local into=$1 manifest list
  shift
  trap '[[ -z ${!:-} ]] || kill "$!" 2>/dev/null; exit "$EXIT_TERMINATED"' TERM
  manifest=$(mktemp) list=$(mktemp)
  "$@" cat --raw "s3://$CHRONOS_BUCKET/${DATA_PREFIX}MANIFEST.json" >"$manifest" 2>/dev/null &
  if wait "$!" && [[ $(sha256_of_input <"$manifest") == "$CHRONOS_DATASET_SHA256" ]]; then
    # Names that a line of s5cmd's could misread are left to the sync.
    # shellcheck disable=SC2016  # a jq program
    jq -r --arg from "s3://$CHRONOS_BUCKET/$DATA_PREFIX" --arg into "$into" '
      .files[].name | select(test("^[A-Za-z0-9_-][A-Za-z0-9._-]*$")) | "cp --raw --concurrency 1 \"\($from)\(.)\" \"\($into)/\(.)\""' \
      "$manifest" >"$list" 2>/dev/null || : >"$list"
    note_requests G "$(($(wc -l <"$list") + 1))"
    "$@" run "$list" >/dev/null 2>&1 &
    if wait "$!"; then
      log_info "$(wc -l <"$list") files of training data have come behind the environment"
    else
      log_warn "not all training data came behind the environment; the sync fetches the rest"
    fi
  fi
  rm -f "$manifest" "$list"
}

# Begins the checked sync, behind whatever follows. <command…>
begin_data_sync() {
  _after_prefetch "$@" &
  data_sync_pid=$!
}

# Two writers of one file would break it: the sync begins when the prefetch has ended. <command…>
_after_prefetch() {
  trap '[[ -z ${!:-} ]] || kill "$!" 2>/dev/null; exit "$EXIT_TERMINATED"' TERM
  while [[ -n $prefetch_pid ]] && kill -0 "$prefetch_pid" 2>/dev/null; do
    sleep 0.1 &
    wait "$!"
  done
  "$@" &
  wait "$!"
}

# Waits for the checked sync; its status.
finish_data_sync() {
  local status=0
  wait "$data_sync_pid" || status=$?
  if [[ -n $prefetch_pid ]]; then wait "$prefetch_pid" || true; fi
  data_sync_pid='' prefetch_pid=''
  return "$status"
}

# Ends what goes on behind the phases, when they end early.
stop_background() {
  local pid
  for pid in $data_sync_pid $prefetch_pid; do
    if kill -TERM "$pid" 2>/dev/null; then wait "$pid" 2>/dev/null || true; fi
  done
  data_sync_pid='' prefetch_pid=''
}
