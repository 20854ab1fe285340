# shellcheck shell=bash
# What the instance tells of its own run: training begins, nothing moves any more, the run has ended.
# Reads the CHRONOS_* variables of the user data; without CHRONOS_TOPIC_ARN nothing is sent.
[[ -n ${_CHRONOS_RUN_NOTICES:-} ]] && return 0
readonly _CHRONOS_RUN_NOTICES=1

_run_notices_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=notices.sh
source "$_run_notices_lib_dir/notices.sh"
# shellcheck source=state_helpers.sh
source "$_run_notices_lib_dir/state_helpers.sh"

# <start|end|stall|idle> [json object: what run.json may lack]
tell() { notify "${CHRONOS_TOPIC_ARN:-}" "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "$@"; }

# Says that the run stands still, in the log and to the topic, unless it is ending anyway. <minutes>
tell_stall() {
  local lacking
  read_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" 2>/dev/null || STATE_JSON='{}'
  # shellcheck disable=SC2016  # a jq program
  lacking=$(jq -c --argjson minutes "$1" 'select(.status | IN("failed", "killed", "cleanup") | not)
    | {stalled_minutes: $minutes, current_step: (.current_step // "an unknown step")}' <<<"$STATE_JSON") || return 0
  if [[ -z $lacking ]]; then return 0; fi
  log_warn "nothing has been written for $1 minutes; nothing is ended for that before the deadline, invoke kill ends it"
  tell stall "$lacking"
}

# Says how the run has ended; what run.json says comes first. <outcome> <step> <error> <instance id>
tell_end() {
  local lacking
  # shellcheck disable=SC2016  # a jq program
  lacking=$(jq -cn --arg outcome "$1" --arg step "$2" --arg error "$3" --arg id "$4" '{outcome: $outcome, instance: {id: $id}}
    + if $outcome == "succeeded" then {} else {failed_step: $step, error: $error} end') || lacking='{}'
  tell end "$lacking"
  # What the user data looks at when it powers off after all.
  : 2>/dev/null >"${CHRONOS_ROOT:-}/opt/chronos/told" || true
}
