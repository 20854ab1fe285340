#!/usr/bin/env bats
# shell/lib/run_id.sh: no two runs share an id, of whatever environments.
# shellcheck disable=SC2154,SC2034,SC2329  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly FIRST=2025-01-15-143022
readonly SECOND=2025-01-15-143023

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/run_id.sh
  source "$project/shell/lib/run_id.sh"
  use_fake_s3 a-bucket
  seconds=("$FIRST" "$SECOND")
  clock="$BATS_TEST_TMPDIR/clock"
  printf '0' >"$clock"
  # A clock that goes on by a second at each look.
  new_run_id() {
    local tick
    tick=$(<"$clock")
    printf '%d' "$((tick + 1))" >"$clock"
    printf '%s\n' "${seconds[tick < ${#seconds[@]} ? tick : -1]}"
  }
}

teardown() { common_teardown; }

sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

reserve() {
  local run_id=''
  reserve_run_id a-bucket dev "${1:-true}" && printf '%s\n' "$run_id"
}

taken() { put_object a-bucket "logs/$1/phase_logs.json" '{"reserved_by":"another"}'; }

@test "an id is reserved by a create-only write of its phase log, which names the environment" {
  run --separate-stderr -0 reserve
  assert_output "$FIRST"
  assert_effects "put-object logs/$FIRST/phase_logs.json if-none-match=*"
  assert_json "$(cat "$(object a-bucket "logs/$FIRST/phase_logs.json")")" '"\(.run_id) \(.environment) \(.phases)"' "$FIRST dev []"
}

@test "a second that another launch has taken is left to it: the next one is tried" {
  taken "$FIRST"
  run --separate-stderr -0 reserve
  assert_output "$SECOND"
  assert_json "$(cat "$(object a-bucket "logs/$FIRST/phase_logs.json")")" .reserved_by another
}

@test "between two tries the launch looks who holds the environment, and gives up when it says so" {
  taken "$FIRST"
  held() { return "$EXIT_HELD"; }
  run --separate-stderr -12 reserve held
  assert_output ''
  assert_effects
}

@test "a reservation whose answer was lost is known as one's own" {
  aws_plan 's3api put-object *' --lost --silence
  run --separate-stderr -0 reserve
  assert_output "$FIRST"
  assert_effects "put-object logs/$FIRST/phase_logs.json if-none-match=*"
}

@test "a bucket that refuses is exit code 15 at once" {
  aws_plan 's3api put-object *' --error AccessDenied
  run --separate-stderr -15 reserve
}

@test "seconds that are all taken are exit code 28, not a hang" {
  taken "$FIRST"
  taken "$SECOND"
  run --separate-stderr -28 reserve
  assert_regex "$stderr" 'try again'
}

@test "an id that no run came to use is given back" {
  reserve_run_id a-bucket dev true
  release_run_id a-bucket "$run_id"
  assert_effects "put-object logs/$FIRST/phase_logs.json if-none-match=*" "delete-object logs/$FIRST/phase_logs.json"
}
