#!/usr/bin/env bats
# shell/lib/interruption.sh: the watch for EC2 taking a spot machine back, and what the record says then.
# shellcheck disable=SC2154,SC2329  # variables of the library and of the helpers; the library calls _pause
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/interruption.sh
  source "$project/shell/lib/interruption.sh"
  use_fake_s3 a-bucket
  export FAKE_IMDS="$work/imds" CHRONOS_BUCKET=a-bucket CHRONOS_ENV=dev CHRONOS_RUN_ID=$RUN
  mkdir -p "$FAKE_IMDS/meta-data/spot" "$FAKE_IMDS/meta-data/events/recommendations"
  put_state training step_7 "$RUN"
  put_run_record "$RUN"
  rounds=0 last_round=3
  # Each pause is one round of the watch; the last one ends it.
  _pause() {
    rounds=$((rounds + 1))
    if declare -F "in_round_$rounds" >/dev/null; then "in_round_$rounds"; fi
    if ((rounds == last_round)); then exit 0; fi
  }
}

teardown() { common_teardown; }

notice() { printf '{"action": "terminate", "time": "%s"}' "$1" >"$FAKE_IMDS/meta-data/spot/instance-action"; }
hint() { printf '{"noticeTime": "2025-01-15T15:00:00Z"}' >"$FAKE_IMDS/meta-data/events/recommendations/rebalance"; }
watch() { watch_for_interruption 999999999 reason notice 'the checkpoints' 5; }

@test "a machine may be interrupted unless it says that it is on demand" {
  run ! imds_get meta-data/instance-life-cycle
  may_be_interrupted
  printf 'on-demand' >"$FAKE_IMDS/meta-data/instance-life-cycle"
  run -1 may_be_interrupted
  printf 'spot' >"$FAKE_IMDS/meta-data/instance-life-cycle"
  may_be_interrupted
}

@test "while nothing is announced it goes on, with one token for all questions" {
  (watch)
  assert_equal "$(grep -c 'X PUT' "$FAKE_AWS_DIR/curl")" 1
  assert_equal "$(grep -c instance-action "$FAKE_AWS_DIR/curl")" 3
  assert_effects
  assert [ ! -e reason ]
}

@test "a token that is refused is replaced at once, and a service that does not answer proves nothing" {
  local status=0
  imds_find meta-data/spot/instance-action || status=$?
  assert_equal "$status" 1
  printf 'another' >"$FAKE_IMDS/token"
  notice 2025-01-15T15:02:00Z
  imds_find meta-data/spot/instance-action
  assert_equal "$IMDS_BODY" '{"action": "terminate", "time": "2025-01-15T15:02:00Z"}'
  assert_equal "$(grep -c 'X PUT' "$FAKE_AWS_DIR/curl")" 2
  unset FAKE_IMDS
  status=0
  imds_find meta-data/spot/instance-action || status=$?
  assert_equal "$status" "$EXIT_NOT_AN_INSTANCE"
}

@test "the notice is kept and the reason written before TERM is sent; the state tells the laptop" {
  local victim
  in_round_2() { notice 2025-01-15T15:02:00Z; }
  mkfifo pipe
  bash -c 'trap "cat reason notice >seen; exit 0" TERM; : >ready; for _ in {1..200}; do read -r -t 0.05 <>pipe || true; done' 3>&- &
  victim=$!
  while [[ ! -e ready ]]; do read -r -t 0.05 <>pipe || true; done
  watch_for_interruption "$victim" reason notice 'the checkpoints' 5 2>stderr
  wait "$victim"
  assert_equal "$(head -n 1 seen)" interrupted
  assert_json "$(tail -n 1 seen)" '"\(.action) \(.time) \(.seen_at | test("^20.*Z$"))"' 'terminate 2025-01-15T15:02:00Z true'
  assert_json "$(state_now)" '"\(.status) \(.control.interruption.time)"' 'training 2025-01-15T15:02:00Z'
  assert_regex "$(<stderr)" 'EC2 takes this spot machine back'
}

