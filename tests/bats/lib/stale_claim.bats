#!/usr/bin/env bats
# shell/lib/stale_claim.sh: an environment is claimable when it is free, or when EC2 proves its holder's instance gone.
# shellcheck disable=SC2154,SC2034  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly OLD=2025-01-15-143022

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

# Prints what a launch would have to replace.
look() { require_claimable a-bucket dev 300 && printf '%s\n' "$STALE_RUN at $STALE_STEP, ${STALE_ETAG:-free}"; }

# The claim has no instance yet. [seconds since it was last written]
claim_without_instance() {
  local written
  written=$(date -u -d "@$(($(date +%s) - $1))" +%Y-%m-%dT%H:%M:%SZ)
  put_object a-bucket dev/system-state.json \
    "$(state_body initialization launch "$OLD" null | sed "s/\"last_update\":\"[^\"]*\"/\"last_update\":\"$written\"/")"
}

@test "an environment without a state file is claimable, and nothing is stale" {
  rm "$(object a-bucket dev/system-state.json)"
  run --separate-stderr -0 look
  assert_output ' at , free'
}

@test "a claim whose instance is terminated is stale: what to replace is known exactly" {
  local etag
  etag="\"$(md5sum "$(object a-bucket dev/system-state.json)" | cut -c1-32)\""
  aws_plan 'ec2 describe-instances --instance-ids i-0abc *' --out "$(instances_json "$(instance_json i-0abc terminated "$OLD")")"
  run --separate-stderr -0 look
  assert_regex "$stderr" "run $OLD holds dev.*the claim is stale"
  assert_output "$OLD at training, $etag"
  assert_effects
}

@test "a claim of several machines is stale when all of them are terminated, and not before" {
  local states answer
  put_object a-bucket dev/system-state.json "$(state_body training step_7 | jq -c '.control.nodes = 2')"
  for states in 'terminated running' 'running terminated' terminated 'terminated terminated'; do
    # shellcheck disable=SC2086  # words
    answer=$(jq -cn '$ARGS.positional | {Reservations: [{Instances: map({State: {Name: .}})}]}' --args $states)
    aws_plan "ec2 describe-instances --output json --filters * Name=tag:RunId,Values=$OLD" --out "$answer"
    # A claim whose machines are not all shown is proof only when it is old, as this one is.
    case $states in
      terminated*) if [[ $states == 'terminated running' ]]; then run --separate-stderr -12 look; else run --separate-stderr -0 look; fi ;;
      *) run --separate-stderr -12 look ;;
    esac
  done
}

@test "a claim is known to have been interrupted by EC2's word, or by the mark that the machine made" {
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc terminated "$OLD" \
    | jq -c '.StateReason.Code = "Server.SpotInstanceTermination"')")"
  require_claimable a-bucket dev 300 2>/dev/null
  assert_equal "$STALE_OUTCOME" interrupted
  put_object a-bucket dev/system-state.json "$(state_body training step_7 | jq -c '.control.interruption = {}')"
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc terminated "$OLD")")"
  require_claimable a-bucket dev 300 2>/dev/null
  assert_equal "$STALE_OUTCOME" interrupted
  put_state training step_7
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc terminated "$OLD")")"
  require_claimable a-bucket dev 300 2>/dev/null
  assert_equal "$STALE_OUTCOME" lost
}

@test "an old claim whose instance EC2 does not know is stale" {
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound
  run --separate-stderr -0 look
  assert_output --partial "$OLD at training"
}

@test "a young claim whose instance EC2 does not know yet is held: exit code 12" {
  put_object a-bucket dev/system-state.json \
    "$(state_body initialization launch "$OLD" | sed "s/\"last_update\":\"[^\"]*\"/\"last_update\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"/")"
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound
  run --separate-stderr -12 look
}

@test "a claim whose instance lives is held: exit code 12, and the holder is named" {
  local state
  for state in running shutting-down; do
    aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc "$state" "$OLD")")"
    run --separate-stderr -12 look
    assert_regex "$stderr" "run $OLD holds dev.*$state"
  done
}

# The holder began so long ago, with so many dollars an hour in its record. <seconds> <dollars>
held_since() {
  local began
  began=$(date -u -d "@$(($(date +%s) - $1))" +%Y-%m-%dT%H:%M:%SZ)
  put_object a-bucket dev/system-state.json "$(state_body training step_7 "$OLD" | jq -c --arg began "$began" '.timestamps.start = $began')"
  put_object a-bucket "dev/$OLD/run.json" "$(jq -cn --arg began "$began" --argjson usd "$2" '{started_at: $began, ended_at: null,
    instance: {id: "i-0abc"}, price: {compute_usd_per_hour: $usd, disk_gb: 0, disk_usd_per_gb_month: 0, address_usd_per_hour: 0,
    put_usd_per_1000: 0, get_usd_per_1000: 0, request_rates: {put_once: 0, put_per_hour: 0, get_once: 0, get_per_hour: 0}}}')"
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc running "$OLD")")"
}

