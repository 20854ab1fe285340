#!/usr/bin/env bash
# Ends the run that holds an environment, gracefully first, then certainly; frees the environment.
#
# Usage: kill_training.sh [--env NAME] [--yes] [--now] [--dry-run] [--json] [--help]
#
#   --env NAME   the environment (invoke.yaml); default: its default_environment
#   --yes        do not ask
#   --now        do not wait for the instance to save what it has
#   --dry-run    say what would be ended, end nothing
#   --json       print one JSON object on stdout: environment, run_ids, instance_ids
#
# Works as well when the state file is missing or corrupt, or S3 does not show it: it finds the instances by their tags.
# Environment: the AWS variables, CHRONOS_KILL_GRACE_SECONDS, CHRONOS_PYTHON.
# Exit codes: 0 ended, or there was nothing to end; 1 something still runs; 2 usage; 10 no credentials;
#   11 not deployed; 15 S3 refuses (what ran was ended all the same); 23 the AWS CLI is too old; 24 a program is missing; 26 bad setting; 29 the embedded
#   AWS is down.
# Runs on: the laptop (Linux or macOS). Needs Bash 4.4, aws, jq 1.6 and this repository's Python.
if [ -z "${BASH_VERSINFO:-}" ] || [ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -lt 44 ]; then # macOS comes with 3.2; other shells end here too
  echo "${0##*/}: Bash 4.4 or newer is needed, this is ${BASH_VERSION:-another shell}; on macOS: brew install bash" >&2
  exit 24
fi
set -Eeuo pipefail
shopt -s inherit_errexit
unset CDPATH # which would lead `cd` elsewhere, and have it print

script_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=lib/quick_aws.sh
source "$script_dir/lib/quick_aws.sh"
# shellcheck source=lib/companions.sh
source "$script_dir/lib/companions.sh"
# shellcheck source=lib/outside_switch.sh
source "$script_dir/lib/outside_switch.sh"
# shellcheck source=lib/notices.sh
source "$script_dir/lib/notices.sh"

environment='' assume_yes=false now=false dry_run=false as_json=false
bucket='' topic='' run_id='' unlisted_ids=() nodes='{}' instance_ids='[]' run_ids='[]' grace=0
state_is='missing' corrupt_etag='' unseen_status=0 work=''

parse_arguments() {
  while (($# > 0)); do
    case $1 in
      --env)
        if (($# < 2)) || [[ -z $2 ]]; then
          log_error "$1 takes a value; see --help"
          exit "$EXIT_USAGE"
        fi
        environment=$2
        shift 2
        ;;
      --yes | -y) assume_yes=true && shift ;;
      --now) now=true && shift ;;
      --dry-run) dry_run=true && shift ;;
      --json) as_json=true && shift ;;
      --help | -h)
        print_header "${BASH_SOURCE[0]}"
        exit 0
        ;;
      *)
        log_error "unknown argument '$1'; see --help"
        exit "$EXIT_USAGE"
        ;;
    esac
  done
}

# Looks at the state file and at EC2: what is there to end?
take_stock() {
  local status=0 live
  read_state "$bucket" "$environment" || status=$?
  case $status in
    0)
      state_is=valid
      run_id=$(jq -r .run_id <<<"$STATE_JSON")
      ;;
    "$EXIT_NO_SUCH_RUN") state_is=missing ;;
    "$EXIT_STATE_UNREADABLE") state_is=corrupt corrupt_etag=$STATE_ETAG ;;
    # What bills is ended even so: who holds the environment is not asked for that.
    *) state_is=unseen unseen_status=$status ;;
  esac
  live=$(live_instances "$environment")
  instance_ids=$(jq -c '[.[].id]' <<<"$live")
  if [[ $state_is == valid ]]; then
    readarray -t unlisted_ids < <(jq -r --argjson ids "$instance_ids" \
      '[.instance_id // empty, .control.instance_ids[]?] | unique[] | select(IN($ids[]) | not)' <<<"$STATE_JSON")
  fi
  # How many machines each run has, or had: so many outside switches go with it.
  nodes=$(jq -c 'group_by(.run_id) | map({key: (.[0].run_id // ""), value: (map(.node) | max + 1)}) | from_entries' <<<"$live")
  if [[ $state_is == valid ]]; then
    nodes=$(jq -c --argjson state "$STATE_JSON" '.[$state.run_id] = ([.[$state.run_id], $state.control.nodes, 1] | max)' <<<"$nodes")
  fi
  run_ids=$(jq -c --arg held "$run_id" '[.[].run_id, $held] | map(select(. != null and . != "")) | unique' <<<"$live")
}

