#!/usr/bin/env bats
# shell/launch_training.sh: checks, the claim, the one instance, and what is given back when that fails.
# shellcheck disable=SC2154,SC2030,SC2031  # variables of the helpers; each test is a process of its own
bats_require_minimum_version 1.5.0
load helpers/common

readonly OLD=2025-01-15-143022
readonly PARAMETER=/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id

# What `invoke upload` says of this checkout's scripts; the programs and the drawing library come from elsewhere.
setup_file() {
  "${BATS_CHRONOS_PYTHON:-$repository/.venv/bin/python}" - >"$BATS_FILE_TMPDIR/MANIFEST.sha256" <<'PYTHON'
import hashlib
from chronos_ec2.workstation.script_files import instance_scripts
from chronos_ec2.workstation.settings import REPOSITORY
for name, path in sorted(instance_scripts(REPOSITORY).items()):
    print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}")
print(f"{'0' * 64}  bin/jq", f"{'0' * 64}  report/uPlot.min.css", sep="\n")
PYTHON
}

setup() {
  common_setup
  seed_prices
  fake_sleep
  use_fake_s3 a-bucket
}

teardown() { common_teardown; }

launch() { run --separate-stderr bash "$project/shell/launch_training.sh" "$@"; }

# -- what a launch asks, step by step ---------------------------------------------------------------------

plan_cli() { aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":""}'; }

plan_credentials() { aws_plan 'sts get-caller-identity *' --out '{"Arn":"arn:aws:iam::123456789012:user/ada"}'; }

# What the stack exports for outside switches; nothing when `bare` is set.
switch_exports() {
  if [[ -n ${bare:-} ]]; then return 0; fi
  printf ',{"Name":"ChronosTraining-ScheduleGroupName","Value":"ChronosTraining"}'
  printf ',{"Name":"ChronosTraining-SchedulerRoleArn","Value":"arn:aws:iam::123456789012:role/Switch"}'
}

plan_exports() {
  if [[ -n ${topic:-} ]]; then
    aws_plan "sns list-subscriptions-by-topic --topic-arn $topic --output json" --out '{"Subscriptions": [{}]}'
  fi
  aws_plan 'cloudformation list-exports *' --out '{"Exports":[{"Name":"ChronosTraining-BucketName","Value":"a-bucket"},
    {"Name":"ChronosTraining-SubnetIds","Value":"subnet-1,subnet-2"},{"Name":"ChronosTraining-SecurityGroupId","Value":"sg-1"},
    {"Name":"ChronosTraining-InstanceProfileName","Value":"ChronosTrainingInstanceProfile"}'"$(switch_exports)${topic:+,
    {\"Name\":\"ChronosTraining-TopicArn\",\"Value\":\"$topic\"\}}]}"
}

plan_ami() {
  aws_plan "ssm get-parameter --name $PARAMETER *" --out '{"Parameter":{"Value":"ami-0ssm"}}'
  plan_image ami-0ssm
}

plan_image() {
  aws_plan "ec2 describe-images --image-ids $1 *" \
    --out "{\"Images\":[{\"ImageId\":\"$1\",\"Name\":\"An AMI\",\"RootDeviceName\":\"/dev/sda1\"}]}"
}

plan_subnets() {
  aws_plan 'ec2 describe-subnets --subnet-ids subnet-1 subnet-2 *' \
    --out '{"Subnets":[{"SubnetId":"subnet-2","AvailabilityZone":"us-east-1b"},{"SubnetId":"subnet-1","AvailabilityZone":"us-east-1a"}]}'
}

# EC2 says that the new instance has started.
plan_start() { aws_plan 'ec2 describe-instances --instance-ids i-0new *' --out "$(instances_json "$(instance_json i-0new running x)")"; }

upload_everything() {
  put_object a-bucket cached-datasets/scripts/MANIFEST.sha256 "$(<"$BATS_FILE_TMPDIR/MANIFEST.sha256")"
  put_object a-bucket cached-datasets/python-env/MANIFEST.json '{"archive":"chronos-venv-3.11.tar.gz","sha256":"abc123","pieces_sha256":"def456"}'
  put_object a-bucket cached-datasets/training-data/MANIFEST.json '{"files":[{"name":"a.parquet"}],"rows":26115,"series":6}'
}

plan_checks() {
  plan_cli
  plan_credentials
  plan_exports
  plan_ami
  plan_subnets
  upload_everything
}

# One instance, and its outside switch. [options of the answer to run-instances]
plan_instance() {
  aws_plan 'ec2 run-instances *' --out '{"Instances":[{"InstanceId":"i-0new"}]}' "$@"
  aws_plan 'scheduler create-schedule *' --times any
  plan_start
}

# Sets `ours` to the run id that the script chose.
learn_run_id() { ours=$(grep -oE -m 1 'dev/20[0-9]{2}(-[0-9]{2}){2}-[0-9]{6}/' "$FAKE_AWS_DIR/calls" | cut -d/ -f2); }

readonly RESERVE=('put-object logs/RUN/phase_logs.json if-none-match=*' 'put-object dev/RUN/run.json if-none-match=*')
readonly WITHDRAW=('delete-object dev/RUN/run.json' 'delete-object logs/RUN/phase_logs.json')
readonly CLAIM=('put-object dev/system-state.json.tmp-N' 'copy-object dev/system-state.json if-none-match=*'
  'delete-object dev/system-state.json.tmp-N')
readonly UPDATE=('put-object dev/system-state.json.tmp-N' 'copy-object dev/system-state.json if-match'
  'delete-object dev/system-state.json.tmp-N')
readonly RUN_FILES=('put-object dev/RUN/config.yaml')
# How a claim is given back: the record's end, failed, cleanup, gone.
readonly GIVE_BACK=('put-object dev/RUN/run.json if-match' "${UPDATE[@]}" "${UPDATE[@]}" 'delete-object dev/system-state.json if-match')

# -- usage ----------------------------------------------------------------------------------------------------

@test "--help prints the script's header and asks nothing" {
  launch --help
  assert_success
  assert_line --index 0 --partial 'Launches one training run'
  assert_output --partial 'Exit codes: 0 launched;'
  refute_called '*'
}

@test "an unknown argument is exit code 2" {
  launch --env dev --instance-type g5.xlarge
  assert_failure 2
  assert_output ''
  assert_regex "$stderr" "unknown argument '--instance-type'"
  refute_called '*'
}

@test "a flag without its value, or with an empty one, is exit code 2" {
  launch --env
  assert_failure 2
  assert_regex "$stderr" '--env takes a value'
  launch --dry-run --set
  assert_failure 2
  launch --env ''
  assert_failure 2
  refute_called '*'
}

@test "an environment that is no name is exit code 26; no call is made and nothing of it is executed" {
  touch "$HOME/canary"
  launch --env 'x;rm -rf ~'
  assert_failure 26
  assert_output ''
  assert_regex "$stderr" 'is not a name'
  # shellcheck disable=SC2016  # nothing may expand
  launch --env '$(touch canary)'
  assert_failure 26
  assert [ -e "$HOME/canary" ]
  assert [ ! -e canary ]
  refute_called '*'
}

@test "a bad setting is exit code 26 before any call" {
  # shellcheck disable=SC2016  # nothing may expand
  launch --env dev --set 'ami_id=ami-1$(touch canary)'
  assert_failure 26
  assert_regex "$stderr" 'ami_id'
  launch --env dev --set instance_typo=g5.xlarge
  assert_failure 26
  assert_regex "$stderr" "did you mean 'instance_type'"
  assert [ ! -e canary ]
  refute_called '*'
}

@test "the embedded AWS that is not started is exit code 29" {
  launch --env local
  assert_failure 29
  assert_regex "$stderr" 'invoke local.start'
  refute_called '*'
}

# -- checks ---------------------------------------------------------------------------------------------------

@test "a laptop without the AWS CLI is exit code 24" {
  PATH=$(toolbox) launch --env dev
  assert_failure 24
  assert_regex "$stderr" 'not installed: aws'
}

@test "a CLI without conditional copies is exit code 23, whatever else is wrong" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"Bucket":""}'
  aws_plan '--version' --out 'aws-cli/1.29.0'
  aws_plan '* --output json*' --stderr 'Unable to locate credentials' --exit 253 --times any
  launch --env dev
  assert_failure 23
  assert_regex "$stderr" '^[^ ]+ ERROR this AWS CLI does not know conditional CopyObject'
}

