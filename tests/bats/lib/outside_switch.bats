#!/usr/bin/env bats
# shell/lib/outside_switch.sh: the schedule that ends a run's instance whatever has become of the machine.
# shellcheck disable=SC2154,SC2034  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022 DEADLINE=2025-01-15T20:30:22Z ROLE=arn:aws:iam::123456789012:role/Switch
readonly EXPORTS="{\"ScheduleGroupName\":\"ChronosTraining\",\"SchedulerRoleArn\":\"$ROLE\",\"BucketName\":\"a-bucket\"}"
readonly NAME=chronos-dev-$RUN

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/outside_switch.sh
  source "$project/shell/lib/outside_switch.sh"
  # shellcheck disable=SC2329  # the library calls it
  random_nonce() { printf 'a-nonce'; }
}

teardown() { common_teardown; }

sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

arm() { arm_outside_switch "$EXPORTS" dev "$RUN" i-0abc "$DEADLINE"; }

# What get-schedule answers for a switch. <instance id>
armed_for() { outside_switch_request "$EXPORTS" dev "$RUN" "$1" "$DEADLINE" | jq -c '. + {State: "ENABLED"}'; }

# The operations that were asked for, in order.
operations() { sed 's/^scheduler //; s/ .*//' "$FAKE_AWS_DIR/calls.plain" | tr '\n' ' '; }

@test "arming makes one schedule: five minutes after the deadline, in UTC, this instance, deleted when it is done" {
  aws_plan 'scheduler create-schedule *'
  run --separate-stderr -0 arm
  assert_equal "$output$stderr" ''
  run -0 outside_switch_request "$EXPORTS" dev "$RUN" i-0abc "$DEADLINE"
  assert_json "$output" .Name "$NAME"
  assert_json "$output" .GroupName ChronosTraining
  assert_json "$output" .ScheduleExpression 'at(2025-01-15T20:35:22)'
  assert_json "$output" .ScheduleExpressionTimezone UTC
  assert_json "$output" .FlexibleTimeWindow.Mode OFF
  assert_json "$output" .ActionAfterCompletion DELETE
  assert_json "$output" .Target.Arn arn:aws:scheduler:::aws-sdk:ec2:terminateInstances
  assert_json "$output" .Target.RoleArn "$ROLE"
  assert_json "$output" .Target.Input '{"InstanceIds":["i-0abc"]}'
  assert_json "$output" '.Target.RetryPolicy | "\(.MaximumRetryAttempts) \(.MaximumEventAgeInSeconds)"' '10 3600'
  assert_called 1 scheduler create-schedule --cli-input-json "$output" --client-token a-nonce --output json
}

@test "Bash and Python ask for the same schedule, in each of AWS's partitions, and the CLI knows every field of it" {
  local partition role
  for partition in aws aws-cn aws-us-gov; do
    role=${ROLE/arn:aws:/arn:$partition:}
    run -0 outside_switch_request "${EXPORTS/"$ROLE"/"$role"}" dev "$RUN" i-0abc "$DEADLINE"
    assert_json "$output" .Target.Arn "arn:$partition:scheduler:::aws-sdk:ec2:terminateInstances"
    run -0 "$CHRONOS_PYTHON" - "$output" "$role" <<'PYTHON'
import json, sys
import botocore.session, botocore.validate
from chronos_ec2.state.clock import from_text
from chronos_ec2.workstation.outside_switch import switch_request
ours = switch_request("ChronosTraining", sys.argv[2], "dev", "2025-01-15-143022", "i-0abc", from_text("2025-01-15T20:30:22Z"))
assert ours == json.loads(sys.argv[1]), ours
model = botocore.session.get_session().get_service_model("scheduler")
shape = model.operation_model("CreateSchedule").input_shape
assert set(ours) <= set(shape.members)
report = botocore.validate.ParamValidator().validate(ours, shape)
assert not report.has_errors(), report.generate_report()
PYTHON
  done
}

