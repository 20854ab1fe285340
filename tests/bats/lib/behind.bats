#!/usr/bin/env bats
# shell/lib/behind.sh: what goes on behind the phases is waited for with its own status; what only fetches is tried once more.
# shellcheck disable=SC2154  # variables of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/phases.sh
  source "$project/shell/lib/phases.sh"
}

teardown() { common_teardown; }

# Notes that it was called, and ends with the next of some statuses. <status…>
part() {
  local calls
  echo call >>"$work/calls"
  calls=$(wc -l <"$work/calls")
  return "${!calls}"
}

# The status of a part that is fetched, and how often it was called. <status of the first call> [of the second]
fetch() {
  local status=0
  begin piece part "$@" 3>&-
  finish_fetch piece part "$@" 2>/dev/null || status=$?
  printf '%d %d\n' "$status" "$(wc -l <"$work/calls")"
  rm "$work/calls"
}

@test "a part that could not fetch, or that was killed, is called once more; its second status counts" {
  assert_equal "$(fetch 0)" '0 1'
  assert_equal "$(fetch 1 0)" '0 2'
  assert_equal "$(fetch 137 0)" '0 2'
  assert_equal "$(fetch 1 1)" '1 2'
  assert_equal "$(fetch 1 18)" '18 2'
}

@test "what a second try cannot mend is not tried again" {
  assert_equal "$(fetch 2)" '2 1'
  assert_equal "$(fetch "$EXIT_S3_DENIED")" "$EXIT_S3_DENIED 1"
  assert_equal "$(fetch "$EXIT_NOT_UPLOADED")" "$EXIT_NOT_UPLOADED 1"
}

@test "a part that fetches nothing is not called again" {
  local status=0
  begin piece part 1 3>&-
  finish piece || status=$?
  assert_equal "$status $(wc -l <"$work/calls")" '1 1'
  assert_equal "${#behind[@]}" 0
}