@test "no credentials are exit code 10, with the way out" {
  plan_cli
  aws_plan '* --output json*' --stderr 'Unable to locate credentials' --exit 253 --times any
  launch --env dev
  assert_failure 10
  assert_output ''
  assert_regex "$stderr" 'aws configure.*Unable to locate credentials'
  assert_no_temporary_files
}

@test "a stack that is not deployed is exit code 11" {
  plan_cli
  plan_credentials
  plan_ami
  aws_plan 'cloudformation list-exports *' --out '{"Exports":[]}'
  launch --env dev
  assert_failure 11
  assert_regex "$stderr" 'run invoke deploy'
}

@test "what is not uploaded yet is exit code 18, and the message says which command uploads it" {
  local missing command
  while IFS='|' read -r missing command; do
    plan_checks
    rm "$(object a-bucket "cached-datasets/$missing")"
    launch --env dev
    assert_failure 18
    assert_regex "$stderr" "$missing is not there yet: run $command"
  done <<'TABLE'
scripts/MANIFEST.sha256|invoke upload --env dev
python-env/MANIFEST.json|invoke build-env --env dev, then invoke upload --env dev
training-data/MANIFEST.json|invoke upload --env dev --data DIR
TABLE
  assert_effects
}

@test "scripts of another checkout in the bucket are exit code 18, with their names; nothing is claimed" {
  local change names
  while IFS='|' read -r change names; do
    plan_checks
    sed -E "$change" "$BATS_FILE_TMPDIR/MANIFEST.sha256" >"$(object a-bucket cached-datasets/scripts/MANIFEST.sha256)"
    launch --env dev
    assert_failure 18
    assert_regex "$stderr" "s3://a-bucket/cached-datasets/scripts/ are not those of this checkout \($names\): run invoke upload --env dev"
  done <<'TABLE'
s/^.(.* bootstrap\.sh)$/x\1/|bootstrap\.sh
/ lib\/l[oa][gd]/d|lib/ladder\.sh, lib/log\.sh
1s/^/0000  lib\/of_tomorrow.sh\n/|lib/of_tomorrow\.sh
s/^.(.* lib\/)/x\1/|lib/[a-z_]+\.sh, lib/[a-z_]+\.sh, lib/[a-z_]+\.sh and [0-9]+ more
TABLE
  assert_effects
}

