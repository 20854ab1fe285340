#!/usr/bin/env bats
# shell/kill_training.sh: ends a run gracefully, then certainly, whatever the state file says; leaves others alone.
# shellcheck disable=SC2154  # variables of the helpers
bats_require_minimum_version 1.5.0
load helpers/common

readonly RUN=2025-01-15-143022
readonly OTHER=2025-01-20-000000

setup() {
  common_setup
  fake_sleep
  use_fake_s3 a-bucket
  put_run_record "$RUN"
  export CHRONOS_KILL_GRACE_SECONDS=2
}

teardown() { common_teardown; }

kill_run() { run --separate-stderr bash "$project/shell/kill_training.sh" --env dev "$@" </dev/null; }

plan_checks() {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":""}'
  aws_plan 'sts get-caller-identity *' --out '{"Arn":"arn:aws:iam::123456789012:user/ada"}'
  aws_plan 'cloudformation list-exports *' --out '{"Exports":[{"Name":"ChronosTraining-BucketName","Value":"a-bucket"},
    {"Name":"ChronosTraining-SubnetIds","Value":"subnet-1"},{"Name":"ChronosTraining-SecurityGroupId","Value":"sg-1"},
    {"Name":"ChronosTraining-InstanceProfileName","Value":"profile"}'"${group:+,
    {\"Name\":\"ChronosTraining-ScheduleGroupName\",\"Value\":\"$group\"\}}${topic:+,
    {\"Name\":\"ChronosTraining-TopicArn\",\"Value\":\"$topic\"\}}]}"
}

# The run's instance is seen this many times, then no more.
plan_instance_seen() {
  aws_plan 'ec2 describe-instances *' --times "$1" --out "$(instances_json "$(instance_json i-0abc running "$RUN")")"
  aws_plan 'ec2 describe-instances *' --times any --out "$(instances_json)"
}

# The search by tag finds none; one that the state file names is terminated all the same.
plan_no_instance() {
  aws_plan 'ec2 describe-instances *' --times any --out "$(instances_json)"
  aws_plan 'ec2 terminate-instances --instance-ids i-0abc *' --times any --error InvalidInstanceID.NotFound
}
plan_terminate() { aws_plan 'ec2 terminate-instances *' --out '{}'; }

readonly UPDATE=('put-object dev/system-state.json.tmp-N' 'copy-object dev/system-state.json if-match'
  'delete-object dev/system-state.json.tmp-N')
readonly RECORD="put-object dev/$RUN/run.json if-match"
readonly FREE='delete-object dev/system-state.json if-match'

# -- usage ------------------------------------------------------------------------------------------------------

@test "--help prints the script's header and asks nothing" {
  kill_run --help
  assert_success
  assert_line --index 0 --partial 'Ends the run that holds an environment'
  refute_called '*'
}

@test "an unknown argument, or --env without a name, is exit code 2" {
  kill_run --force
  assert_failure 2
  assert_regex "$stderr" "unknown argument '--force'"
  kill_run --yes --env
  assert_failure 2
  kill_run --yes --env ''
  assert_failure 2
  refute_called '*'
}

@test "an environment that is no name is exit code 26, and nothing of it is executed" {
  # shellcheck disable=SC2016  # nothing may expand
  kill_run --env '$(touch canary)' --yes
  assert_failure 26
  assert [ ! -e canary ]
  refute_called '*'
}

@test "no credentials are exit code 10" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":""}'
  aws_plan 'sts get-caller-identity *' --error ExpiredToken
  kill_run --yes
  assert_failure 10
}

@test "a stack that is not deployed is exit code 11" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":""}'
  aws_plan 'sts get-caller-identity *' --out '{"Arn":"me"}'
  aws_plan 'cloudformation list-exports *' --out '{"Exports":[]}'
  kill_run --yes
  assert_failure 11
  assert_regex "$stderr" 'run invoke deploy'
}

# -- a valid state file ---------------------------------------------------------------------------------------------

@test "a training run is marked killed, saves and stops by itself: nothing is terminated by force" {
  plan_checks
  plan_instance_seen 2
  put_state training step_7
  kill_run --yes
  assert_success
  assert_output ''
  assert_equal "$(published '"\(.status) \(.current_step) \(.error_message)"')" \
    $'killed step_7 killed by operator\ncleanup cleanup killed by operator'
  refute_called 'ec2 terminate-instances *'
  assert_effects "${UPDATE[@]}" "$RECORD" "${UPDATE[@]}" "$FREE"
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step) \(.error) \(.exit_code)"' 'killed training killed by operator null'
}

