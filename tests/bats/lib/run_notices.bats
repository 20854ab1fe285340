#!/usr/bin/env bats
# shell/lib/run_notices.sh: what the instance tells of its own run.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/run_notices.sh
  source "$project/shell/lib/run_notices.sh"
  use_fake_s3 a-bucket
  CHRONOS_BUCKET=a-bucket CHRONOS_ENV=dev CHRONOS_RUN_ID=$RUN CHRONOS_TOPIC_ARN=arn:aws:sns:us-east-1:123456789012:ChronosTraining
}

teardown() { common_teardown; }

@test "a stall is told with the step it stands at, and what it costs" {
  put_state training step_120
  put_object a-bucket "dev/$RUN/run.json" '{"deadline":"2025-01-15T20:30:22Z","price":{"compute_usd_per_hour":0.752}}'
  aws_plan 'sns publish *' --out '{}'
  run --separate-stderr -0 tell_stall 15
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
    run --separate-stderr -0 tell_stall 15
    assert_equal "$stderr" ''
  done
  refute_called 'sns *'
  rm "$(object a-bucket dev/system-state.json)"
  aws_plan 'sns publish * at an unknown step*' --out '{}'
  tell_stall 15
}

@test "without a topic the stall is in the log" {
  CHRONOS_TOPIC_ARN=''
  put_state training step_120
  run --separate-stderr -0 tell_stall 15
  assert_regex "$stderr" 'WARN  nothing has been written for 15 minutes'
  refute_called 'sns *'
}

@test "an end that run.json could not be given is told from what the instance knows" {
  aws_plan 'sns publish *' --out '{}' --times 2
  CHRONOS_ROOT="$work/the disk"
  mkdir -p "$CHRONOS_ROOT/opt/chronos"
  tell_end failed data_sync 'the training data could not be fetched' i-0abc
  assert [ -e "$CHRONOS_ROOT/opt/chronos/told" ] # for the user data
  run -0 jq -r '.subject, .message' "$(object a-bucket "dev/$RUN/notices/end.json")"
  assert_line "Chronos dev $RUN: failed at data_sync"
  assert_line 'error       the training data could not be fetched'
  assert_line 'machine     i-0abc'
  rm "$(object a-bucket "dev/$RUN/notices/end.json")"
  tell_end succeeded results_sync 'phase results_sync ended with exit code 0' i-0abc
  run -0 jq -r '.subject, .message' "$(object a-bucket "dev/$RUN/notices/end.json")"
  assert_line "Chronos dev $RUN: succeeded"
  refute_line --partial error
}
