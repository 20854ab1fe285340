# shellcheck shell=bash disable=SC2034  # EARLY_OUTCOME and EARLY_STATUS are the launch script's
# A run that has ended before its launch was through: how, and with which code the launch ends then.
[[ -n ${_CHRONOS_EARLY_END:-} ]] && return 0
readonly _CHRONOS_EARLY_END=1

_early_end_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=aws_call.sh
source "$_early_end_lib_dir/aws_call.sh"

# How the run has ended by its record ('' when it does not say), and the code for that: watch's own.
EARLY_OUTCOME='' EARLY_STATUS=0

# Looks how a run has ended whose claim is gone: a machine writes the record before it frees the environment.
# <bucket> <env> <run_id>
# Sets EARLY_…. Returns 0 when the machine says so itself; 1 when somebody else has ended the run, so that a machine may be left.
read_early_end() {
  local file own=''
  EARLY_OUTCOME=''
  file=$(mktemp) || return 1
  if retry_with_backoff 6 aws s3api get-object --bucket "$1" --key "$2/$3/run.json" "$file"; then
    EARLY_OUTCOME=$(jq -r '.outcome // ""' "$file" 2>/dev/null) || EARLY_OUTCOME=''
    # Of an end that it did not see, nobody writes an exit code.
    own=$(jq -r 'select(.exit_code != null and (.outcome | IN("succeeded", "failed", "interrupted"))) | "own"' "$file" 2>/dev/null) || own=''
  fi
  rm -f "$file"
  case $EARLY_OUTCOME in
    succeeded) EARLY_STATUS=0 ;;
    failed) EARLY_STATUS=$EXIT_RUN_FAILED ;;
    interrupted) EARLY_STATUS=$EXIT_RUN_INTERRUPTED ;;
    lost) EARLY_STATUS=$EXIT_RUN_LOST ;;
    launch_failed) EARLY_STATUS=$EXIT_LAUNCH_REFUSED ;;
    *) EARLY_STATUS=$EXIT_RUN_KILLED ;;
  esac
  [[ -n $own ]]
}
