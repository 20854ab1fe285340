#!/usr/bin/env bats
# shell/lib/workstation.sh: settings, credentials, exports, instances by tag.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/workstation.sh
  source "$project/shell/lib/workstation.sh"
  AWS_DEFAULT_REGION=us-east-1
}

teardown() { common_teardown; }

sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

@test "a digest is the same by Linux's tool and by macOS's" {
  mkdir bin
  # shellcheck disable=SC2016  # a script's text
  printf '#!/bin/sh\necho "$* of $(cat)  -"\n' >bin/shasum
  chmod +x bin/shasum
  run -0 sha256_of_input <<<x
  assert_output 73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac
  rm -rf tools && cp -R "$(dirname "$(type -P tr)")" tools && rm tools/sha256sum
  PATH="$work/bin:$work/tools" run -0 sha256_of_input <<<x
  assert_output '-a'
}

@test "Python is CHRONOS_PYTHON, else the repository's" {
  CHRONOS_PYTHON='/a b/python' run -0 chronos_python
  assert_output '/a b/python'
  unset CHRONOS_PYTHON
  run -0 chronos_python
  assert_regex "$output" '/shell/lib/../../.venv/bin/python$'
}

@test "settings go to Python as arguments, none of them read by a shell" {
  # shellcheck disable=SC2016  # a script's text
  printf '#!/usr/bin/env bash\nprintf "<%%s>" "$@"\n' >'a python'
  chmod +x 'a python'
  # shellcheck disable=SC2016  # nothing may expand
  CHRONOS_PYTHON="$work/a python" run -0 load_settings 'x;rm -rf ~' 'ami_id=$(touch canary)' 'b=c d'
  # shellcheck disable=SC2016  # nothing may expand
  assert_output '<-m><chronos_ec2.workstation.settings><--env><x;rm -rf ~><--set><ami_id=$(touch canary)><--set><b=c d>'
  assert [ ! -e canary ]
}

@test "the embedded AWS without an endpoint is exit code 29, with the way out" {
  run --separate-stderr -29 use_aws_settings '{"region":"us-east-1","aws_profile":"","embedded":true}'
  assert_regex "$stderr" 'invoke local.start'
  AWS_ENDPOINT_URL=http://127.0.0.1:1 run -0 use_aws_settings '{"region":"us-east-1","aws_profile":"","embedded":true}'
}

@test "region and profile of the settings reach every call" {
  use_aws_settings '{"region":"eu-west-1","aws_profile":"the team","embedded":false}'
  run -0 env
  assert_line AWS_REGION=eu-west-1
  assert_line AWS_DEFAULT_REGION=eu-west-1
  assert_line 'AWS_PROFILE=the team'
}

@test "a user's own formats of output and errors reach no call" {
  export AWS_DEFAULT_OUTPUT=table AWS_PAGER=less AWS_CLI_ERROR_FORMAT=json AWS_CLI_AUTO_PROMPT=on
  use_aws_settings '{"region":"eu-west-1","aws_profile":"","embedded":false}'
  # shellcheck disable=SC2016  # another shell's variables
  run -0 bash -c 'echo "$AWS_DEFAULT_OUTPUT,$AWS_PAGER,$AWS_CLI_ERROR_FORMAT,$AWS_CLI_AUTO_PROMPT"'
  assert_output json,,legacy,off
}

@test "an AWS that does not answer is told from credentials that are not there, whatever the CLI calls them" {
  local words
  for words in 'Could not connect to the endpoint URL: "https://sts.us-east-1.amazonaws.com/"' \
    'Connect timeout on endpoint URL: "https://sts.us-east-1.amazonaws.com/"'; do
    aws_plan 'sts get-caller-identity *' --times 3 --exit 255 --stderr "$words"
    run --separate-stderr -1 require_credentials
    assert_regex "$stderr" 'AWS cannot be reached'
  done
  for words in 'Error loading SSO Token: Token for default does not exist' \
    'Error when retrieving credentials from custom-process: x' \
    'The source_profile "a" referenced in the profile "b" does not exist' 'Unable to locate credentials'; do
    aws_plan 'sts get-caller-identity *' --exit 255 --stderr "$words"
    run --separate-stderr -10 require_credentials
    assert_regex "$stderr" "sign in .*$words"
  done
}

@test "exports come back without their prefix; those of other stacks do not" {
  aws_plan 'cloudformation list-exports *' --out '{"Exports":[{"Name":"ChronosTraining-BucketName","Value":"a-bucket"},
    {"Name":"Other-BucketName","Value":"theirs"},{"Name":"ChronosTraining-SubnetIds","Value":"subnet-1,subnet-2"},
    {"Name":"ChronosTraining-SecurityGroupId","Value":"sg-1"},{"Name":"ChronosTraining-InstanceProfileName","Value":"profile"}]}'
  run --separate-stderr -0 read_exports
  assert_json "$output" 'to_entries | map("\(.key)=\(.value)") | join(" ")' \
    'BucketName=a-bucket SubnetIds=subnet-1,subnet-2 SecurityGroupId=sg-1 InstanceProfileName=profile'
}

@test "an export that is missing is exit code 11 and named" {
  aws_plan 'cloudformation list-exports *' --out '{"Exports":[{"Name":"ChronosTraining-BucketName","Value":"a-bucket"}]}'
  run --separate-stderr -11 read_exports
  assert_output ''
  assert_regex "$stderr" 'ChronosTraining-SubnetIds is missing in us-east-1: run invoke deploy'
}

@test "live instances are looked for by tag and state, and come back with their run" {
  aws_plan '*' --out "$(instances_json "$(instance_json i-1 running RUN-1)" '{"InstanceId":"i-2","State":{"Name":"pending"}}')"
  run --separate-stderr -0 live_instances dev
  assert_output '[{"id":"i-1","state":"running","node":0,"run_id":"RUN-1"},{"id":"i-2","state":"pending","node":0,"run_id":null}]'
  assert_called 1 ec2 describe-instances --filters Name=tag:Project,Values=Chronos-Training Name=tag:Environment,Values=dev \
    Name=instance-state-name,Values=pending,running,stopping,stopped --output json
}

@test "a command is printed as it could be typed" {
  run -0 print_command aws s3 cp 'a file' 's3://b/it'\''s'
  assert_output "aws s3 cp a\\ file s3://b/it\\'s"
}
