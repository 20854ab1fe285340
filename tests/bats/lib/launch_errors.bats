#!/usr/bin/env bats
# shell/lib/launch_errors.sh: what EC2's refusals mean, and what a person is told to do.
# shellcheck disable=SC2154,SC2034  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly TABLE="$shell_under_test/lib/launch_errors.json"

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/launch_errors.sh
  source "$project/shell/lib/launch_errors.sh"
  AWS_DEFAULT_REGION=us-east-1
  pool_type=g5.xlarge pool_quota_code=L-DB2E81BA pool_quota_name='Running On-Demand G and VT instances'
}

teardown() { common_teardown; }

sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

# The kind of a refusal. <section> <code> [text]
kind() {
  note_refusal "$1" "$2" "${3:-}"
  printf '%s\n' "$REFUSAL_KIND"
}

# What is said of one. <section> <code> [text]
explain() {
  note_refusal "$1" "$2" "${3:-}"
  run --separate-stderr -0 explain_refusal
}

@test "every code has a kind that the table knows, and a source that it names" {
  # shellcheck disable=SC2016  # a jq program
  run -0 jq -r '(.kinds | keys) as $kinds | (.sources | keys) as $sources
    | (.errors, .state_reasons) | to_entries[] | select((.value.kind | IN($kinds[]) | not) or (.value.source | IN($sources[]) | not)) | .key' "$TABLE"
  assert_output ''
}

@test "every refusal that stops a launch comes with advice, of its code or its kind" {
  # shellcheck disable=SC2016  # a jq program
  run -0 jq -r '.kinds as $kinds | (.errors, .state_reasons) | to_entries[]
    | select((.value.kind | IN("capacity", "ended") | not) and (.value.limits | not) and (($kinds[.value.kind] + .value).advice | not)) | .key' "$TABLE"
  assert_output ''
}

@test "codes lead to kinds; only capacity and throttling move on to the next pool" {
  run -0 jq -r '.kinds | to_entries[] | select(.value.moves_on) | .key' "$TABLE"
  assert_output $'capacity\nthrottled'
  note_refusal errors Unsupported ''
  assert_equal "$REFUSAL_KIND $REFUSAL_MOVES_ON $REFUSAL_WORDS" 'capacity true not offered there'
  note_refusal errors MaxSpotInstanceCountExceeded ''
  assert_equal "$REFUSAL_KIND $REFUSAL_MOVES_ON $REFUSAL_LIMITS" 'quota false vcpus'
  assert_equal "$(kind errors 503)" unknown
  assert_equal "$(kind errors SomethingNew)" other
  assert_equal "$(kind state_reasons Server.SomethingNew)" capacity
  assert_equal "$(kind state_reasons Client.InternalError)" permission
}

@test "no answer is uncertain, unless the call never left this machine" {
  assert_equal "$(kind errors '' 'Could not connect to the endpoint URL')" unknown
  assert_equal "$(kind errors '' 'Read timeout on endpoint URL')" unknown
  assert_equal "$(kind errors '' 'Unable to locate credentials')" other
}

@test "a wrong value is final, a new instance profile is not" {
  assert_equal "$(kind errors InvalidParameterValue "Invalid value 'g9.huge' for InstanceType.")" parameter
  assert_equal "$(kind errors InvalidParameterValue 'Value (X) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name')" profile
}

@test "an AMI that the account may not use is told from credentials and from the account itself" {
  assert_equal "$(kind errors AuthFailure 'AWS was not able to validate the provided access credentials')" credentials
  assert_equal "$(kind errors AuthFailure 'Not authorized for images: [ami-0abc]')" image
  assert_equal "$(kind errors OptInRequired 'You are not subscribed to this service')" account
  explain errors OptInRequired 'In order to use this AWS Marketplace product you need to accept terms and subscribe. To do so please visit https://aws.amazon.com/x'
  assert_equal "$REFUSAL_KIND" image
  assert_output --partial 'its terms'
}

@test "EC2's words are freed of the CLI's and of what is encoded" {
  run -0 plain_error_text 'An error occurred (InsufficientInstanceCapacity) when calling the RunInstances operation (reached max retries: 2): We currently: none. '
  assert_output 'We currently: none.'
  run -0 plain_error_text 'An error occurred (UnauthorizedOperation) when calling the RunInstances operation: You may not. Encoded authorization failure message: AbC_-9 '
  assert_output 'You may not.'
  run -0 plain_error_text 'Could not connect to the endpoint URL: "http://x/"'
  assert_output 'Could not connect to the endpoint URL: "http://x/"'
}

