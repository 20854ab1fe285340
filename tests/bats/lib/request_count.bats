#!/usr/bin/env bats
# shell/lib/request_count.sh: what an instance asks of S3 is counted for its run's cost.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/state_helpers.sh
  source "$project/shell/lib/state_helpers.sh"
  use_fake_s3 a-bucket
  export CHRONOS_S3_REQUESTS="$work/s3-requests"
}

teardown() { common_teardown; }

sleep() { :; }

@test "a state write is two PUTs, a state read one GET, and retries count again" {
  put_state
  read_state a-bucket dev
  assert_equal "$(<"$CHRONOS_S3_REQUESTS")" G
  aws_plan 's3api put-object *' --error SlowDown --times 2
  transition_state a-bucket dev 2025-01-15-143022 results_sync results_sync
  assert_equal "$(tr -d G <"$CHRONOS_S3_REQUESTS")" PPPP
}

@test "deletions and the calls of other services are not counted" {
  put_state
  read_state a-bucket dev
  aws_plan 'ec2 describe-instances *' --out '{}'
  retry_with_backoff 1 aws ec2 describe-instances --instance-ids i-1
  delete_state_if_match a-bucket dev "$STATE_ETAG"
  assert_equal "$(<"$CHRONOS_S3_REQUESTS")" G
}

@test "a download is a HEAD and a GET for each 8 MiB" {
  stat() { [[ $3 == "$work/archive" ]] && printf '%d\n' $((17 * 1024 * 1024)); }
  note_download "$work/archive"
  note_download "$work/gone"
  assert_equal "$(<"$CHRONOS_S3_REQUESTS")" GGGGG
}

@test "the sum has what follows the count" {
  note_requests P 10
  note_requests G 20
  assert_equal "$(counted_requests)" '{"requests":{"put":13,"get":24}}'
}

@test "without the variable, or where the file cannot be written, nothing is counted and nothing fails" {
  CHRONOS_S3_REQUESTS="$work/no such folder/file"
  note_requests P
  assert_equal "$(counted_requests)" '{}'
  unset CHRONOS_S3_REQUESTS
  note_requests P
  note_call aws s3api put-object x
  assert_equal "$(counted_requests)" '{}'
}
