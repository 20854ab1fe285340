#!/usr/bin/env bats
# shell/lib/deadline.sh: a run is ended some minutes before its deadline, so that it saves; the switches stay as they are.
# shellcheck disable=SC2154,SC2329  # variables of the library and of the helpers; the library calls _pause
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/deadline.sh
  source "$project/shell/lib/deadline.sh"
  export CHRONOS_ENV=dev CHRONOS_RUN_ID=$RUN CHRONOS_KILL_GRACE_SECONDS=90 CHRONOS_DEADLINE_MINUTES=360
  deadline_in 6hours
}

teardown() { common_teardown; }

deadline_in() {
  CHRONOS_DEADLINE=$(date -u -d "$1" +%Y-%m-%dT%H:%M:%SZ)
  export CHRONOS_DEADLINE
}

# The watch, whose clock each pause moves; it notes them.
watch() {
  gone=0 began=$EPOCHSECONDS
  date() { if [[ $1 == +%s ]]; then printf '%d\n' "$((began + gone))"; else command date "$@"; fi; }
  _pause() {
    printf '%s\n' "$1" >>pauses
    gone=$((gone + $1))
  }
  kill() { printf '%s\n' "$*" >termed; }
  : >pauses
  (watch_for_deadline 4242 reason notice) 2>stderr
}

paused() { jq -s 'add' pauses; }

@test "the lead is the trainer's grace and time for the upload, a quarter of a short run at most" {
  run -0 deadline_lead
  assert_output 240
  CHRONOS_DEADLINE_MINUTES=15 run -0 deadline_lead
  assert_output 225
  CHRONOS_DEADLINE_MINUTES=3 run -0 deadline_lead
  assert_output 45
}

@test "the run is ended the lead before its deadline; reason and time are written first" {
  deadline_in 20minutes
  watch
  assert_equal "$(jq '(.time | fromdateiso8601) - (.seen_at | fromdateiso8601)' notice)" 240
  assert_equal "$(<termed)" '-TERM 4242'
  assert_equal "$(<reason)" deadline
  # The deadline was made a moment before the watch began.
  assert [ "$(paused)" -ge $((1200 - 240 - 20)) -a "$(paused)" -le $((1200 - 240)) ]
  assert_regex "$(<stderr)" 'ending the run, so that it can save'
}

@test "on a full disk the run is ended all the same, and the ballast makes room for the reason" {
  deadline_in 20minutes
  # shellcheck disable=SC2034  # read by the library
  ballast=ballast
  : >ballast
  watch_full() {
    gone=0 began=$EPOCHSECONDS
    (set -Eeuo pipefail && watch_for_deadline 4242 reason missing/notice) 2>stderr
  }
  watch
  rm -f reason termed
  : >ballast
  watch_full
  assert_equal "$(<termed)" '-TERM 4242'
  assert_equal "$(<reason)" deadline
  assert [ ! -e ballast ]
}

@test "a clock that was set back does not put the save off: the time that was counted tells" {
  CHRONOS_DEADLINE_MINUTES=20
  deadline_in 3hours
  watch
  assert_equal "$(paused)" $((1200 - 240))
}

@test "a clock that was set ahead ends the run at the next look" {
  deadline_in 'yesterday'
  watch
  assert_equal "$(<reason)" deadline
  assert_equal "$(<pauses)" ''
  run -0 seconds_left notice
  assert_output 0
}

@test "a clock that cannot be read is done without" {
  CHRONOS_DEADLINE=soon CHRONOS_DEADLINE_MINUTES=20
  watch
  assert_equal "$(<reason)" deadline
}

@test "a kill that came first stays the reason" {
  deadline_in 1minute
  printf 'killed\n' >reason
  watch
  assert_equal "$(<reason)" killed
  assert_equal "$(<termed)" '-TERM 4242'
}

@test "the clean-up shortens the switch and never puts it off" {
  run -0 minutes_within_deadline 15
  assert_output 15
  deadline_in '3 minutes 30 seconds'
  run -0 minutes_within_deadline 15
  assert_output 4
  deadline_in yesterday
  run -0 minutes_within_deadline 15
  assert_output 1
  CHRONOS_DEADLINE=soon run -0 minutes_within_deadline 15
  assert_output 15
}

@test "the error says when, in the middle of what, and how to go on" {
  printf '{"time": "2025-01-15T20:30:22Z"}' >notice
  run -0 explain_deadline notice venv_download output
  assert_output "deadline reached: the machine goes off at 2025-01-15T20:30:22Z, so the run was ended in phase venv_download, to save; there is no checkpoint yet: invoke launch --env dev starts over"
  mkdir -p output/checkpoints
  printf '{"last_step": 123}' >output/training.json
  printf '{"step": 120}' >output/checkpoints/.tmp-saved.json
  run -0 explain_deadline notice training output
  assert_regex "$output" "in phase training at step 123, to save; the checkpoint of step 120 is in S3, .*: invoke launch --env dev --resume $RUN\$"
}