@test "a notice that is no JSON is a notice as well; a kill that came first stays the reason" {
  printf 'soon' >"$FAKE_IMDS/meta-data/spot/instance-action"
  printf 'killed\n' >reason
  watch 2>stderr
  assert_equal "$(<reason)" killed
  assert_json "$(<notice)" .action null
  assert_equal "$(seconds_left notice)" 60
}

@test "where neither reason nor notice can be written, TERM is sent all the same" {
  printf '{"action": "terminate", "time": "2025-01-15T15:02:00Z"}' >"$FAKE_IMDS/meta-data/spot/instance-action"
  kill() { printf '%s\n' "$*" >termed; }
  (
    set -Eeuo pipefail
    watch_for_interruption 4242 missing/reason missing/notice 'the checkpoints' 5
  ) 2>stderr
  assert_equal "$(<termed)" '-TERM 4242'
}

@test "the rebalance hint asks for a checkpoint and is recorded, once; training goes on" {
  last_round=4
  in_round_1() { hint; }
  in_round_4() { wait; }
  (watch) 2>stderr
  assert [ -e 'the checkpoints/.requested' ]
  assert [ ! -e reason ]
  assert_json "$(run_record_now)" .rebalance_recommended_at 2025-01-15T15:00:00Z
  assert_json "$(state_now)" '"\(.status) \(.current_step) \(.control.rebalance_recommended_at)"' 'training step_7 2025-01-15T15:00:00Z'
  assert_equal "$(grep -c 'may take this spot machine back soon' stderr)" 1
  assert_equal "$(grep -c rebalance "$FAKE_AWS_DIR/curl")" 2
}

@test "the notice is seen while the hint is still being recorded" {
  hint
  in_round_2() { notice 2025-01-15T15:02:00Z; }
  record_hint() { while [[ ! -e reason ]]; do read -r -t 0.05 <>pipe || true; done; }
  mkfifo pipe
  watch 2>stderr
  assert_equal "$(<reason)" interrupted
}

@test "the time that is left is shared out: a third to stop, the rest but 20 s to save" {
  local in_two_minutes
  in_two_minutes=$(TZ=UTC printf '%(%Y-%m-%dT%H:%M:%SZ)T' $((EPOCHSECONDS + 120)))
  printf '{"time": "%s"}' "$in_two_minutes" >notice
  run -0 seconds_left notice
  assert [ "$output" -ge 117 ]
  run -0 seconds_to_stop 300 notice
  assert [ "$output" -ge 38 -a "$output" -le 40 ]
  run -0 seconds_to_stop 12 notice
  assert_output 12
  run -0 seconds_to_save notice
  assert [ "$output" -ge 97 -a "$output" -le 100 ]
  printf '{"time": "2025-01-15T15:02:00Z"}' >notice
  run -0 seconds_left notice
  assert_output 0
  run -0 seconds_to_save notice
  assert_output 5
}

@test "the error says when, in the middle of what, and how to go on" {
  printf '{"action": "terminate", "time": "2025-01-15T15:02:00Z", "seen_at": "2025-01-15T15:00:03Z"}' >notice
  run -0 explain_interruption notice venv_download output
  assert_output "interrupted: EC2 takes this spot machine back at 2025-01-15T15:02:00Z (notice seen 2025-01-15T15:00:03Z), in phase venv_download; there is no checkpoint yet: invoke launch --env dev starts over"
  CHRONOS_RESUME_FROM=2025-01-14-000000 run -0 explain_interruption notice data_sync output
  assert_regex "$output" 'no checkpoint of its own: invoke launch --env dev --resume 2025-01-14-000000$'
  mkdir -p output/checkpoints
  printf '{"last_step": 123}' >output/training.json
  printf '{"step": 120}' >output/checkpoints/.tmp-saved.json
  CHRONOS_RESUME_FROM=2025-01-14-000000 run -0 explain_interruption notice training output
  assert_regex "$output" "in phase training at step 123; the checkpoint of step 120 is in S3, .*: invoke launch --env dev --resume $RUN\$"
  assert_equal "$(checkpoint_facts output true)" '{"checkpoint_step":120,"interrupted_at_step":123}'
  assert_equal "$(checkpoint_facts nowhere false)" '{"checkpoint_step":null}'
}
