#!/usr/bin/env bats
# shell/lib/stall.sh: a run that writes nothing any more is told of once; one that writes anything is not.
# shellcheck disable=SC2154,SC2329  # variables of the library and of the helpers; the library calls _pause
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022 TOPIC=arn:aws:sns:us-east-1:123456789012:ChronosTraining

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/stall.sh
  source "$project/shell/lib/stall.sh"
  use_fake_s3 a-bucket
  mkdir -p 'the data/output/logs' 'the home/venv/lib'
}

teardown() { common_teardown; }

tell() { printf 'told: %s\n' "$1" >>told; }

# Watches for 3 minutes of quiet, a minute a look. Before look N the snippet at_N runs; look 9 ends the watch.
watch() {
  local look=0
  _pause() {
    look=$((look + 1))
    if ((look == 9)); then exit 0; fi
    if declare -F "at_$look" >/dev/null; then "at_$look"; fi
    printf '%s\n' "$1" >>pauses
  }
  (watch_for_stall tell 3 60 marker 'the data' 'the home')
}

@test "nothing written for as long as that is told once, with the minutes, and the watch ends" {
  watch
  assert_equal "$(<told)" 'told: 3'
  assert_equal "$(tr '\n' ' ' <pauses)" '60 60 60 '
}

@test "a line of output begins the time anew" {
  at_2() { printf 'step 1\n' >>'the data/output/logs/training.log'; }
  watch
  assert_equal "$(wc -l <pauses)" 5
}

@test "so do a file that unpacks with an old date, and one deeper than the watch looks" {
  at_2() { printf x >'the home/venv/lib/module.py' && touch -d '2001-01-01' 'the home/venv/lib/module.py'; }
  at_4() { mkdir -p 'the data/output/checkpoints/step_7' && printf x >'the data/output/checkpoints/step_7/weights'; }
  watch
  assert_equal "$(wc -l <pauses)" 7
}

@test "a run that always writes is never told of" {
  local look
  for look in {1..8}; do source /dev/stdin <<<"at_$look() { date >'the data/output/metrics.jsonl'; }"; done
  watch
  assert [ ! -e told ]
}

@test "folders that are not there yet are no movement and no error" {
  rm -r 'the data' 'the home'
  run --separate-stderr -0 watch
  assert_equal "$stderr" ''
  assert_equal "$(<told)" 'told: 3'
}

@test "a stall is told with the step it stands at, and what it costs" {
  put_state training step_120
  put_object a-bucket "dev/$RUN/run.json" '{"deadline":"2025-01-15T20:30:22Z","price":{"compute_usd_per_hour":0.752}}'
  aws_plan 'sns publish *' --out '{}'
  run --separate-stderr -0 tell_stall "$TOPIC" a-bucket dev "$RUN" 15
  assert_regex "$stderr" 'WARN  nothing has been written for 15 minutes'
  run -0 jq -r '.subject, .message' "$(object a-bucket "dev/$RUN/notices/stall.json")"
  assert_line "Chronos dev $RUN: no progress for 15 minutes at step_120"
  assert_line 'step        step_120'
  assert_line "cost        \$0.75 an hour"
  assert_line 'Nothing has been ended: look at it, then wait or end it.'
  assert_line 'next: invoke kill --env dev'
}

@test "a run that is ending is no stall, and a state that cannot be read is" {
  local status
  for status in failed killed cleanup; do
    put_state "$status" training
    run --separate-stderr -0 tell_stall "$TOPIC" a-bucket dev "$RUN" 15
    assert_equal "$stderr" ''
  done
  refute_called 'sns *'
  rm "$(object a-bucket dev/system-state.json)"
  aws_plan 'sns publish * at an unknown step*' --out '{}'
  tell_stall "$TOPIC" a-bucket dev "$RUN" 15
}

@test "without a topic the stall is in the log" {
  put_state training step_120
  run --separate-stderr -0 tell_stall '' a-bucket dev "$RUN" 15
  assert_regex "$stderr" 'WARN  nothing has been written for 15 minutes'
  refute_called 'sns *'
}
