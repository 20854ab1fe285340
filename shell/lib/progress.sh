# shellcheck shell=bash disable=SC2154  # home and data are phases.sh's
# Says in the log how much of the environment and of the data has come, while it comes. Who follows the run reads the
# log anyway, so this costs no request; all bytes are in run.json (workstation/run_progress.py).
[[ -n ${_CHRONOS_PROGRESS:-} ]] && return 0
readonly _CHRONOS_PROGRESS=1

_progress_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=phases.sh
source "$_progress_lib_dir/phases.sh"
# shellcheck source=companions.sh
source "$_progress_lib_dir/companions.sh"

# Prints the bytes on disk of some files: one that is written in several places at once has its length from the start.
# <arguments of find…>
_bytes_on_disk() { find "$@" -type f -printf '%b\n' 2>/dev/null | awk '{blocks += $1} END {printf "%d", blocks * 512}'; }

# Prints what has come; nothing before anything has.
fetched_so_far() {
  local environment data_bytes
  environment=$(_bytes_on_disk "$home" "$data" -maxdepth 2 -name "$CHRONOS_ENVIRONMENT_ARCHIVE*")
  data_bytes=$(_bytes_on_disk "$data/training-data")
  if ((environment > 0)); then printf 'environment %d bytes ' "$environment"; fi
  if ((data_bytes > 0)); then printf 'data %d bytes ' "$data_bytes"; fi
}

# Says what has come whenever it has become more, until training begins. <file with the phase> <seconds between looks>
tell_fetched() {
  local now told=''
  trap 'exit 0' TERM
  while true; do
    _pause "$2"
    case $(cat "$1" 2>/dev/null) in
      venv_download | gpu_preflight | data_sync)
        now=$(fetched_so_far)
        if [[ -n $now && $now != "$told" ]]; then log_info "fetched so far: ${now% }"; fi
        told=$now
        ;;
    esac
  done
}

# Prints the phases as the state file has them: those that have ended, and the one that begins. <name> <start, epoch seconds>
phases_so_far() {
  # shellcheck disable=SC2016  # a jq program
  jq -c --arg name "$1" --argjson start "${2/,/.}" '. + [{name: $name, started_at: ($start | floor | todateiso8601)}]' \
    <<<"$phase_times" || printf '[]\n'
}
