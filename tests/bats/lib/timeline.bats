#!/usr/bin/env bats
# shell/lib/timeline.sh: when a run came how far.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/timeline.sh
  source "$project/shell/lib/timeline.sh"
  export CHRONOS_ROOT="$work/the disk" FAKE_IMDS="$work/imds"
  mkdir -p "$CHRONOS_ROOT/proc" "$FAKE_IMDS/dynamic/instance-identity"
}

teardown() { common_teardown; }

@test "a milestone is UTC with milliseconds, and the first time counts" {
  reached data_ready 1736951422.0049
  reached data_ready 1736951999
  reached first_step 1736951423,25
  assert_equal "$timeline" '{"first_step":"2025-01-15T14:30:23.250Z","data_ready":"2025-01-15T14:30:22.004Z"}'
}

@test "the launch is EC2's word, the start the kernel's, user data's its own" {
  printf '{"pendingTime": "2025-01-15T14:30:22Z"}' >"$FAKE_IMDS/dynamic/instance-identity/document"
  printf 'cpu 1 2\nbtime 1736951430\n' >"$CHRONOS_ROOT/proc/stat"
  CHRONOS_USER_DATA_STARTED=1736951440.5 begin_timeline
  assert_json "$timeline" '"\(.launch_accepted) \(.instance_running) \(.user_data_started)"' \
    '2025-01-15T14:30:22.000Z 2025-01-15T14:30:30.000Z 2025-01-15T14:30:40.500Z'
}

@test "what is not known is left out, and what is no time harms nothing" {
  begin_timeline
  reached data_ready soon
  assert_equal "$timeline" '{}'
}

@test "the training's own milestones come with the others" {
  reached data_ready 1736951422
  printf '{"timeline": {"first_step": "2025-01-15T14:31:00.000Z"}}' >"$work/training.json"
  assert_equal "$(whole_timeline "$work")" '{"data_ready":"2025-01-15T14:30:22.000Z","first_step":"2025-01-15T14:31:00.000Z"}'
  printf '{half' >"$work/training.json"
  assert_equal "$(whole_timeline "$work")" '{"data_ready":"2025-01-15T14:30:22.000Z"}'
  assert_equal "$(whole_timeline "$work/nowhere")" '{"data_ready":"2025-01-15T14:30:22.000Z"}'
}