@test "a run that does not stop in time is terminated, by its id" {
  plan_checks
  plan_instance_seen 5
  plan_terminate
  put_state training step_7
  kill_run --yes
  assert_success
  assert_regex "$stderr" 'waiting up to 2 s'
  assert_regex "$stderr" 'did not stop in time'
  assert_called 1 ec2 terminate-instances --instance-ids i-0abc --output json
  assert_effects "${UPDATE[@]}" terminate-instances "$RECORD" "${UPDATE[@]}" "$FREE"
}

@test "--now terminates without asking the instance or waiting for it, and tells of it in its place" {
  topic=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  plan_checks
  aws_plan "sns list-subscriptions-by-topic --topic-arn $topic --output json" --out '{"Subscriptions": [{}]}'
  aws_plan "sns publish * $RUN: killed at training *" --out '{}'
  plan_instance_seen 2
  plan_terminate
  put_state training step_7
  kill_run --yes --now
  assert_success
  assert_effects terminate-instances "$RECORD" "$FREE" "put-object dev/$RUN/notices/end.json if-none-match=*"
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step)"' 'killed training'
}

@test "a machine that the state file names and EC2 shows to be another's is left alone" {
  local tags
  for tags in '[]' '[{"Key":"Project","Value":"Payroll"},{"Key":"Environment","Value":"dev"}]' \
    '[{"Key":"Project","Value":"Chronos-Training"},{"Key":"Environment","Value":"prod"}]'; do
    plan_checks
    aws_plan 'ec2 describe-instances --filters *' --times 2 --out "$(instances_json)"
    aws_plan 'ec2 describe-instances --instance-ids i-0abc --output json' \
      --out "$(instances_json "{\"InstanceId\":\"i-0abc\",\"State\":{\"Name\":\"running\"},\"Tags\":$tags}")"
    put_run_record "$RUN"
    put_state training step_7
    kill_run --yes --now
    assert_success
    assert_regex "$stderr" 'i-0abc, which the state file names, .* left alone'
    assert_equal "$(state_now)" ''
  done
  refute_called 'ec2 terminate-instances *'
}

@test "a machine that the state file names and EC2 lists late is ended: by its tags, or because EC2 does not show it at all" {
  local answer
  local -a answers=(--out "$(instances_json '{"InstanceId":"i-0abc","State":{"Name":"pending"},"Tags":[{"Key":"Project","Value":"Chronos-Training"},
    {"Key":"Environment","Value":"dev"}]}')" --error InvalidInstanceID.NotFound)
  for answer in 0 2; do
    plan_checks
    aws_plan 'ec2 describe-instances --filters *' --times 2 --out "$(instances_json)"
    aws_plan 'ec2 describe-instances --instance-ids i-0abc --output json' "${answers[@]:answer:2}"
    plan_terminate
    put_run_record "$RUN"
    put_state training step_7
    kill_run --yes --now
    assert_success
  done
  assert_called 2 ec2 terminate-instances --instance-ids i-0abc --output json
}

@test "a machine that the state file names is left alone where EC2 cannot say whose it is" {
  plan_checks
  aws_plan 'ec2 describe-instances --filters *' --times 2 --out "$(instances_json)"
  aws_plan 'ec2 describe-instances --instance-ids i-0abc --output json' --error UnauthorizedOperation
  put_state training step_7
  kill_run --yes --now
  assert_success
  refute_called 'ec2 terminate-instances *'
}

@test "what a state file says steers no terminal and makes no line of its own" {
  plan_checks
  plan_instance_seen 1
  put_state training 'step_7\u001b[2J\u0007\r\nERROR made up'
  kill_run --dry-run
  assert_success
  assert_equal "$(tr -dc '[:cntrl:]' <<<"$stderr" | tr -d '\n' | wc -c)" 0
  assert_regex "$stderr" 'at step_7 \[2J   ERROR made up'
  assert_equal "$(grep -c '^ERROR' <<<"$stderr" || true)" 0
}

@test "what a state file puts in place of an instance's id is never an argument: the file is corrupt" {
  local id
  for id in --endpoint-url=http://203.0.113.7 'file:///etc/hostname' 'i-0abc --dry-run' $'i-0abc\\nout'; do
    plan_checks
    aws_plan 'ec2 describe-instances --filters *' --times 2 --out "$(instances_json)"
    put_state training step_7 "$RUN" "$id"
    kill_run --yes --now
    assert_success
    assert_regex "$stderr" 'instance_id is .*, expected i-'
  done
  refute_called 'ec2 * --instance-ids *'
}