# A snippet for --before: goes on once another call has been made. <a part of that call>
until_asked() {
  # shellcheck disable=SC2016  # the fake expands it
  printf 'for _ in {1..1200}; do if grep -qF -- %q "$FAKE_AWS_DIR/calls.plain"; then break; fi; command sleep 0.05; done
    if ! grep -qF -- %q "$FAKE_AWS_DIR/calls.plain"; then echo "An error occurred (NobodyAsked)" >&2; exit 254; fi' "$1" "$1"
}

@test "what does not depend on each other is asked side by side; who holds a free environment is asked once" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":""}' \
    --before "$(until_asked 'sts get-caller-identity')"
  plan_credentials
  plan_exports
  plan_ami
  plan_subnets
  upload_everything
  aws_plan 's3api get-object * --key cached-datasets/training-data/MANIFEST.json *' --pass \
    --before "$(until_asked 'dev/system-state.json')"
  aws_plan 's3api get-object * --key dev/system-state.json *' --pass \
    --before "$(until_asked 'training-data/MANIFEST.json')"
  launch --env dev --dry-run
  assert_success
  assert_equal "$(count_calls 's3api get-object * --key dev/system-state.json *')" 1
}

@test "what is missing is said before who holds the environment" {
  plan_checks
  put_state training step_7
  rm "$(object a-bucket cached-datasets/training-data/MANIFEST.json)"
  launch --env dev
  assert_failure 18
  refute_called 'ec2 describe-instances *'
}

@test "a bucket that refuses is exit code 15" {
  plan_checks
  aws_plan 's3api get-object *' --error AccessDenied --times any
  launch --env dev
  assert_failure 15
  assert_effects
}

@test "without the SSM parameter the newest AMI of that name is taken, by its creation date" {
  plan_cli
  plan_credentials
  plan_exports
  plan_subnets
  upload_everything
  aws_plan 'ssm get-parameter *' --error ParameterNotFound
  aws_plan 'ec2 describe-images --owners amazon *' --out '{"Images":[{"ImageId":"ami-0may","CreationDate":"2025-05-01T00:00:00.000Z"},
    {"ImageId":"ami-0nov","CreationDate":"2025-11-01T00:00:00.000Z"},{"ImageId":"ami-0jan","CreationDate":"2025-01-01T00:00:00.000Z"}]}'
  plan_image ami-0nov
  launch --env dev --dry-run
  assert_success
  assert_output --partial '--image-id ami-0nov '
  assert_called 1 ec2 describe-images --owners amazon --output json --filters \
    'Name=name,Values=Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) *' \
    Name=state,Values=available Name=architecture,Values=x86_64
}

@test "no AMI anywhere is exit code 16, naming what was looked for" {
  plan_cli
  plan_credentials
  plan_exports
  aws_plan 'ssm get-parameter *' --error ParameterNotFound
  aws_plan 'ec2 describe-images --owners amazon *' --out '{"Images":[]}'
  launch --env dev
  assert_failure 16
  assert_regex "$stderr" "no AMI found: neither SSM parameter $PARAMETER"
}

@test "an AMI of the settings is taken as it is; one that EC2 does not show is exit code 16" {
  plan_cli
  plan_credentials
  plan_exports
  aws_plan 'ec2 describe-images --image-ids ami-0abc *' --out '{"Images":[]}'
  launch --env dev --set ami_id=ami-0abc
  assert_failure 16
  assert_regex "$stderr" 'AMI ami-0abc cannot be used in us-east-1'
  refute_called 'ssm *'
}

# -- the launch -------------------------------------------------------------------------------------------------

