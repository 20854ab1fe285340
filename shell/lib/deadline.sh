# shellcheck shell=bash disable=SC2153  # CHRONOS_… are the user data's
# The last save: some minutes before the switch in the guest powers the machine off, the run is ended, so that it saves,
# uploads and says where it can go on. No switch knows of this: each acts at its own time, whatever becomes of the save.
# Reads the CHRONOS_* variables of the user data.
[[ -n ${_CHRONOS_DEADLINE:-} ]] && return 0
readonly _CHRONOS_DEADLINE=1

_deadline_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=interruption.sh
source "$_deadline_lib_dir/interruption.sh"

# Seconds for the last upload, beside those that the trainer has to stop.
readonly SECONDS_TO_SAVE=150
# The longest pause between two looks at the clock, which may jump.
readonly LONGEST_LOOK=30

# Prints how many seconds before its deadline a run is ended: a quarter of its time at most.
deadline_lead() {
  local lead=$((CHRONOS_KILL_GRACE_SECONDS + SECONDS_TO_SAVE)) quarter=$((CHRONOS_DEADLINE_MINUTES * 15))
  printf '%d\n' "$((lead < quarter ? lead : quarter))"
}

# Prints the seconds until the deadline by this machine's clock; none are left when they are negative.
seconds_to_deadline() {
  local end
  end=$(date -d "$CHRONOS_DEADLINE" +%s 2>/dev/null) || return $?
  printf '%d\n' "$((end - $(date +%s)))"
}

# Ends the run shortly before its deadline, by TERM; writes why, and when the machine goes off, to files first. As the guest's
# switch does, it goes by the clock or by the time that it has counted, whichever comes first.
# <pid> <reason file> <notice file>
watch_for_deadline() {
  local lead left pause counted=$((CHRONOS_DEADLINE_MINUTES * 60))
  trap 'exit 0' TERM
  lead=$(deadline_lead)
  while true; do
    left=$(seconds_to_deadline) || left=$counted
    left=$((left < counted ? left : counted))
    if ((left <= lead)); then break; fi
    pause=$((left - lead < LONGEST_LOOK ? left - lead : LONGEST_LOOK))
    _pause "$pause"
    counted=$((counted - pause))
  done
  log_warn "the deadline is $left s away: ending the run, so that it can save"
  give_reason "$2" deadline
  # shellcheck disable=SC2016  # a jq program
  jq -cn --argjson left "$left" '{time: (now + $left | floor | todateiso8601), seen_at: (now | floor | todateiso8601)}' >"$3" || true
  kill -TERM "$1" 2>/dev/null || true
}

# Prints the minutes that the clean-up may take: never past the deadline. <minutes>
minutes_within_deadline() {
  local left
  left=$(seconds_to_deadline) || left=$(($1 * 60))
  left=$(((left + 59) / 60))
  left=$((left < 1 ? 1 : left))
  printf '%d\n' "$(($1 < left ? $1 : left))"
}

# Prints why the run ended: in the middle of what, and where it can go on. <notice file> <phase> <output folder>
explain_deadline() {
  local off step
  off=$(_fact "$1" time)
  step=$(_fact "$3/training.json" last_step)
  printf 'deadline reached: the machine goes off at %s, so the run was ended in phase %s%s, to save; ' \
    "${off:-$CHRONOS_DEADLINE}" "$2" "${step:+ at step $step}"
  way_on "$3"
}
