# shellcheck shell=bash
# The dead man's switch outside the machine: a one-off EventBridge schedule that terminates a run's instance a little
# after the run's deadline, and then deletes itself. It asks nothing of the machine, the laptop or S3.
# chronos_ec2/workstation/outside_switch.py says the same for `invoke reap`.
[[ -n ${_CHRONOS_OUTSIDE_SWITCH:-} ]] && return 0
readonly _CHRONOS_OUTSIDE_SWITCH=1

_outside_switch_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=state_helpers.sh
source "$_outside_switch_lib_dir/state_helpers.sh"

# Seconds after the deadline: the guest's own switch, which saves the logs' last lines, comes first.
readonly OUTSIDE_GRACE_SECONDS=300
readonly _SWITCH_ATTEMPTS=5

# Prints the name of the schedule of a run's node. <env> <run_id> [node, from 0]
outside_switch_name() { printf 'chronos-%s-%s%s\n' "$1" "$2" "$( ((${3:-0} == 0)) || printf -- '-%d' "$3")"; }

# Whether the stack has a group and a role for schedules; says what to do when it has not. <exports json>
require_outside_switch() {
  if jq -e '(.ScheduleGroupName and .SchedulerRoleArn) | not' <<<"$1" >/dev/null; then
    log_error "the stack has no schedule group and role for the outside switch: run invoke deploy${environment:+ --env $environment} again, or go without it: --set outside_switch=false"
    return "$EXIT_NOT_DEPLOYED"
  fi
}

# Prints the request that arms a switch, as one JSON object. <exports json> <env> <run_id> <instance id> <deadline> [node]
outside_switch_request() {
  # shellcheck disable=SC2016  # a jq program
  jq -c --arg name "$(outside_switch_name "$2" "$3" "${6:-0}")" --arg id "$4" --arg deadline "$5" \
    --argjson grace "$OUTSIDE_GRACE_SECONDS" '{
      Name: $name,
      GroupName: .ScheduleGroupName,
      Description: "Terminates \($id) after the deadline of its run",
      ScheduleExpression: "at(\($deadline | fromdateiso8601 + $grace | todateiso8601 | rtrimstr("Z")))",
      ScheduleExpressionTimezone: "UTC",
      FlexibleTimeWindow: {Mode: "OFF"},
      ActionAfterCompletion: "DELETE",
      Target: {
        # In the partition that the stack is in: aws, aws-cn or aws-us-gov.
        Arn: "arn:\(.SchedulerRoleArn | split(":")[1]):scheduler:::aws-sdk:ec2:terminateInstances",
        RoleArn: .SchedulerRoleArn,
        Input: ({InstanceIds: [$id]} | tojson),
        RetryPolicy: {MaximumRetryAttempts: 10, MaximumEventAgeInSeconds: 3600}
      }
    }' <<<"$1"
}

# Arms the switch of a run's instance; one that is armed for it already is left, one for another is replaced.
# <exports json> <env> <run_id> <instance id> <deadline> [node]   Returns 0, or EXIT_LAUNCH_REFUSED after having said why.
arm_outside_switch() {
  local request token attempt
  request=$(outside_switch_request "$@") || return "$EXIT_LAUNCH_REFUSED"
  token=$(random_nonce) || return "$EXIT_LAUNCH_REFUSED"
  for ((attempt = 0; attempt < _SWITCH_ATTEMPTS; attempt++)); do
    if ((attempt > 0)); then sleep "$(_backoff_seconds "$((attempt + 2))")"; fi
    if retry_with_backoff 4 aws scheduler create-schedule --cli-input-json "$request" --client-token "$token" --output json; then
      return 0
    fi
    case $AWS_ERROR_CODE in
      ConflictException)
        if _is_armed "$request"; then return 0; fi
        # The name is the run's, so what has it is this run's switch, for an instance that came to nothing.
        disarm_outside_switch "$1" "$2" "$3" "${6:-0}"
        token=$(random_nonce)
        ;;
      # IAM shows a role that has just been made a little late.
      ValidationException) [[ $AWS_ERROR_TEXT == *'assume the role'* ]] || break ;;
      InternalServerException) ;;
      *) break ;;
    esac
  done
  _explain_unarmed "$request"
  return "$EXIT_LAUNCH_REFUSED"
}

# Arms a switch for each node of a run. Not one for all: TerminateInstances ends nothing when EC2 has forgotten one of
# those it is given, and it forgets what has been gone for an hour.
# <exports json> <env> <run_id> <deadline> <instance id…>   Returns as arm_outside_switch does.
arm_outside_switches() {
  local exports=$1 environment=$2 run_id=$3 deadline=$4 node=0 id
  shift 4
  for id in "$@"; do
    arm_outside_switch "$exports" "$environment" "$run_id" "$id" "$deadline" "$node" || return $?
    node=$((node + 1))
  done
}

# Deletes the switches of all nodes of a run. <exports json> <env> <run_id> <nodes>
disarm_outside_switches() {
  local node
  for ((node = 0; node < $4; node++)); do disarm_outside_switch "$1" "$2" "$3" "$node"; done
}

# Whether the schedule that has the name does what is asked. <request json>
_is_armed() {
  local name group code=$AWS_ERROR_CODE text=$AWS_ERROR_TEXT status=0
  name=$(jq -r .Name <<<"$1") group=$(jq -r .GroupName <<<"$1")
  # shellcheck disable=SC2016  # a jq program
  retry_with_backoff 4 aws scheduler get-schedule --name "$name" --group-name "$group" --output json \
    && jq -e --argjson wanted "$1" '.ScheduleExpression == $wanted.ScheduleExpression and .State != "DISABLED"
      and (.Target.Input | fromjson) == ($wanted.Target.Input | fromjson)' <<<"$AWS_OUTPUT" >/dev/null || status=$?
  AWS_ERROR_CODE=$code AWS_ERROR_TEXT=$text
  return "$status"
}

# Says why a switch could not be armed, and what is missing. <request json>
_explain_unarmed() {
  local advice group role
  group=$(jq -r .GroupName <<<"$1") role=$(jq -r .Target.RoleArn <<<"$1")
  case $AWS_ERROR_CODE in
    AccessDenied*) advice="you need scheduler:CreateSchedule, scheduler:GetSchedule and scheduler:DeleteSchedule in group $group, and iam:PassRole on $role" ;;
    ResourceNotFoundException | ValidationException) advice="group $group or role $role is not as the stack makes it: run invoke deploy${environment:+ --env $environment}" ;;
    ServiceQuotaExceededException) advice='ask for more "Number of schedules" in Service Quotas, or delete old schedules' ;;
    *) advice='try again' ;;
  esac
  log_error "the outside switch cannot be armed: $AWS_ERROR_TEXT"
  log_error "$advice; or go without it: --set outside_switch=false"
}

# Deletes a switch; one that is not there is fine. Never fails: a switch that stays ends an instance that is gone.
# <exports json> <env> <run_id> [node]
disarm_outside_switch() {
  local group name
  group=$(jq -r '.ScheduleGroupName // ""' <<<"$1")
  if [[ -z $group ]]; then return 0; fi
  name=$(outside_switch_name "$2" "$3" "${4:-0}")
  retry_with_backoff 4 aws scheduler delete-schedule --name "$name" --group-name "$group" && return 0
  if [[ $AWS_ERROR_CODE != ResourceNotFoundException ]]; then
    log_warn "schedule $name stays until its time, when it ends nothing and goes: $AWS_ERROR_TEXT"
  fi
  return 0
}