@test "launches: claims, writes the run's files, runs one instance, records it, and says what to do next" {
  local line argv token kind comma='' request
  plan_checks
  # shellcheck disable=SC2016  # the fake expands it
  plan_instance --before 'for word; do if [[ $word == file://* ]]; then cp "${word#file://}" "$FAKE_AWS_DIR/user_data"; fi; done'
  TZ=Asia/Tokyo launch --env dev
  assert_success
  assert_output ''
  learn_run_id
  assert_regex "$stderr" "run $ours: instance i-0new \(g4dn.2xlarge us-east-1a on-demand\) is starting"
  assert_regex "$ours" "^$(date -u +%Y-%m-%d)"
  assert_effects "${RESERVE[@]}" "${CLAIM[@]}" "${RUN_FILES[@]}" run-instances "${UPDATE[@]}" 'put-object dev/RUN/run.json if-match'
  assert_json "$(state_now)" '"\(.run_id) \(.status) \(.current_step) \(.instance_id) \(.control.revision)"' \
    "$ours initialization launch i-0new 2"
  assert_json "$(run_record_now "$ours")" '"\(.outcome) \(.instance.id) \(.instance.type) \(.ami.id) \(.requested_by) \(.dataset.rows)"' \
    'null i-0new g4dn.2xlarge ami-0ssm arn:aws:iam::123456789012:user/ada 26115'
  assert_json "$(run_record_now "$ours")" '"\(.scripts_sha256) \(.environment_archive.key)"' \
    "$(sha256sum "$(object a-bucket cached-datasets/scripts/MANIFEST.sha256)" | cut -d' ' -f1) cached-datasets/python-env/chronos-venv-3.11.tar.gz"
  request=$(sed -n 's/^scheduler create-schedule --cli-input-json \(.*\) --client-token .*/\1/p' "$FAKE_AWS_DIR/calls.plain")
  assert_json "$request" '"\(.Name) \(.GroupName) \(.Target.RoleArn) \(.Target.Input)"' \
    "chronos-dev-$ours ChronosTraining arn:aws:iam::123456789012:role/Switch {\"InstanceIds\":[\"i-0new\"]}"
  assert_json "$request" '.ScheduleExpression | ltrimstr("at(") | rtrimstr(")") + "Z" | fromdateiso8601 - 300 | todateiso8601' \
    "$(run_record_now "$ours" | jq -r .deadline)"
  token=$(printf '%s' "$ours|g4dn.2xlarge|subnet-1|on-demand|1" | sha256sum | cut -c1-64)
  line=$(grep '^ec2 run-instances ' "$FAKE_AWS_DIR/calls")
  eval "argv=($line)"
  assert_equal "$(printf '%s\n' "${argv[@]}" | sed -E "s#$TMPDIR/tmp\.[^/]+#WORK#")" "ec2
run-instances
--output
json
--count
1
--image-id
ami-0ssm
--instance-type
g4dn.2xlarge
--network-interfaces
[{\"DeviceIndex\":0,\"SubnetId\":\"subnet-1\",\"Groups\":[\"sg-1\"],\"AssociatePublicIpAddress\":true,\"DeleteOnTermination\":true}]
--iam-instance-profile
Name=ChronosTrainingInstanceProfile
--user-data
file://WORK/user_data.sh
--client-token
$token
--instance-initiated-shutdown-behavior
terminate
--metadata-options
HttpTokens=required,HttpEndpoint=enabled,HttpPutResponseHopLimit=1,InstanceMetadataTags=enabled
--block-device-mappings
[{\"DeviceName\":\"/dev/sda1\",\"Ebs\":{\"VolumeSize\":100,\"VolumeType\":\"gp3\",\"Encrypted\":true,\"DeleteOnTermination\":true}}]
--tag-specifications
[$(for kind in instance volume network-interface; do
    printf '%s{"ResourceType":"%s","Tags":[{"Key":"Project","Value":"Chronos-Training"},{"Key":"Environment","Value":"dev"},{"Key":"RunId","Value":"%s"},{"Key":"Name","Value":"chronos-dev-%s"},{"Key":"Deadline","Value":"%s"}]}' \
      "$comma" "$kind" "$ours" "$ours" "$(jq -r .deadline "$(object a-bucket "dev/$ours/run.json")")"
    comma=,
  done)]"
  assert_regex "$(<"$FAKE_AWS_DIR/user_data")" "CHRONOS_RUN_ID=$ours CHRONOS_ENV=dev CHRONOS_BUCKET=a-bucket"
  assert_no_temporary_files
}

@test "--json prints one JSON object on stdout and nothing else" {
  plan_checks
  plan_instance
  launch --env dev --json
  assert_success
  learn_run_id
  assert_json "$output" 'del(.estimate) | tojson' \
    "{\"run_id\":\"$ours\",\"instance_id\":\"i-0new\",\"environment\":\"dev\",\"s3_prefix\":\"s3://a-bucket/dev/$ours/\"}"
  assert_json "$output" '.estimate | "\(.limit_hours + 0) h \(.source) \(.max_cost_usd)"' '6 h AWS Price List null'
}

@test "--max-cost sets the deadline; what the run may cost is said before anything is changed, and recorded" {
  plan_checks
  # shellcheck disable=SC2016  # the fake expands it
  plan_instance --before 'for word; do if [[ $word == file://* ]]; then cp "${word#file://}" "$FAKE_AWS_DIR/user_data"; fi; done'
  launch --env dev --max-cost 2
  assert_success
  learn_run_id
  assert_regex "$stderr" \
    'INFO  estimate: [$]0\.77 an hour on g4dn\.2xlarge .*, 2 h 30 min at most \(max_cost_usd is [$]2\.00\): [$]2\.00 .*prices: AWS Price List.*holds dev'
  assert_json "$(run_record_now "$ours")" '"\((.deadline | fromdate) - (.started_at | fromdate)) \(.estimate.max_cost_usd + 0)"' '9000 2'
  assert_json "$(run_record_now "$ours")" '.price | "\(.market) \(.compute_usd_per_hour) \(.disk_gb) \(.source)"' \
    'on-demand 0.752 100 AWS Price List'
  assert_json "$(run_record_now "$ours")" '.launched_at >= .started_at' true
  assert_regex "$(<"$FAKE_AWS_DIR/user_data")" 'CHRONOS_DEADLINE_MINUTES=150'
}

@test "a cap that reaches for no run is exit code 30, and nothing is changed" {
  plan_cli
  plan_credentials
  plan_exports
  plan_ami
  aws_plan 's3api *' --error AccessDenied --times any
  launch --env dev --max-cost 0.05
  assert_failure 30
  assert_output ''
  assert_regex "$stderr" 'max_cost_usd is [$]0\.05, but 15 min .* allow 0\.[0-9]+ or more'
  assert_effects
  refute_called 's3api put-object *'
}

@test "a setting of this run reaches the instance, the run's files and the volume" {
  bare=true
  plan_checks
  plan_instance
  launch --env dev --set instance_type=g5.xlarge --set volume_gb=200 --set max_steps=7 --set outside_switch=false
  assert_success
  learn_run_id
  assert_equal "$(count_calls 'ec2 run-instances * --instance-type g5.xlarge *"VolumeSize":200,*')" 1
  assert_json "$(run_record_now "$ours")" '"\(.instance.type) \(.config.training_config.max_steps)"' 'g5.xlarge 7'
  assert_regex "$(cat "$(object a-bucket "dev/$ours/config.yaml")")" 'max_steps: 7'
  refute_called 'scheduler *'
  assert_json "$(run_record_now "$ours")" .switches.outside null
}

@test "--dry-run prints the user data and every call that would change something, and changes nothing" {
  topic=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  plan_checks
  launch --env dev --dry-run
  assert_success
  assert_output --partial "CHRONOS_TOPIC_ARN=$topic "
  assert_output --partial 'CHRONOS_BUCKET=a-bucket'
  assert_output --regexp 'aws s3api copy-object .* --if-none-match'
  assert_output --regexp 'aws s3api put-object .*/run.json'
  assert_output --regexp 'aws ec2 run-instances .*HttpTokens=required'
  assert_regex "$stderr" 'estimate: [$]0\.77 an hour on g4dn\.2xlarge \(on-demand\), 6 h 00 min at most: [$]4\.'
  # The whole ladder, in its order.
  assert_equal "$(grep -o '^# pool [^*]*' <<<"$output")" "# pool 1/2 g4dn.2xlarge us-east-1a on-demand
# pool 2/2 g4dn.2xlarge us-east-1b on-demand"
  assert_effects
  refute_called 'ec2 run-instances *'
  refute_called 's3api put-object *'
  assert_no_temporary_files
}

@test "--spot asks for spot; --wait-for-capacity takes a time" {
  plan_checks
  launch --env dev --spot --wait-for-capacity 90s --dry-run
  assert_success
  assert_equal "$(grep -c '^aws ec2 run-instances .*--instance-market-options' <<<"$output")" 2
  launch --env dev --wait-for-capacity soon
  assert_failure 2
  assert_regex "$stderr" "--wait-for-capacity takes a time such as 2h, 30m or 90s, got 'soon'"
}

@test "run-instances is throttled, its answer is lost: the same call is made again, with the same token" {
  plan_checks
  aws_plan 'ec2 run-instances *' --error RequestLimitExceeded
  aws_plan 'ec2 run-instances *' --silence
  plan_instance
  launch --env dev --json
  assert_success
  run -0 sort -u <(grep '^ec2 run-instances' "$FAKE_AWS_DIR/calls")
  assert_equal "${#lines[@]}" 1
  assert_output --regexp '--client-token [0-9a-f]{64} '
}

@test "a claim that is killed during the launch: exit code 21, and the new instance is terminated" {
  plan_checks
  plan_instance --before "rm '$(object a-bucket dev/system-state.json)'"
  aws_plan 'scheduler delete-schedule *'
  aws_plan 'ec2 terminate-instances --instance-ids i-0new *' --out '{}'
  launch --env dev
  assert_failure 21
  assert_regex "$stderr" 'was ended while it was being launched; terminating i-0new'
}

# While EC2 answers, the machine ends its run: its record is complete, then the environment is free. <json: the end>
plan_instance_that_ends() {
  local body
  body="f=\$(echo '$(object a-bucket dev)'/*/run.json); jq -c '. + $1' \"\$f\" >'$work/ended'; mv '$work/ended' \"\$f\""
  plan_instance --before "$body; rm '$(object a-bucket dev/system-state.json)'"
}

@test "a run that has failed before its launch was through: exit code 20, and nobody is said to have killed it" {
  plan_checks
  plan_instance_that_ends '{"outcome": "failed", "exit_code": 1, "ended_at": "2025-01-15T14:30:22Z"}'
  launch --env dev
  assert_failure 20
  assert_regex "$stderr" 'has ended already: failed; look at it: invoke watch --env dev --run 20'
  refute_regex "$stderr" 'was ended while'
  refute_called 'ec2 terminate-instances *'
}

@test "a run that has succeeded before its launch was through is a launch that went well" {
  plan_checks
  plan_instance_that_ends '{"outcome": "succeeded", "exit_code": 0, "ended_at": "2025-01-15T14:30:22Z"}'
  launch --env dev --json
  assert_success
  assert_json "$output" .instance_id i-0new
  assert_regex "$stderr" 'has ended already: succeeded'
  refute_regex "$stderr" 'is starting'
}

@test "a run that another launch found lost, while this one was slow, is no longer waited for: exit code 22" {
  plan_checks
  plan_instance_that_ends '{"outcome": "lost", "exit_code": null, "ended_at": "2025-01-15T14:30:22Z"}'
  aws_plan 'scheduler delete-schedule *'
  aws_plan 'ec2 terminate-instances --instance-ids i-0new *' --out '{}'
  launch --env dev
  assert_failure 22
  assert_regex "$stderr" 'was ended while it was being launched \(lost\); terminating i-0new'
}

@test "a run.json that cannot take the instance's id is a warning: the launch stands" {
  plan_checks
  plan_instance
  aws_plan 's3api get-object * --key dev/20*/run.json *' --error AccessDenied
  launch --env dev
  assert_success
  assert_regex "$stderr" 'run.json does not name the instance yet'
  learn_run_id
  assert_json "$(state_now)" .instance_id i-0new
}

# -- held, stale, unreadable --------------------------------------------------------------------------------------

@test "refuses when a run holds the environment: exit code 12, the holder named, nothing changed" {
  plan_checks
  put_state training step_7 "$OLD"
  aws_plan 'ec2 describe-instances --instance-ids i-0abc *' --out "$(instances_json "$(instance_json i-0abc running "$OLD")")"
  launch --env dev
  assert_failure 12
  assert_output ''
  assert_regex "$stderr" "run $OLD holds dev: training at step_7.*instance i-0abc"
  refute_called 'ec2 run-instances *'
  assert_effects
}

@test "refuses when EC2 cannot be asked about the holder's instance: exit code 12" {
  plan_checks
  put_state training step_7 "$OLD"
  aws_plan 'ec2 describe-instances *' --error UnauthorizedOperation
  launch --env dev
  assert_failure 12
  refute_called 'ec2 run-instances *'
  assert_effects
}

@test "a stale claim is taken over, its end is told, and the launch goes on" {
  topic=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  plan_checks
  aws_plan "sns publish * $OLD: lost at training *" --out '{}'
  plan_instance
  put_object a-bucket dev/system-state.json \
    "$(state_body training step_7 "$OLD" | jq -c '.control.timeline = {first_step: "2025-01-15T14:35:00.000Z"}')"
  put_run_record "$OLD"
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound
  launch --env dev
  assert_success
  ours=$(state_now | jq -r .run_id)
  assert_effects "${RESERVE[@]}" "${UPDATE[@]}" "put-object dev/$OLD/run.json if-match" \
    "put-object dev/$OLD/notices/end.json if-none-match=*" "${RUN_FILES[@]}" run-instances \
    "${UPDATE[@]}" 'put-object dev/RUN/run.json if-match'
  assert_json "$(run_record_now "$OLD")" '"\(.outcome) \(.timeline.first_step)"' 'lost 2025-01-15T14:35:00.000Z'
}

@test "of two launches at once the slower is refused: exit code 12, and the other's claim stays" {
  plan_checks
  aws_plan 's3api copy-object *' --pass \
    --before "printf '%s' '$(state_body initialization launch 2025-01-21-000000 null)' >'$(object a-bucket dev/system-state.json)'"
  aws_plan 'ec2 describe-instances *' --out "$(instances_json "$(instance_json i-0abc pending 2025-01-21-000000)")"
  launch --env dev
  assert_failure 12
  assert_regex "$stderr" 'run 2025-01-21-000000 holds dev'
  refute_called 'ec2 run-instances *'
  assert_json "$(state_now)" '"\(.run_id) \(.status)"' '2025-01-21-000000 initialization'
  learn_run_id
  assert_effects "${RESERVE[@]}" 'put-object dev/system-state.json.tmp-N' 'delete-object dev/system-state.json.tmp-N' "${WITHDRAW[@]}"
}

@test "a stale claim that its own clean-up gives back meanwhile is no refusal: the environment is claimed as a free one" {
  plan_checks
  plan_instance
  put_state training step_7 "$OLD"
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound
  aws_plan 's3api copy-object *' --pass --before "rm '$(object a-bucket dev/system-state.json)'"
  launch --env dev
  assert_success
  learn_run_id
  assert_effects "${RESERVE[@]}" 'put-object dev/system-state.json.tmp-N' 'delete-object dev/system-state.json.tmp-N' \
    "${CLAIM[@]}" "${RUN_FILES[@]}" run-instances "${UPDATE[@]}" 'put-object dev/RUN/run.json if-match'
}

@test "an environment that changes hands at every try is left alone: exit code 12" {
  plan_checks
  put_state training step_7 "$OLD"
  aws_plan 'ec2 describe-instances *' --error InvalidInstanceID.NotFound --times 4
  aws_plan 's3api copy-object *' --error PreconditionFailed --times 3
  launch --env dev
  assert_failure 12
  assert_regex "$stderr" 'changed hands 3 times'
  refute_called 'ec2 run-instances *'
  assert_json "$(state_now)" .run_id "$OLD"
}

@test "a second of another environment's launch is not shared: the run gets an id of its own" {
  plan_checks
  plan_instance
  aws_plan 's3api put-object * --key logs/20* *' --error PreconditionFailed
  aws_plan 's3api get-object * --key logs/20* *' --error NoSuchKey
  launch --env dev
  assert_success
  learn_run_id
  assert_equal "$(count_calls 's3api put-object * --key logs/20*/phase_logs.json *')" 2
  assert_json "$(state_now)" .run_id "$ours"
}

@test "a corrupt state file is exit code 14; it stays, and the way out is named" {
  plan_checks
  put_object a-bucket dev/system-state.json '{"run_id":'
  launch --env dev
  assert_failure 14
  assert_regex "$stderr" 'invoke kill --env dev'
  assert_equal "$(state_now)" '{"run_id":'
  assert_effects
}

@test "a state file that may not be written is exit code 15" {
  plan_checks
  aws_plan 's3api put-object * --key dev/system-state.json.tmp-*' --error AccessDenied
  launch --env dev
  assert_failure 15
  learn_run_id
  assert_effects "${RESERVE[@]}" "${WITHDRAW[@]}"
}

# -- failure after the claim ------------------------------------------------------------------------------------------

@test "EC2 refuses the instance: exit code 17, the claim is given back, run.json and a notice say why" {
  topic=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  plan_checks
  aws_plan 'sns publish * the launch failed *InsufficientInstanceCapacity*' --out '{}'
  aws_plan 'ec2 run-instances *' --error InsufficientInstanceCapacity --times 2
  launch --env dev --json
  assert_failure 17
  assert_output ''
  learn_run_id
  assert_effects "${RESERVE[@]}" "${CLAIM[@]}" "${RUN_FILES[@]}" "${GIVE_BACK[@]}" \
    'put-object dev/RUN/notices/end.json if-none-match=*'
  assert_equal "$(state_now)" ''
  assert_json "$(run_record_now "$ours")" '"\(.outcome) \(.failed_step) \(.exit_code)"' 'launch_failed launch 17'
  assert_regex "$(run_record_now "$ours" | jq -r .error)" '^no pool has capacity .*InsufficientInstanceCapacity'
  assert_json "$(run_record_now "$ours")" '[.attempts[] | "\(.zone) \(.market)"] | join("; ")' 'us-east-1a on-demand; us-east-1b on-demand'
  assert_no_temporary_files
}

@test "an instance that EC2 does not know yet is terminated when it does" {
  plan_checks
  aws_plan 'ec2 run-instances *' --out '{"Instances":[{"InstanceId":"i-0new"}]}'
  aws_plan 'scheduler create-schedule *' --error AccessDeniedException
  aws_plan 'ec2 terminate-instances --instance-ids i-0new *' --error InvalidInstanceID.NotFound --times 2
  aws_plan 'ec2 terminate-instances --instance-ids i-0new *' --out '{}'
  aws_plan 'scheduler delete-schedule *' --error ResourceNotFoundException
  launch --env dev
  assert_failure 17
  learn_run_id
  assert_called 3 ec2 terminate-instances --instance-ids i-0new --output json
  assert_regex "$(run_record_now "$ours" | jq -r .error)" 'the instance was terminated$'
}

@test "an instance that cannot have its outside switch is terminated: exit code 17, the claim is given back, run.json says why" {
  plan_checks
  aws_plan 'ec2 run-instances *' --out '{"Instances":[{"InstanceId":"i-0new"}]}'
  aws_plan 'scheduler create-schedule *' --error AccessDeniedException
  aws_plan 'ec2 terminate-instances --instance-ids i-0new *' --out '{}'
  aws_plan 'scheduler delete-schedule *' --error ResourceNotFoundException
  launch --env dev
  assert_failure 17
  assert_regex "$stderr" 'you need scheduler:CreateSchedule, .*, and iam:PassRole on .*; or go without it: --set outside_switch=false'
  learn_run_id
  assert_effects "${RESERVE[@]}" "${CLAIM[@]}" "${RUN_FILES[@]}" run-instances terminate-instances "${GIVE_BACK[@]}"
  assert_equal "$(state_now)" ''
  assert_json "$(run_record_now "$ours")" '"\(.outcome) \(.exit_code) \(.error)"' \
    'launch_failed 17 the outside switch cannot be armed:  An error occurred (AccessDeniedException) when calling the operation: the fake says so; the instance was terminated'
}

@test "a stack without a group for outside switches is exit code 11, before anything is claimed" {
  bare=true
  plan_cli
  plan_credentials
  plan_exports
  plan_ami
  launch --env dev
  assert_failure 11
  assert_regex "$stderr" 'run invoke deploy --env dev again, or go without it: --set outside_switch=false'
  assert_effects
}

@test "a run's file that may not be written: exit code 15, no instance, the claim is given back" {
  plan_checks
  aws_plan 's3api put-object * --key dev/20*/config.yaml *' --error AccessDenied
  launch --env dev
  assert_failure 15
  refute_called 'ec2 run-instances *'
  assert_equal "$(state_now)" ''
}

# shellcheck disable=SC2016  # the fake expands it
readonly TERM_THE_SCRIPT='kill -TERM "$FAKE_MAIN_PID"'

@test "TERM after the claim: exit code 143, no instance, the claim is given back, and nobody is told" {
  topic=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  plan_checks
  aws_plan 's3api put-object * --key dev/20*/config.yaml *' --pass --before "$TERM_THE_SCRIPT"
  launch --env dev
  assert_failure 143
  refute_called 'ec2 run-instances *'
  learn_run_id
  assert_effects "${RESERVE[@]}" "${CLAIM[@]}" "${RUN_FILES[@]}" "${GIVE_BACK[@]}"
  assert_json "$(run_record_now "$ours")" '"\(.outcome) \(.exit_code)"' 'launch_failed 143'
  assert_no_temporary_files
}

@test "a terminal that is gone after the claim: exit code 143, no instance, the claim is given back" {
  plan_checks
  # shellcheck disable=SC2016  # the fake expands it
  aws_plan 's3api put-object * --key dev/20*/config.yaml *' --pass --before 'kill -HUP "$FAKE_MAIN_PID"'
  # Where the tests run under nohup it is ignored, and no script can undo that.
  run --separate-stderr env --default-signal=HUP bash "$project/shell/launch_training.sh" --env dev
  assert_failure 143
  refute_called 'ec2 run-instances *'
  assert_equal "$(state_now)" ''
}

@test "a record whose write is repeated after a lost answer is not written over what has become of it" {
  plan_checks
  plan_instance
  aws_plan 's3api put-object * --key dev/20*/run.json * --if-none-match *' --lost --silence
  launch --env dev
  assert_success
  learn_run_id
  assert_equal "$(grep -cxF "put-object dev/$ours/run.json if-none-match=*" "$FAKE_AWS_DIR/effects")" 1
  assert_json "$(run_record_now "$ours")" .instance.id i-0new
}

@test "TERM before the claim: the record and the reserved id are taken back" {
  plan_checks
  aws_plan 's3api put-object * --key dev/20*/run.json *' --pass --before "$TERM_THE_SCRIPT"
  launch --env dev
  assert_failure 143
  learn_run_id
  assert_effects "${RESERVE[@]}" "${WITHDRAW[@]}"
  assert_no_temporary_files
}

@test "TERM in the middle of the claim: what had landed is given back" {
  plan_checks
  aws_plan 's3api copy-object *' --pass --before "$TERM_THE_SCRIPT"
  launch --env dev
  assert_failure 143
  assert_equal "$(state_now)" ''
}

@test "a second TERM does not stop the claim from being given back" {
  plan_checks
  aws_plan 'ec2 run-instances *' --error UnauthorizedOperation
  aws_plan 's3api delete-object * --if-match *' --pass --before "$TERM_THE_SCRIPT"
  launch --env dev
  assert_failure 17
  assert_equal "$(state_now)" ''
}

@test "a claim that landed without an answer and cannot be read back is given back" {
  plan_checks
  aws_plan 's3api copy-object *' --lost --silence
  aws_plan 's3api copy-object *' --silence --times 5
  # The read before the claim, then those that would settle it.
  aws_plan 's3api get-object * --key dev/system-state.json *' --error NoSuchKey
  aws_plan 's3api get-object * --key dev/system-state.json *' --silence --times 6
  launch --env dev
  assert_failure 1
  assert_equal "$(state_now)" ''
}

@test "TERM when the instance exists leaves it the claim" {
  plan_checks
  plan_instance
  aws_plan 's3api put-object * --key dev/20*/run.json * --if-match *' --pass --before "$TERM_THE_SCRIPT"
  launch --env dev
  assert_failure 143
  assert_regex "$stderr" 'goes on: EC2 has accepted i-[0-9a-z]+; end it with: invoke kill --env dev'
  assert_json "$(state_now)" .status initialization
  refute_called 's3api delete-object * --key dev/system-state.json --if-match *'
}

@test "a claim that cannot be given back says how to free it" {
  plan_checks
  aws_plan 'ec2 run-instances *' --error UnauthorizedOperation
  aws_plan 's3api delete-object * --if-match *' --error AccessDenied
  launch --env dev
  assert_failure 17
  assert_regex "$stderr" 'could not be given back; free it with: invoke kill --env dev'
}