@test "a killed run keeps the milestones that its machine has told, another that is ended with it has none of them" {
  plan_checks
  aws_plan 'ec2 describe-instances *' --times 2 --out "$(instances_json "$(instance_json i-0abc running "$RUN")" "$(instance_json i-0def running "$OTHER")")"
  aws_plan 'ec2 describe-instances *' --times any --out "$(instances_json)"
  aws_plan 'ec2 terminate-instances *' --times 2 --out '{}'
  put_object a-bucket dev/system-state.json "$(state_body training step_7 | jq -c '.control.timeline = {first_step: "2025-01-15T14:35:00.000Z"}')"
  put_run_record "$OTHER"
  kill_run --yes --now
  assert_success
  assert_json "$(run_record_now)" .timeline.first_step 2025-01-15T14:35:00.000Z
  assert_json "$(run_record_now "$OTHER")" '"\(.outcome) \(.timeline)"' 'killed null'
}

@test "the outside switch of an ended run is deleted, once its instance is gone; of one that lives it is not" {
  group=ChronosTraining
  plan_checks
  plan_instance_seen 1
  put_state training step_7
  aws_plan 'ec2 terminate-instances *' --error UnauthorizedOperation --times any
  # shellcheck disable=SC2016  # expanded when the call is made
  aws_plan "scheduler delete-schedule --name chronos-dev-$RUN --group-name ChronosTraining" \
    --before '[[ $(<"$FAKE_AWS_DIR/effects") == *"delete-object dev/system-state.json"* ]] || printf "too early\n" >>"$FAKE_AWS_DIR/effects"'
  kill_run --yes --now
  assert_success
  run -1 grep 'too early' "$FAKE_AWS_DIR/effects"
  rm "$FAKE_AWS_DIR"/plan/*
  plan_checks
  plan_instance_seen any
  aws_plan 'ec2 terminate-instances *' --error UnauthorizedOperation --times any
  put_state training step_7
  kill_run --yes --now
  assert_failure 1
  assert_equal "$(count_calls 'scheduler *')" 1
}

@test "before and after training the way leads through failed, with a message that says who did it" {
  local status
  for status in initialization data_sync results_sync; do
    plan_checks
    plan_no_instance
    put_state "$status" a_step
    rm -f "$FAKE_AWS_DIR/published"
    kill_run --yes
    assert_success
    assert_equal "$(published '"\(.status) \(.current_step) \(.error_message)"')" \
      $'failed a_step killed by operator\ncleanup cleanup killed by operator'
    assert_equal "$(state_now)" ''
  done
}

@test "a run that is ending already is not asked again" {
  plan_checks
  plan_instance_seen 1
  put_state failed training
  kill_run --yes
  assert_success
  assert_regex "$stderr" 'ending by itself already \(failed\)'
  assert_equal "$(published)" 'cleanup cleanup'
}

@test "a run that ends by itself meanwhile is not an error, and its own record stands" {
  plan_checks
  put_state cleanup cleanup
  put_object a-bucket "dev/$RUN/run.json" '{"ended_at":"2025-01-15T15:00:00Z","outcome":"succeeded"}'
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc running "$RUN")")" \
    --before "rm '$(object a-bucket dev/system-state.json)'"
  plan_no_instance
  kill_run --yes
  assert_success
  assert_effects
  assert_json "$(run_record_now)" .outcome succeeded
}

@test "a run that begins meanwhile is left alone: its instance, its state file, its record" {
  plan_checks
  put_state training step_7
  put_run_record "$OTHER"
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc running "$RUN")")"
  aws_plan 'ec2 describe-instances *' --times any --out "$(instances_json "$(instance_json i-0other running "$OTHER")")" \
    --before "printf '%s' '$(state_body initialization launch "$OTHER" null)' >'$(object a-bucket dev/system-state.json)'"
  kill_run --yes --json
  assert_success
  assert_output "{\"environment\":\"dev\",\"run_ids\":[\"$RUN\"],\"instance_ids\":[\"i-0abc\"]}"
  refute_called 'ec2 terminate-instances *'
  assert_json "$(state_now)" '"\(.run_id) \(.status)"' "$OTHER initialization"
  assert_json "$(run_record_now "$OTHER")" '.outcome | tojson' null
}

@test "a run that cannot be marked killed is terminated all the same" {
  plan_checks
  plan_instance_seen 5
  plan_terminate
  put_state training step_7
  aws_plan 's3api put-object * --key dev/system-state.json.tmp-*' --error AccessDenied
  kill_run --yes
  assert_success
  assert_regex "$stderr" 'could not be asked'
  assert_effects terminate-instances "$RECORD" "$FREE"
}

# -- no state file, or a corrupt one -----------------------------------------------------------------------------------

@test "without a state file the instances are found by their tags and terminated" {
  plan_checks
  plan_instance_seen 2
  plan_terminate
  kill_run --yes
  assert_success
  assert_called 1 ec2 terminate-instances --instance-ids i-0abc --output json
  assert_effects terminate-instances "$RECORD"
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step)"' 'killed null'
}

@test "a corrupt state file is deleted, as it was seen, when its instance is gone" {
  local etag
  put_object a-bucket dev/system-state.json '{"run_id":'
  etag="\"$(md5sum "$(object a-bucket dev/system-state.json)" | cut -c1-32)\""
  plan_checks
  plan_instance_seen 2
  plan_terminate
  kill_run --yes
  assert_success
  assert_regex "$stderr" 'corrupt; it will be deleted'
  assert_called 1 s3api delete-object --bucket a-bucket --key dev/system-state.json --if-match "$etag"
  assert_effects terminate-instances "$RECORD" "$FREE"
}

@test "a state file that replaced the corrupt one meanwhile is left alone" {
  put_object a-bucket dev/system-state.json '{"run_id":'
  plan_checks
  aws_plan 'ec2 describe-instances *' --times any --out "$(instances_json)" \
    --before "printf '%s' '$(state_body initialization launch "$OTHER" null)' >'$(object a-bucket dev/system-state.json)'"
  kill_run --yes
  assert_success
  assert_regex "$stderr" 'another one now'
  assert_json "$(state_now)" .run_id "$OTHER"
}

@test "nothing to end is exit code 0" {
  plan_checks
  plan_no_instance
  kill_run
  assert_success
  assert_regex "$stderr" 'nothing runs in dev'
  assert_effects
  assert_json "$(run_record_now)" '.outcome | tojson' null
}

@test "what the ended run's writers staged and never published is dropped; another run's is left" {
  plan_checks
  plan_no_instance
  put_state training step_7
  put_object a-bucket dev/system-state.json.tmp-0123 "$(state_body training step_6)"
  put_object a-bucket dev/system-state.json.tmp-4567 "$(state_body initialization launch "$OTHER")"
  put_object a-bucket dev/system-state.json.tmp-89ab 'half a bo'
  kill_run --yes --now
  assert_success
  assert [ ! -e "$(object a-bucket dev/system-state.json.tmp-0123)" ]
  assert [ -e "$(object a-bucket dev/system-state.json.tmp-4567)" ]
  assert [ -e "$(object a-bucket dev/system-state.json.tmp-89ab)" ]
}

# -- asking, refusing, failing ---------------------------------------------------------------------------------------------

@test "with nobody to ask and no --yes it is exit code 2, and nothing is ended" {
  plan_checks
  plan_instance_seen 1
  put_state training step_7
  kill_run
  assert_failure 2
  assert_regex "$stderr" 'give --yes'
  assert_effects
}

@test "an answer other than y ends nothing" {
  plan_checks
  plan_instance_seen 1
  put_state training step_7
  run -0 script --quiet --return --command "bash '$project/shell/kill_training.sh' --env dev" /dev/null <<<'n'
  assert_output --partial 'nothing was ended'
  assert_effects
}

@test "the answer y ends the run" {
  plan_checks
  plan_no_instance
  put_state training step_7
  run -0 script --quiet --return --command "bash '$project/shell/kill_training.sh' --env dev" /dev/null <<<'y'
  assert_equal "$(state_now)" ''
}

@test "--dry-run says what would be ended and changes nothing" {
  plan_checks
  plan_instance_seen 1
  put_state training step_7
  kill_run --dry-run
  assert_success
  assert_regex "$stderr" "run $RUN holds dev: training at step_7"
  assert_regex "$stderr" 'instances tagged .*: i-0abc'
  assert_effects
}

@test "an instance that EC2 refuses to terminate is exit code 1, and the environment stays held" {
  plan_checks
  aws_plan 'ec2 describe-instances *' --times any --out "$(instances_json "$(instance_json i-0abc running "$RUN")")"
  aws_plan 'ec2 terminate-instances *' --error UnauthorizedOperation --times 5
  put_state training step_7
  kill_run --yes --now
  assert_failure 1
  assert_regex "$stderr" 'terminate-instances: .*UnauthorizedOperation'
  assert_regex "$stderr" 'still there: i-0abc'
  assert_effects
  assert_json "$(state_now)" .status training
}

@test "an instance that EC2 refuses to terminate does not save another" {
  plan_checks
  aws_plan 'ec2 describe-instances *' --times any \
    --out "$(instances_json "$(instance_json i-0abc running "$RUN"),$(instance_json i-0def running "$RUN")")"
  aws_plan 'ec2 terminate-instances --instance-ids i-0abc *' --error OperationNotPermitted --times 5
  aws_plan 'ec2 terminate-instances --instance-ids i-0def *' --out '{}' --times 5
  put_state training step_7
  kill_run --yes --now
  assert_failure 1
  assert_regex "$stderr" 'terminate-instances: .*OperationNotPermitted'
  assert_called 5 ec2 terminate-instances --instance-ids i-0def --output json
}

@test "an instance that outlives its termination is exit code 1, after five tries of a minute" {
  plan_checks
  aws_plan 'ec2 describe-instances *' --times any --out "$(instances_json "$(instance_json i-0abc running "$RUN")")"
  aws_plan 'ec2 terminate-instances *' --out '{}' --times 5
  put_state training step_7
  # A wait of a second counts as thirty here.
  sed 's/SECONDS + /SECONDS + 29 + /' "$helpers/fake_sleep.bash" >"$work/fast_sleep.bash"
  BASH_ENV="$work/fast_sleep.bash" kill_run --yes --now
  assert_failure 1
  assert_regex "$stderr" 'still there: i-0abc'
}

@test "a termination that is throttled is tried again" {
  plan_checks
  plan_instance_seen 2
  aws_plan 'ec2 terminate-instances *' --error RequestLimitExceeded --times 2
  plan_terminate
  kill_run --yes
  assert_success
}

@test "EC2 that cannot be asked ends nothing: exit code 1" {
  plan_checks
  aws_plan 'ec2 describe-instances *' --error UnauthorizedOperation
  put_state training step_7
  kill_run --yes
  assert_failure 1
  assert_regex "$stderr" 'looking for instances of dev'
  assert_effects
}

@test "with a state file that S3 refuses to show, machines are found by their tags and ended all the same: exit code 15" {
  group=ChronosTraining
  plan_checks
  plan_instance_seen 2
  plan_terminate
  aws_plan "scheduler delete-schedule --name chronos-dev-$RUN --group-name $group" --out '{}'
  put_state training step_7
  aws_plan 's3api get-object *' --error AccessDenied
  kill_run --yes --json
  assert_failure 15
  assert_output "{\"environment\":\"dev\",\"run_ids\":[\"$RUN\"],\"instance_ids\":[\"i-0abc\"]}"
  assert_called 1 ec2 terminate-instances --instance-ids i-0abc --output json
  assert_effects terminate-instances
  assert_regex "$stderr" 'cannot be read: no machine can be asked to save'
  assert_regex "$stderr" "As they are stay s3://a-bucket/dev/system-state.json.* and run.json of $RUN.*invoke kill --env dev frees"
  refute_regex "$stderr" 'dev is free'
}

@test "with S3 down and no machine it says what stays: exit code 1" {
  plan_checks
  aws_plan 'ec2 describe-instances *' --out "$(instances_json)"
  aws_plan 's3api get-object *' --error SlowDown --times 6
  kill_run --yes
  assert_failure 1
  assert_effects
  assert_regex "$stderr" 'no instance of dev runs any more'
}

@test "with S3 denied it asks before it ends what it found, and --dry-run ends nothing" {
  plan_checks
  plan_instance_seen 1
  aws_plan 's3api get-object *' --error AccessDenied --times 2
  kill_run
  assert_failure 2
  plan_checks
  kill_run --dry-run
  assert_failure 15
  assert_effects
}

@test "a state file that S3 refuses to delete is exit code 15, with a message" {
  plan_checks
  plan_no_instance
  put_object a-bucket dev/system-state.json 'corrupt'
  aws_plan 's3api delete-object * --if-match *' --error AccessDenied
  kill_run --yes
  assert_failure 15
  assert_regex "$stderr" 'deleting s3://a-bucket/dev/system-state.json'
}