@test "a refusal names the holder with its status, its age and its cost so far" {
  held_since 7500 2
  run --separate-stderr -12 look
  # shellcheck disable=SC2016  # dollars
  assert_regex "$stderr" "run $OLD holds dev: training at step_7, .*It is 2 h 05 min old and has cost \\\$4.17 so far.*running"
}

@test "a launch that waits for a machine has cost nothing" {
  held_since 7500 2
  put_object a-bucket dev/system-state.json "$(state_body initialization launch "$OLD" | jq -c '.instance_id = null')"
  put_object a-bucket "dev/$OLD/run.json" "$(jq -c '.instance.id = null' "$(object a-bucket "dev/$OLD/run.json")")"
  run --separate-stderr -12 look
  # shellcheck disable=SC2016  # dollars
  assert_regex "$stderr" 'has cost \$0\.00 so far'
}

@test "a cost that nobody knows, or a record that cannot be read, keeps no refusal from its words" {
  held_since 65 null
  run --separate-stderr -12 look
  assert_regex "$stderr" 'It is 1 min 0[5-9] s old and what it has cost so far is not known'
  held_since 65 2
  put_object a-bucket "dev/$OLD/run.json" '{"half'
  run --separate-stderr -12 look
  assert_regex "$stderr" 'old and what it has cost so far is not known'
  held_since 65 2
  rm "$(object a-bucket "dev/$OLD/run.json")"
  run --separate-stderr -12 look
  assert_regex "$stderr" 'old and what it has cost so far is not known'
}

@test "an instance that cannot be looked up proves nothing: exit code 12" {
  aws_plan 'ec2 describe-instances *' --error UnauthorizedOperation
  run --separate-stderr -12 look
  assert_regex "$stderr" 'EC2 says of its instance: unknown'
  aws_plan 'ec2 describe-instances *' --silence --times 6
  run --separate-stderr -12 look
}

@test "a young claim without an instance is a launch under way: exit code 12" {
  claim_without_instance 60
  aws_plan 'ec2 describe-instances *' --out "$(instances_json)"
  run --separate-stderr -12 look
}

@test "an old claim without an instance has lost its launcher and is stale" {
  claim_without_instance 400
  aws_plan "ec2 describe-instances --filters * Name=tag:RunId,Values=$OLD *" --out "$(instances_json)"
  run --separate-stderr -0 look
  assert_output --partial "$OLD at launch"
}

@test "an old claim without an instance id is held when an instance has its tag" {
  claim_without_instance 400
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0new running "$OLD")")"
  run --separate-stderr -12 look
  assert_regex "$stderr" 'running'
}

@test "a corrupt state file is not claimable: exit code 14, with the way out" {
  put_object a-bucket dev/system-state.json '{'
  run --separate-stderr -14 look
  assert_regex "$stderr" 'invoke kill --env dev'
}

settle() {
  STALE_RUN=$OLD STALE_STEP=training
  settle_stale_run a-bucket dev
}

@test "the run whose claim was taken over is recorded as lost" {
  run --separate-stderr -0 settle
  assert_effects "put-object dev/$OLD/run.json if-match"
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step) \(.exit_code)"' 'lost training null'
}

@test "a run that its deadline ended keeps its machine's reason and names the step that is safe" {
  STALE_OUTCOME=lost STALE_ERROR='deadline reached: the machine goes off at 20:30'
  put_object a-bucket "dev/$OLD/checkpoints/checkpoint-9/manifest.json" '{}'
  run --separate-stderr -0 settle
  assert_json "$(run_record_now)" '"\(.outcome) \(.checkpoint_step) \(.error)"' \
    'lost 9 deadline reached: the machine goes off at 20:30; the instance was gone before the run had recorded its end'
}

@test "an interrupted run is recorded as such, with the step that is safe and the way on" {
  STALE_OUTCOME=interrupted
  put_object a-bucket "dev/$OLD/checkpoints/checkpoint-9/manifest.json" '{}'
  put_object a-bucket "dev/$OLD/checkpoints/checkpoint-100/manifest.json" '{}'
  put_object a-bucket "dev/$OLD/checkpoints/checkpoint-110/state.npz" 'half'
  run --separate-stderr -0 settle
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step) \(.checkpoint_step)"' 'interrupted training 100'
  assert_regex "$(run_record_now | jq -r .error)" "step 100 is in S3, go on from it: invoke launch --env dev --resume $OLD\$"
}

@test "an interrupted run that had saved nothing says so" {
  STALE_OUTCOME=interrupted
  run --separate-stderr -0 settle
  assert_json "$(run_record_now)" '"\(.outcome) \(.checkpoint_step)"' 'interrupted null'
  assert_regex "$(run_record_now | jq -r .error)" 'no checkpoint was saved$'
}

@test "a record that somebody has deleted does not spoil the take-over" {
  rm "$(object a-bucket "dev/$OLD/run.json")"
  run --separate-stderr -0 settle
}