describe_plan() {
  case $state_is in
    valid) log_info "run $run_id holds $environment: $(jq -r '"\(.status) at \(.current_step)"' <<<"$STATE_JSON")" ;;
    corrupt) log_warn "the state file of $environment is corrupt; it will be deleted" ;;
    missing) log_info "$environment has no state file" ;;
    unseen) log_warn "the state file of $environment cannot be read: no machine can be asked to save; each is terminated as it is" ;;
  esac
  log_info "instances tagged Project=$TAG_PROJECT, Environment=$environment: $(jq -r 'if length == 0 then "none" else join(", ") end' <<<"$instance_ids")"
}

confirm() {
  local answer
  if [[ $assume_yes == true ]]; then return 0; fi
  if [[ ! -t 0 ]]; then
    log_error "nobody to ask: give --yes to end it"
    exit "$EXIT_USAGE"
  fi
  read -r -p "End it? [y/N] " answer || answer=''
  if [[ $answer != [yY] ]]; then
    log_info "nothing was ended"
    exit 0
  fi
}

# Marks the run killed, as it is now: it has gone on since it was looked at. Only `training` may become `killed`; elsewhere the way is `failed`, with a message that says so.
ask_to_stop() {
  local status=0 to=failed
  read_state "$bucket" "$environment" || status=$?
  if ((status == EXIT_NO_SUCH_RUN)); then
    log_info "run $run_id has ended by itself"
    return 0
  elif ((status != 0)); then
    return "$status"
  fi
  status=$(jq -r .status <<<"$STATE_JSON")
  case $status in
    training) to=killed ;;
    failed | killed | cleanup)
      log_info "run $run_id is ending by itself already ($status)"
      return 0
      ;;
  esac
  # shellcheck disable=SC2016  # a jq program
  transition_state "$bucket" "$environment" "$run_id" "$to" "$(jq -r .current_step <<<"$STATE_JSON")" \
    "$(jq -cn --arg why "$KILLED_BY_OPERATOR" '{error_message: $why}')"
}

# Prints which of the instances and runs that were found at the start still live. Another run may have begun since.
still_live() {
  local live
  live=$(live_instances "$environment") || return $?
  # shellcheck disable=SC2016  # a jq program
  jq -c --argjson ids "$instance_ids" --argjson runs "$run_ids" \
    '[.[] | select((.id | IN($ids[])) or (.run_id | IN($runs[]))) | .id]' <<<"$live"
}

# Waits until they are gone. <seconds>   Returns 1 when some still live.
wait_until_gone() {
  local deadline=$((SECONDS + $1)) live
  while true; do
    live=$(still_live) || live='["unknown"]'
    if [[ $live == '[]' ]]; then return 0; fi
    if ((SECONDS >= deadline)); then return 1; fi
    sleep 1
  done
}

# Terminates instances, each by itself: EC2 ends none of several when it refuses one or has forgotten it. <id...>
# Returns 0 when all were accepted, else EXIT_FAILED.
terminate_each() {
  local id status=0
  for id; do
    if retry_with_backoff 6 aws ec2 terminate-instances --instance-ids "$id" --output json; then continue; fi
    status=$EXIT_FAILED
    if [[ $AWS_ERROR_CODE != InvalidInstanceID.NotFound ]]; then log_error "terminate-instances: $AWS_ERROR_TEXT"; fi
  done
  return "$status"
}

# Terminates what the state file names and the search by tag does not show: EC2 lists a new one late. Whoever writes to the
# bucket can name any machine there, so one that EC2 shows, or cannot say, to be another's is left.
end_unlisted() {
  local id
  for id in "${unlisted_ids[@]}"; do
    if may_be_ours "$id"; then
      terminate_each "$id" || true
    else
      log_warn "$id, which the state file names, cannot be seen to be a machine of $environment; it is left alone"
    fi
  done
}

# Whether a machine has this environment's tags, or EC2 does not show it yet, or any more. <id>
may_be_ours() {
  if ! retry_with_backoff 6 aws ec2 describe-instances --instance-ids "$1" --output json; then
    [[ $AWS_ERROR_CODE == InvalidInstanceID.NotFound ]]
    return $?
  fi
  # shellcheck disable=SC2016  # a jq program
  jq -e --arg project "$TAG_PROJECT" --arg environment "$environment" '[.Reservations[].Instances[].Tags // [] | from_entries]
    | all(.[]; .Project == $project and .Environment == $environment)' <<<"$AWS_OUTPUT" >/dev/null
}