@test "a quota is explained with its code, its number, what is needed, and the command that asks for more" {
  aws_plan 'service-quotas get-service-quota --service-code ec2 --quota-code L-DB2E81BA *' --out '{"Quota":{"Value":0.0}}'
  aws_plan 'ec2 describe-instance-types --instance-types g5.xlarge *' --out '{"InstanceTypes":[{"VCpuInfo":{"DefaultVCpus":4}}]}'
  explain errors VcpuLimitExceeded
  assert_line --index 0 'quota L-DB2E81BA (Running On-Demand G and VT instances) is 0 vCPUs in us-east-1; g5.xlarge needs 4'
  assert_line --index 1 --partial 'request-service-quota-increase --service-code ec2 --quota-code L-DB2E81BA --desired-value 4 --region us-east-1'
}

@test "of a quota that the account was never given, the number is the one that every account has" {
  aws_plan 'service-quotas get-service-quota *' --error NoSuchResourceException
  aws_plan 'service-quotas get-aws-default-service-quota --service-code ec2 --quota-code L-DB2E81BA *' --out '{"Quota":{"Value":0.0}}'
  aws_plan 'ec2 describe-instance-types --instance-types g5.xlarge *' --out '{"InstanceTypes":[{"VCpuInfo":{"DefaultVCpus":4}}]}'
  explain errors VcpuLimitExceeded
  assert_line --index 0 'quota L-DB2E81BA (Running On-Demand G and VT instances) is 0 vCPUs in us-east-1; g5.xlarge needs 4'
}

@test "a quota whose number may not be read is still named" {
  aws_plan 'service-quotas *' --error AccessDeniedException
  aws_plan 'ec2 describe-instance-types *' --error UnauthorizedOperation
  explain errors VcpuLimitExceeded
  assert_line --index 0 'quota L-DB2E81BA (Running On-Demand G and VT instances) is an unknown number of vCPUs in us-east-1; g5.xlarge needs some'
  pool_quota_code=''
  explain errors VcpuLimitExceeded
  assert_output --partial 'which quota limits g5.xlarge is not known here'
}

@test "a disk quota is explained as one, with what the launch needs of it" {
  settings='{"volume_gb":100,"nodes":2}'
  aws_plan 'service-quotas get-service-quota --service-code ebs --quota-code L-7A658B76 *' --out '{"Quota":{"Value":50.0}}'
  explain state_reasons Client.VolumeLimitExceeded
  assert_line --index 0 --partial 'is 50 TiB in us-east-1; this launch needs 200 GB: '
  assert_line --index 1 --partial '--service-code ebs --quota-code L-7A658B76 --desired-value 51'
}

@test "the missing action is read from EC2's message" {
  explain errors UnauthorizedOperation 'You are not authorized to perform this operation. User: arn:aws:iam::1:user/a is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/R because no identity-based policy allows the iam:PassRole action. Encoded authorization failure message: abc'
  assert_line --index 0 'the caller lacks the permission iam:PassRole on arn:aws:iam::1:role/R'
  refute_called 'sts *'
  explain errors UnauthorizedOperation 'User: u is not authorized to perform: ec2:RunInstances on resource: arn:x with an explicit deny in a service control policy'
  assert_line --index 0 'a policy denies ec2:RunInstances on arn:x explicitly: an administrator has to take that away'
}

@test "an action that EC2 only tells encoded is decoded when the caller may" {
  local encoded='You are not authorized to perform this operation. Encoded authorization failure message: AbC-9_x'
  aws_plan 'sts decode-authorization-message --encoded-message AbC-9_x *' \
    --out '{"DecodedMessage":"{\"allowed\":false,\"explicitDeny\":false,\"context\":{\"action\":\"ec2:CreateTags\",\"resource\":\"arn:aws:ec2:us-east-1:1:instance/*\"}}"}'
  explain errors UnauthorizedOperation "$encoded"
  assert_line --index 0 'the caller lacks the permission ec2:CreateTags on arn:aws:ec2:us-east-1:1:instance/*'
  aws_plan 'sts decode-authorization-message *' --error AccessDenied
  explain errors UnauthorizedOperation "$encoded"
  assert_line --index 0 --partial 'sts:DecodeAuthorizationMessage would show it'
}

@test "the role for spot is a permission of its own, with the command that makes it" {
  explain errors AuthFailure.ServiceLinkedRoleCreationNotPermitted 'The provided credentials do not have permission to create the role.'
  assert_line --index 0 'the caller lacks the permission iam:CreateServiceLinkedRole'
  assert_line --index 1 --partial 'create-service-linked-role --aws-service-name spot.amazonaws.com'
}
