#!/usr/bin/env bats
# shell/lib/stale_claim.sh: a claim is taken over only when EC2 proves its instance gone.
# shellcheck disable=SC2154,SC2034  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly OLD=2025-01-15-143022
readonly NEW=2025-01-20-000000

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/stale_claim.sh
  source "$project/shell/lib/stale_claim.sh"
  AWS_DEFAULT_REGION=us-east-1
  use_fake_s3 a-bucket
  put_state training step_7
  put_run_record "$OLD"
}

teardown() { common_teardown; }

sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

new_state() { state_body initialization launch "$NEW" null; }
take_over() { take_over_stale_claim a-bucket dev "$(new_state)" "run $OLD holds dev" 300; }

# The claim has no instance yet. [seconds since it was last written]
claim_without_instance() {
  local written
  written=$(date -u -d "@$(($(date +%s) - $1))" +%Y-%m-%dT%H:%M:%SZ)
  put_object a-bucket dev/system-state.json \
    "$(state_body initialization launch "$OLD" null | sed "s/\"last_update\":\"[^\"]*\"/\"last_update\":\"$written\"/")"
}

@test "a claim whose instance is terminated is taken over by compare-and-swap, and its run is recorded as lost" {
  local etag
  etag="\"$(md5sum "$(object a-bucket dev/system-state.json)" | cut -c1-32)\""
  aws_plan 'ec2 describe-instances --instance-ids i-0abc *' --out "$(instances_json "$(instance_json i-0abc terminated "$OLD")")"
  run --separate-stderr -0 take_over
  assert_regex "$stderr" 'stale and is taken over'
  assert_called 1 s3api copy-object --bucket a-bucket --key dev/system-state.json \
    --copy-source a-bucket/dev/system-state.json.tmp-00ff00ff00ff00ff --if-match "$etag"
  assert_effects 'put-object dev/system-state.json.tmp-N' 'copy-object dev/system-state.json if-match' \
    'delete-object dev/system-state.json.tmp-N' "put-object dev/$OLD/run.json if-match"
  assert_json "$(state_now)" .run_id "$NEW"
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step) \(.exit_code)"' 'lost step_7 null'
}

@test "an old claim whose instance EC2 does not know is taken over" {
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound
  run --separate-stderr -0 take_over
  assert_json "$(state_now)" .run_id "$NEW"
}

@test "a young claim whose instance EC2 does not know yet is held: exit code 12" {
  put_object a-bucket dev/system-state.json \
    "$(state_body initialization launch "$OLD" | sed "s/\"last_update\":\"[^\"]*\"/\"last_update\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"/")"
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound
  run --separate-stderr -12 take_over
  assert_effects
}

@test "a claim whose instance lives is not taken over: exit code 12, and the holder is named" {
  local state
  for state in running shutting-down; do
    aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc "$state" "$OLD")")"
    run --separate-stderr -12 take_over
    assert_regex "$stderr" "run $OLD holds dev.*$state"
  done
  assert_effects
}

@test "an instance that cannot be looked up proves nothing: exit code 12" {
  aws_plan 'ec2 describe-instances *' --error UnauthorizedOperation
  run --separate-stderr -12 take_over
  assert_regex "$stderr" 'EC2 says of its instance: unknown'
  aws_plan 'ec2 describe-instances *' --silence --times 6
  run --separate-stderr -12 take_over
  assert_effects
}

@test "a young claim without an instance is a launch under way: exit code 12" {
  claim_without_instance 60
  aws_plan 'ec2 describe-instances *' --out "$(instances_json)"
  run --separate-stderr -12 take_over
  assert_effects
}

@test "an old claim without an instance has lost its launcher and is taken over" {
  claim_without_instance 400
  aws_plan "ec2 describe-instances --filters * Name=tag:RunId,Values=$OLD *" --out "$(instances_json)"
  run --separate-stderr -0 take_over
  assert_json "$(state_now)" .run_id "$NEW"
}

@test "an old claim without an instance id is held when an instance has its tag" {
  claim_without_instance 400
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0new running "$OLD")")"
  run --separate-stderr -12 take_over
  assert_regex "$stderr" 'running'
  assert_effects
}

@test "of two launches that find the same stale claim, the slower gets exit code 28" {
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc terminated "$OLD")")" \
    --before "printf '%s' '$(state_body initialization launch 2025-01-21-000000 null | sed s/00ff00ff00ff00ff/abcdef/)' >'$(object a-bucket dev/system-state.json)'"
  run --separate-stderr -28 take_over
  assert_json "$(state_now)" .run_id 2025-01-21-000000
  assert_json "$(run_record_now)" '.outcome | tojson' null
}

@test "a claim that was given back meanwhile is a lost race, not an error" {
  rm "$(object a-bucket dev/system-state.json)"
  run --separate-stderr -28 take_over
}

@test "a run record that cannot be finished does not spoil the take-over" {
  rm "$(object a-bucket "dev/$OLD/run.json")"
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound
  run --separate-stderr -0 take_over
  assert_json "$(state_now)" .run_id "$NEW"
}