# Terminates what is left, and makes sure.
make_sure() {
  local live attempt
  local -a ids
  for ((attempt = 0; attempt < 5; attempt++)); do
    live=$(still_live)
    readarray -t ids < <(jq -r '.[]' <<<"$live")
    if ((${#ids[@]} == 0)); then return 0; fi
    log_info "terminating ${ids[*]}"
    if ! terminate_each "${ids[@]}"; then
      sleep 1
    elif wait_until_gone 60; then
      return 0
    fi
  done
  log_error "still there: ${ids[*]}; look in the EC2 console"
  return "$EXIT_FAILED"
}

# Says what stays as it is, because S3 cannot be read.
say_what_stays() {
  log_warn "no instance of $environment runs any more. As they are stay s3://$bucket/$environment/system-state.json, if a run held the environment, and run.json of $(jq -r 'if length == 0 then "that run" else join(", ") end' <<<"$run_ids")"
  log_warn "once S3 can be read: invoke kill --env $environment frees the environment, and so does the next launch; invoke runs completes the record"
}

# Completes the records of the ended runs and frees the environment.
settle() {
  local ended
  while read -r ended; do
    finish_run_record "$bucket" "$environment" "$ended" killed "$(step_of "$ended")" "$KILLED_BY_OPERATOR" '' \
      "$(if [[ $ended == "$run_id" ]]; then told_by_state; fi)" || true
  done < <(jq -r '.[]' <<<"$run_ids")
  if [[ $state_is == corrupt ]]; then
    drop_corrupt_state
  elif [[ $state_is == valid ]]; then
    transition_state "$bucket" "$environment" "$run_id" cleanup cleanup 2>/dev/null || true
    delete_state "$bucket" "$environment" "$run_id"
  fi
}

# Deletes the corrupt file that was seen; what another launch has put there since is left.
drop_corrupt_state() {
  if delete_state_if_match "$bucket" "$environment" "$corrupt_etag"; then return 0; fi
  case $AWS_ERROR_CODE in
    PreconditionFailed | 412) log_warn "the state file is another one now; it is left as it is" ;;
    *) _report_aws_error "deleting s3://$bucket/$environment/system-state.json" ;;
  esac
}

# The step at which a run was ended, if the state file tells. <run_id>
step_of() {
  if [[ $1 == "$run_id" && -n $STATE_JSON ]]; then
    jq -r '.current_step | if test("^(step|epoch)_[0-9]+$") then "training" else . end' <<<"$STATE_JSON"
  fi
}

# Asks, waits, then makes sure; leaves the environment free.
end_runs() {
  local run
  local -a ended
  if [[ $state_is == valid && $now == false ]]; then
    # Refused as illegal: the run has moved on in this very moment, so the way is another one now.
    ask_to_stop || { (($? == EXIT_ILLEGAL_TRANSITION)) && ask_to_stop; } || log_warn "the instance could not be asked; it is terminated"
    if [[ $instance_ids != '[]' ]]; then
      log_info "waiting up to $grace s for the instance to save and stop"
      wait_until_gone "$grace" || log_warn "it did not stop in time"
    fi
  fi
  end_unlisted
  make_sure
  readarray -t ended < <(jq -r '.[]' <<<"$run_ids")
  if [[ $state_is == unseen ]]; then
    for run in "${ended[@]}"; do disarm_outside_switch "$exports" "$environment" "$run"; done
    say_what_stays
    return 0
  fi
  settle
  drop_staged_states "$bucket" "$environment" "${ended[@]}"
  log_info "ended; $environment is free"
  # An instance that had the time has told it already.
  topic=$(heard_topic "$topic")
  for run in "${ended[@]}"; do
    disarm_outside_switches "$exports" "$environment" "$run" "$(jq -r --arg run "$run" '.[$run] // 1' <<<"$nodes")"
    notify "$topic" "$bucket" "$environment" "$run" end
  done
}

remove_work() {
  rm -rf "${work:?}"
}

main() {
  local settings exports
  parse_arguments "$@"
  require_workstation
  work=$(mktemp -d)
  trap remove_work EXIT
  # What a signal leaves half done goes with it.
  export TMPDIR=$work
  start_quick_aws "$work"
  settings=$(load_settings "$environment")
  environment=$(jq -r .environment <<<"$settings")
  grace=$(jq -r .kill_grace_seconds <<<"$settings")
  use_aws_settings "$settings"
  require_conditional_writes
  require_credentials >/dev/null
  exports=$(read_exports)
  bucket=$(jq -r .BucketName <<<"$exports") topic=$(jq -r '.TopicArn // ""' <<<"$exports")
  take_stock
  describe_plan
  if [[ $dry_run == true ]]; then return "$unseen_status"; fi
  if [[ $state_is == missing && $instance_ids == '[]' ]]; then
    log_info "nothing runs in $environment"
  elif [[ $state_is == unseen && $instance_ids == '[]' ]]; then
    say_what_stays
  else
    confirm
    end_runs
  fi
  if [[ $as_json == true ]]; then
    # shellcheck disable=SC2016  # a jq program
    jq -cn --arg env "$environment" --argjson runs "$run_ids" --argjson ids "$instance_ids" \
      '{environment: $env, run_ids: $runs, instance_ids: $ids}'
  fi
  return "$unseen_status"
}

main "$@"