@test "the longest names fit EventBridge's 64 characters" {
  run -0 outside_switch_name "$(printf 'e%.0s' {1..32})" "$RUN"
  if ((${#output} > 64)); then fail "${#output} characters"; fi
}

@test "an answer that never came is asked for again with the same token, so that one schedule is made" {
  aws_plan 'scheduler create-schedule *' --silence
  aws_plan 'scheduler create-schedule *'
  run --separate-stderr -0 arm
  assert_equal "$(aws_calls | sort -u | wc -l)" 1
}

@test "a switch that is armed for this instance already is left as it is" {
  aws_plan 'scheduler create-schedule *' --error ConflictException
  aws_plan "scheduler get-schedule --name $NAME --group-name ChronosTraining --output json" --out "$(armed_for i-0abc)"
  run --separate-stderr -0 arm
  assert_equal "$(operations)" 'create-schedule get-schedule '
}

@test "a switch that is armed for an instance that came to nothing is replaced by one for this instance" {
  aws_plan 'scheduler create-schedule *' --error ConflictException
  aws_plan 'scheduler get-schedule *' --out "$(armed_for i-0old)"
  aws_plan "scheduler delete-schedule --name $NAME --group-name ChronosTraining"
  aws_plan 'scheduler create-schedule *'
  run --separate-stderr -0 arm
  assert_equal "$(operations)" 'create-schedule get-schedule delete-schedule create-schedule '
}

@test "a switch that is disabled, or cannot be looked at, or goes meanwhile, is set anew" {
  aws_plan 'scheduler create-schedule *' --error ConflictException --times 3
  aws_plan 'scheduler get-schedule *' --out "$(armed_for i-0abc | jq -c '.State = "DISABLED"')"
  aws_plan 'scheduler get-schedule *' --error AccessDeniedException
  aws_plan 'scheduler get-schedule *' --error ResourceNotFoundException
  aws_plan 'scheduler delete-schedule *' --times 2
  aws_plan 'scheduler delete-schedule *' --error ResourceNotFoundException
  aws_plan 'scheduler create-schedule *'
  run --separate-stderr -0 arm
}

@test "a switch of another that cannot be deleted is in the way: exit code 17" {
  aws_plan 'scheduler create-schedule *' --error ConflictException --times 5
  aws_plan 'scheduler get-schedule *' --out "$(armed_for i-0old)" --times 5
  aws_plan 'scheduler delete-schedule *' --error AccessDeniedException --times 5
  run --separate-stderr -17 arm
}

@test "a role that IAM does not show yet is waited for; any other invalid value is not" {
  aws_plan 'scheduler create-schedule *' --times 2 --exit 254 --stderr 'An error occurred (ValidationException) when calling the CreateSchedule operation: The execution role you provide must allow AWS EventBridge Scheduler to assume the role.'
  aws_plan 'scheduler create-schedule *'
  run --separate-stderr -0 arm
  aws_plan 'scheduler create-schedule *' --error ValidationException
  run --separate-stderr -17 arm
  assert_regex "$stderr" 'run invoke deploy; or go without it: --set outside_switch=false'
}

@test "a missing permission is named: exit code 17" {
  aws_plan 'scheduler create-schedule *' --error AccessDeniedException
  run --separate-stderr -17 arm
  assert_regex "$stderr" 'cannot be armed: .*AccessDeniedException'
  assert_regex "$stderr" "you need scheduler:CreateSchedule, .* in group ChronosTraining, and iam:PassRole on $ROLE"
}

@test "a service that keeps failing is given up, with its own words" {
  aws_plan 'scheduler create-schedule *' --error InternalServerException --times 5
  run --separate-stderr -17 arm
  assert_regex "$stderr" 'InternalServerException'
}

@test "disarming deletes the schedule; a missing one is fine, a refusal is said and changes nothing" {
  local answer
  aws_plan 'scheduler delete-schedule *'
  run --separate-stderr -0 disarm_outside_switch "$EXPORTS" dev "$RUN"
  assert_called 1 scheduler delete-schedule --name "$NAME" --group-name ChronosTraining
  aws_plan 'scheduler delete-schedule *' --error ResourceNotFoundException
  run --separate-stderr -0 disarm_outside_switch "$EXPORTS" dev "$RUN"
  assert_equal "$stderr" ''
  aws_plan 'scheduler delete-schedule *' --error AccessDeniedException
  run --separate-stderr -0 disarm_outside_switch "$EXPORTS" dev "$RUN"
  assert_regex "$stderr" "schedule $NAME stays until its time"
}

@test "several nodes have a switch each, which are disarmed together" {
  aws_plan "scheduler create-schedule *\"Name\":\"$NAME\",*i-a*"
  aws_plan "scheduler create-schedule *\"Name\":\"$NAME-1\",*i-b*"
  arm_outside_switches "$EXPORTS" dev "$RUN" "$DEADLINE" i-a i-b
  aws_plan 'scheduler delete-schedule *' --times 2
  disarm_outside_switches "$EXPORTS" dev "$RUN" 2
  assert_called 1 scheduler delete-schedule --name "$NAME" --group-name ChronosTraining
  assert_called 1 scheduler delete-schedule --name "$NAME-1" --group-name ChronosTraining
  run -0 "$CHRONOS_PYTHON" -c 'import sys
from chronos_ec2.workstation.outside_switch import parse_switch_name
print([parse_switch_name(name).node for name in sys.argv[1:]])' "$NAME" "$NAME-1"
  assert_output '[0, 1]'
}

@test "a stack that knows no schedules: refused where a switch is wanted, no call where one would be deleted" {
  run -0 require_outside_switch "$EXPORTS"
  run --separate-stderr -11 require_outside_switch '{"BucketName":"a-bucket","ScheduleGroupName":"ChronosTraining"}'
  assert_regex "$stderr" 'run invoke deploy again, or go without it: --set outside_switch=false'
  run -0 disarm_outside_switch '{"BucketName":"a-bucket"}' dev "$RUN"
}
