#!/usr/bin/env bats
# shell/lib/aws_call.sh: which calls of AWS are made again and how often, and what is told of one that failed.
# shellcheck disable=SC2153,SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/aws_call.sh
  source "$project/shell/lib/aws_call.sh"
}

teardown() { common_teardown; }

# In this process, and in those that `run` starts.
sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

@test "a call that is throttled twice succeeds, after two waits" {
  aws_plan 'sts get-caller-identity' --error ThrottlingException --times 2
  aws_plan 'sts get-caller-identity' --out '{"Arn":"me"}'
  retry_with_backoff 6 aws sts get-caller-identity
  assert_equal "$AWS_OUTPUT" '{"Arn":"me"}'
  assert_equal "$(sleeps | wc -l)" 2
  assert_equal "$AWS_ERROR_CODE" ''
  assert_equal "$AWS_TRIES" 3
}

@test "every call has time-outs of its own: a network that swallows everything is noticed" {
  aws_plan 'sts get-caller-identity' --times 2 --silence
  run ! retry_with_backoff 2 aws sts get-caller-identity
  assert_equal "$(<"$FAKE_AWS_DIR/timeouts")" \
    $'--cli-connect-timeout 10 --cli-read-timeout 60\n--cli-connect-timeout 10 --cli-read-timeout 60'
}

@test "the services' transient codes are worth another try, their refusals are not" {
  local code
  for code in '' 409 500 502 503 504 ConditionalRequestConflict InternalError SlowDown ServiceUnavailable RequestTimeout \
    Throttling ThrottlingException RequestLimitExceeded Unavailable; do
    _is_transient "$code" || fail "$code is transient"
  done
  for code in AccessDenied 403 404 412 PreconditionFailed NoSuchKey NoSuchBucket InvalidInstanceID.NotFound \
    UnauthorizedOperation InsufficientInstanceCapacity ExpiredToken; do
    run ! _is_transient "$code"
  done
}

@test "an internal error of the service is tried again" {
  aws_plan 'ec2 describe-images' --error InternalError
  aws_plan 'ec2 describe-images' --out '{}'
  retry_with_backoff 2 aws ec2 describe-images
}

@test "a connection error, which has no code, is tried again" {
  aws_plan 'sts get-caller-identity' --silence --times 3
  aws_plan 'sts get-caller-identity' --out '{}'
  retry_with_backoff 6 aws sts get-caller-identity
}

@test "a refusal is not tried again, and the command's own exit code comes back" {
  aws_plan 'sts get-caller-identity' --error AccessDenied
  local status=0
  retry_with_backoff 6 aws sts get-caller-identity || status=$?
  assert_equal "$status" 254
  assert_equal "$AWS_ERROR_CODE" AccessDenied
  assert_equal "$(sleeps)" ''
}

@test "gives up after the last attempt without waiting for another, and keeps the text of the error" {
  aws_plan 'sts get-caller-identity' --error SlowDown --times 3
  local status=0
  retry_with_backoff 3 aws sts get-caller-identity || status=$?
  assert_equal "$status" 254
  assert_equal "$(sleeps | wc -l)" 2
  assert_regex "$AWS_ERROR_TEXT" 'SlowDown.*the fake says so'
  assert_no_temporary_files
}

@test "what a successful call says on stderr does not get into its output" {
  aws_plan 'sts get-caller-identity' --out '{"Arn":"me"}' --stderr 'a warning'
  retry_with_backoff 2 aws sts get-caller-identity
  assert_equal "$AWS_OUTPUT" '{"Arn":"me"}'
}

@test "waits are random, double, and never exceed ten seconds" {
  local attempt cap waits seconds
  for attempt in 0 3 20; do
    cap=$((200 << attempt))
    if ((cap > 10000)); then cap=10000; fi
    waits=$(for _ in {1..20}; do _backoff_seconds "$attempt"; done)
    while read -r seconds; do
      assert_regex "$seconds" '^[0-9]+\.[0-9]{3}$'
      if ((10#${seconds/./} > cap)); then fail "try $attempt waits $seconds s"; fi
    done <<<"$waits"
    if (($(sort -u <<<"$waits" | wc -l) < 5)); then fail "try $attempt has no jitter: $waits"; fi
  done
}
