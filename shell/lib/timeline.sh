# shellcheck shell=bash
# When a run came how far: the milestones that say where its billed seconds went.
#
# UTC with milliseconds, in this order: launch_accepted, instance_running, user_data_started, environment_ready,
# preflight_passed, data_ready, first_step, last_step, results_safe, power_off. The training's own two come from its
# wrapper (training.json). python/chronos_ec2/report/usage.py reads them. Nothing here may fail a run.
[[ -n ${_CHRONOS_TIMELINE:-} ]] && return 0
readonly _CHRONOS_TIMELINE=1

_timeline_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=instance.sh
source "$_timeline_lib_dir/instance.sh"

timeline='{}'

# Notes that a milestone was reached; the first time counts. <name> [seconds of the epoch, default: now]
reached() {
  local at=${2:-$EPOCHREALTIME} noted
  # shellcheck disable=SC2016  # a jq program
  if noted=$(jq -c --arg name "$1" --arg at "${at/,/.}" '
    def with_milliseconds: (tonumber * 1000 | floor) as $all
      | ($all / 1000 | floor | todateiso8601 | rtrimstr("Z")) + "." + ("00\($all % 1000)" | .[-3:]) + "Z";
    {($name): ($at | with_milliseconds)} + .' <<<"$timeline" 2>/dev/null); then
    timeline=$noted
  fi
}

# Notes what a phase's end has reached. <phase>
phase_reached() {
  case $1 in
    venv_download) reached environment_ready ;;
    gpu_preflight) reached preflight_passed ;;
    data_sync) reached data_ready ;;
    results_sync) reached results_safe ;;
  esac
}

# Notes what lies before this script: EC2's word for the launch, the kernel's for the machine's start, user data's own.
begin_timeline() {
  local at
  at=$(imds_get dynamic/instance-identity/document 2>/dev/null | jq -r '.pendingTime | fromdateiso8601' 2>/dev/null) || at=''
  if [[ -n $at ]]; then reached launch_accepted "$at"; fi
  at=$(awk '$1 == "btime" {print $2}' "${CHRONOS_ROOT:-}/proc/stat" 2>/dev/null) || at=''
  if [[ -n $at ]]; then reached instance_running "$at"; fi
  if [[ -n ${CHRONOS_USER_DATA_STARTED:-} ]]; then reached user_data_started "$CHRONOS_USER_DATA_STARTED"; fi
}

# Prints the milestones so far, the training's own among them. <output folder>
whole_timeline() {
  local trained
  trained=$(jq -c '.timeline // {}' "$1/training.json" 2>/dev/null) || trained='{}'
  # shellcheck disable=SC2016  # a jq program
  jq -cn --argjson own "$timeline" --argjson trained "${trained:-{\}}" '$own + $trained' 2>/dev/null || printf '%s\n' "$timeline"
}
