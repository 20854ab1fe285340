# shellcheck shell=bash disable=SC2034  # INTERRUPTION_LOOK_SECONDS is for bootstrap.sh
# EC2 takes a spot machine back: the watch for its notice and for its rebalance hint, and what the record says then.
#
# The notice comes two minutes ahead, "on a best effort basis", and is to be looked for every 5 s (EC2 user guide,
# "Spot Instance interruption notices"). Of the time that is left the trainer gets a third, to save and stop; the
# upload gets the rest but for 20 s, checkpoints first; the record of the run is written in these.
# Reads the CHRONOS_* variables of the user data.
[[ -n ${_CHRONOS_INTERRUPTION:-} ]] && return 0
readonly _CHRONOS_INTERRUPTION=1

_interruption_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=instance.sh
source "$_interruption_lib_dir/instance.sh"
# shellcheck source=companions.sh
source "$_interruption_lib_dir/companions.sh"
# shellcheck source=run_record.sh
source "$_interruption_lib_dir/run_record.sh"
# shellcheck source=nodes.sh
source "$_interruption_lib_dir/nodes.sh"

readonly INTERRUPTION_LOOK_SECONDS=5
readonly SECONDS_FOR_THE_RECORD=20

# Whether EC2 may take this machine back. Without an answer it may.
may_be_interrupted() {
  [[ $(imds_get meta-data/instance-life-cycle) != on-demand ]]
}

# Sends TERM to the bootstrap when EC2 takes the machine back; writes the notice and the reason to files first.
# <pid> <reason file> <notice file> <checkpoints folder> <seconds between looks>
watch_for_interruption() {
  local hinted=false
  trap 'exit 0' TERM
  while true; do
    if imds_find meta-data/spot/instance-action; then
      give_reason "$2" interrupted
      take_notice "$3"
      kill -TERM "$1" 2>/dev/null || true
      mark_interruption "$3"
      return 0
    fi
    if [[ $hinted == false ]] && imds_find meta-data/events/recommendations/rebalance; then
      hinted=true
      heed_rebalance "$4"
    fi
    _pause "$5"
  done
}

# Keeps the notice that IMDS_BODY holds. <notice file>
take_notice() {
  # shellcheck disable=SC2016  # a jq program
  jq -c --arg now "$(utc_now)" '{action: .action, time: .time, seen_at: $now}' <<<"$IMDS_BODY" >"$1" 2>/dev/null \
    || printf '{"action": null, "time": null, "seen_at": "%s"}\n' "$(utc_now)" >"$1" || true
  log_warn "EC2 takes this spot machine back: $(cat "$1" 2>/dev/null || true)"
}

# Tells the laptop, in case that the machine is gone before it can record its end. <notice file>
mark_interruption() {
  if ! leads; then
    post_end interrupted "EC2 takes this spot machine back"
    return 0
  fi
  amend_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "$(jq -c '{control: {interruption: .}}' "$1")" 2>/dev/null || true
}

# EC2 thinks that it may take the machine back soon. Most machines with this hint live on, so training does.
# <checkpoints folder>
heed_rebalance() {
  local hint
  # shellcheck disable=SC2016  # a jq program
  hint=$(jq -c --arg now "$(utc_now)" '{rebalance_recommended_at: (.noticeTime // $now)}' <<<"$IMDS_BODY" 2>/dev/null) \
    || hint="{\"rebalance_recommended_at\": \"$(utc_now)\"}"
  log_warn "EC2 may take this spot machine back soon ($hint): asking the trainer for a checkpoint; training goes on"
  if ! mkdir -p "$1" || ! : >"$1/.requested"; then log_warn "the trainer could not be asked"; fi
  # Beside the watch: the notice may come while S3 is slow.
  record_hint "$hint" &
}

# <json object: the hint>
record_hint() {
  amend_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "{\"control\": $1}" || log_warn "the state does not tell the hint"
  update_run_record "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "$1" || log_warn "run.json does not tell the hint"
}

# Prints the whole seconds until the machine is taken; a minute when the notice does not say. <notice file>
seconds_left() {
  jq -er '(.time | fromdateiso8601) - now | floor | if . < 0 then 0 else . end' "$1" 2>/dev/null || printf '60\n'
}

# Prints the seconds that the trainer may take to save and stop. <seconds otherwise> <notice file>
seconds_to_stop() {
  local third
  third=$(($(seconds_left "$2") / 3))
  printf '%d\n' "$((third < $1 ? third : $1))"
}

# Prints the seconds that the upload may take. <notice file>
seconds_to_save() {
  local left
  left=$(($(seconds_left "$1") - SECONDS_FOR_THE_RECORD))
  printf '%d\n' "$((left > 5 ? left : 5))"
}

# Prints one fact of a JSON file, nothing when it is not there. <file> <name>
_fact() { jq -r --arg name "$2" '.[$name] // empty' "$1" 2>/dev/null || true; }

# Prints what run.json says of a run's checkpoints. <output folder> <interrupted: true|false>
checkpoint_facts() {
  local step saved
  step=$(_fact "$1/training.json" last_step)
  saved=$(_fact "$1/checkpoints/.tmp-saved.json" step)
  # shellcheck disable=SC2016  # a jq program
  jq -cn --argjson step "${step:-null}" --argjson saved "${saved:-null}" --argjson interrupted "$2" \
    '{checkpoint_step: $saved} + if $interrupted then {interrupted_at_step: $step} else {} end'
}

# Prints why the run ended: when, in the middle of what, and where it can go on. <notice file> <phase> <output folder>
explain_interruption() {
  local taken seen step
  taken=$(_fact "$1" time) seen=$(_fact "$1" seen_at)
  step=$(_fact "$3/training.json" last_step)
  printf 'interrupted: EC2 takes this spot machine back at %s (notice seen %s), in phase %s%s; ' \
    "${taken:-an unknown time}" "${seen:-?}" "$2" "${step:+ at step $step}"
  way_on "$3"
}

# Prints from where a run that was ended can go on. <output folder>
way_on() {
  local saved
  saved=$(_fact "$1/checkpoints/.tmp-saved.json" step)
  if [[ -n $saved ]]; then
    printf 'the checkpoint of step %s is in S3, go on from it: invoke launch --env %s --resume %s\n' \
      "$saved" "$CHRONOS_ENV" "$CHRONOS_RUN_ID"
  elif [[ -n ${CHRONOS_RESUME_FROM:-} ]]; then
    printf 'it had made no checkpoint of its own: invoke launch --env %s --resume %s\n' "$CHRONOS_ENV" "$CHRONOS_RESUME_FROM"
  else
    printf 'there is no checkpoint yet: invoke launch --env %s starts over\n' "$CHRONOS_ENV"
  fi
}
