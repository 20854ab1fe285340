#!/usr/bin/env bash
# Launches one training run: checks, claims the environment, starts one EC2 instance, and leaves it to itself.
#
# Usage: launch_training.sh [--env NAME] [--set KEY=VALUE]… [--spot] [--wait-for-capacity TIME] [--max-cost DOLLARS]
#                           [--resume RUN_ID] [--dry-run] [--json] [--help]
#
#   --env NAME        the environment (invoke.yaml); default: its default_environment
#   --set KEY=VALUE   a setting for this run only, e.g. --set instance_type=g5.xlarge
#   --spot            the same as --set market=spot
#   --wait-for-capacity TIME   how long to go on looking when no pool has capacity: 2h, 30m or 90s
#   --max-cost N      US dollars that the run may cost in the worst case: the machine's deadline is set by it
#   --resume RUN_ID   go on from the newest checkpoint of a run; its data and training settings must be the same
#   --dry-run         make every check, print the user data and the calls that would change something, change nothing
#   --json            print one JSON object on stdout: run_id, instance_id, environment, s3_prefix, estimate
#
# Environment: the AWS variables (AWS_PROFILE, AWS_ENDPOINT_URL, …), CHRONOS_<SETTING>, CHRONOS_PYTHON.
# Exit codes: 0 launched; 2 usage; 10 no credentials; 11 not deployed; 12 a run holds the environment;
#   14 unreadable state file; 15 S3 refuses; 16 no AMI; 17 EC2 refuses; 18 nothing uploaded, or scripts that are not
#   those of this checkout; 21 killed while launching, and 20, 22 or 32 for a run that has ended so before its launch
#   was through; 23 the AWS CLI is too old; 24 a program is missing; 26 bad setting; 27 no run, or no checkpoint, to go
#   on from; 29 the embedded AWS is down; 30 the run may cost more than it may; 130, 143 interrupted, the claim given
#   back.
# Runs on: the laptop (Linux or macOS). Needs Bash 4.4, aws, jq 1.6 and this repository's Python.
if [ -z "${BASH_VERSINFO:-}" ] || [ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -lt 44 ]; then # macOS comes with 3.2; other shells end here too
  echo "${0##*/}: Bash 4.4 or newer is needed, this is ${BASH_VERSION:-another shell}; on macOS: brew install bash" >&2
  exit 24
fi
set -Eeuo pipefail
shopt -s inherit_errexit
unset CDPATH # which would lead `cd` elsewhere, and have it print

script_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=lib/workstation.sh
source "$script_dir/lib/workstation.sh"
# shellcheck source=lib/launch_facts.sh
source "$script_dir/lib/launch_facts.sh"
# shellcheck source=lib/ladder.sh
source "$script_dir/lib/ladder.sh"
# shellcheck source=lib/launch_price.sh
source "$script_dir/lib/launch_price.sh"
# shellcheck source=lib/stale_claim.sh
source "$script_dir/lib/stale_claim.sh"
# shellcheck source=lib/notices.sh
source "$script_dir/lib/notices.sh"
# shellcheck source=lib/run_id.sh
source "$script_dir/lib/run_id.sh"
# shellcheck source=lib/resume.sh
source "$script_dir/lib/resume.sh"
# shellcheck source=lib/outside_switch.sh
source "$script_dir/lib/outside_switch.sh"
# shellcheck source=lib/early_end.sh
source "$script_dir/lib/early_end.sh"
# shellcheck source=lib/quick_aws.sh
source "$script_dir/lib/quick_aws.sh"

environment='' dry_run=false as_json=false resume_from=''
settings='' exports='' bucket='' run_id='' instance_id='' work=''
assignments=()
reserved=false claimed=false handed_over=false switch_tried=false problem=''
readonly CLAIM_ATTEMPTS=3

parse_arguments() {
  while (($# > 0)); do
    case $1 in
      --env | --set | --max-cost | --wait-for-capacity | --resume)
        if (($# < 2)) || [[ -z $2 ]]; then
          log_error "$1 takes a value; see --help"
          exit "$EXIT_USAGE"
        fi
        case $1 in
          --env) environment=$2 ;;
          --resume) resume_from=$2 ;;
          --max-cost) assignments+=("max_cost_usd=$2") ;;
          --wait-for-capacity) assignments+=("$(wait_setting "$2")") ;;
          *) assignments+=("$2") ;;
        esac
        shift 2
        ;;
      --spot) assignments+=(market=spot) && shift ;;
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

# Gathers what the launch needs to know from AWS.
gather_facts() {
  side_by_side require_conditional_writes require_credentials read_exports find_ami gather_prices
  exports=$(cat "$work/read_exports")
  bucket=$(jq -r .BucketName <<<"$exports")
  if [[ $(setting outside_switch) == true ]]; then require_outside_switch "$exports"; fi
  require_cluster
  side_by_side fetch_scripts_manifest fetch_environment_manifest fetch_data_manifest fetch_subnets find_topic require_start_model \
    glance_at_holder
  find_checkpoint "$resume_from" >"$work/find_checkpoint"
}

# A look beside the checks, for the most frequent case: nobody holds the environment.
glance_at_holder() { if is_free "$bucket" "$environment"; then printf 'free\n'; fi; }

find_topic() { heard_topic "$(jq -r '.TopicArn // ""' <<<"$exports")"; }

# Writes the launch's files to $work. Reads run_id and what gather_facts left there.
write_launch_files() {
  local item
  local -a argv=(quick_python -m chronos_ec2.workstation.launch_files --env "$environment" --into "$work")
  for item in "${assignments[@]}"; do argv+=(--set "$item"); done
  # shellcheck disable=SC2016  # a jq program
  jq -n --arg run_id "$run_id" --arg bucket "$bucket" --rawfile caller "$work/require_credentials" --arg topic "$(<"$work/find_topic")" \
    --slurpfile ami "$work/find_ami" --argjson exports "$exports" \
    --arg scripts "$(digest_of "$work/scripts")" --arg data "$(digest_of "$work/training-data")" \
    --slurpfile env "$work/python-env" --slurpfile dataset "$work/training-data" --slurpfile money "$work/gather_prices" \
    --slurpfile subnets "$work/fetch_subnets" --slurpfile resume "$work/find_checkpoint" '
    {run_id: $run_id, bucket: $bucket, requested_by: ($caller | rtrimstr("\n")), ami: $ami[0],
     subnets: $subnets[0], scripts_sha256: $scripts, dataset_sha256: $data,
     environment_archive: $env[0], dataset: $dataset[0], topic_arn: $topic, resume: $resume[0]} + $money[0]' >"$work/facts.json"
  "${argv[@]}" <"$work/facts.json"
}

# Puts one of the launch's files under the run's prefix. <file> <content type>
put_run_file() {
  if ! retry_with_backoff 6 aws s3api put-object --bucket "$bucket" --key "$environment/$run_id/$1" \
    --body "$work/$1" --content-type "$2"; then
    _report_aws_error "writing s3://$bucket/$environment/$run_id/$1"
  fi
}

# Writes the run's record, which nobody else has written: the id is reserved. A refusal answers our own write, made again
# after its answer was lost; by then somebody may have completed the record.
create_run_record() {
  local attempt
  for ((attempt = 0; attempt < 2; attempt++)); do
    if retry_with_backoff 6 aws s3api put-object --bucket "$bucket" --key "$environment/$run_id/run.json" \
      --body "$work/run.json" --content-type application/json --if-none-match '*'; then
      return 0
    fi
    case $AWS_ERROR_CODE in PreconditionFailed | 412) ;; *) break ;; esac
    if retry_with_backoff 3 aws s3api head-object --bucket "$bucket" --key "$environment/$run_id/run.json"; then
      return 0
    fi
  done
  _report_aws_error "writing s3://$bucket/$environment/$run_id/run.json"
}

look_for_holder() { require_claimable "$bucket" "$environment" "$(setting claim_patience_seconds)"; }

# The first look for a holder. Whom the glance has seen is looked at closely only now: what is wrong with the checks is said
# before that.
meet_holder() { if [[ $(<"$work/glance_at_holder") != free ]]; then look_for_holder; fi; }

# Claims the environment: creates the state file, or replaces a stale one by compare-and-swap.
claim() {
  local body attempt status
  body=$(jq -c . "$work/state.json")
  for ((attempt = 0; attempt < CLAIM_ATTEMPTS; attempt++)); do
    # From the attempt on there may be something to give back; a refusal says that there is not.
    claimed=true status=0
    atomic_write_state "$bucket" "$environment" "$body" "$STALE_ETAG" || status=$?
    case $status in 0 | "$EXIT_FAILED") ;; *) claimed=false ;; esac
    if ((status == 0)) && [[ -n $STALE_ETAG ]]; then
      settle_stale_run "$bucket" "$environment"
      tell_end_of "$STALE_RUN"
    fi
    if ((status != EXIT_STATE_CONFLICT)); then return "$status"; fi
    # Another launch was faster, or the holder's own clean-up: look who holds it now.
    look_for_holder || return $?
  done
  log_error "$environment changed hands $CLAIM_ATTEMPTS times while it was being claimed; try again"
  return "$EXIT_HELD"
}

# Called with the instances that EC2 has accepted: without the outside switch they do not stay.
after_acceptance() {
  if [[ $(setting outside_switch) != true ]]; then return 0; fi
  switch_tried=true
  if arm_outside_switches "$exports" "$environment" "$run_id" "$(jq -r .deadline "$work/run.json")" "$@"; then return 0; fi
  problem="the outside switch cannot be armed: $AWS_ERROR_TEXT"
  return "$EXIT_LAUNCH_REFUSED"
}

# Takes back what was made for instances that have come to nothing.
after_loss() {
  if [[ $switch_tried == true ]]; then disarm_outside_switches "$exports" "$environment" "$run_id" "$(setting nodes)"; fi
}

start_instance() {
  local status=0
  climb_ladder || status=$?
  # Who has ended the run has taken its claim and its record over.
  if ((status == EXIT_RUN_KILLED)); then handed_over=true; fi
  return "$status"
}

# The claim is gone before the instance was recorded. Either the run is through already, or somebody has ended it, and then
# nobody waits for its instance.
settle_early_end() {
  if read_early_end "$bucket" "$environment" "$run_id"; then
    log_warn "run $run_id has ended already: $EARLY_OUTCOME; look at it: invoke watch --env $environment --run $run_id"
    return "$EARLY_STATUS"
  fi
  log_error "run $run_id was ended while it was being launched${EARLY_OUTCOME:+ ($EARLY_OUTCOME)}; terminating ${instance_ids[*]}"
  if terminate_accepted; then after_loss; fi
  return "$EARLY_STATUS"
}

# Writes the instance's id where it is looked for. The instance does the same, so a failure here loses nothing.
record_instance() {
  local changes status=0
  changes=$(ladder_record)
  amend_state "$bucket" "$environment" "$run_id" \
    "$(jq -c '{instance_id: .instance.id, instance_type: .instance.type, control: ({deadline} + if .instance.ids then {instance_ids: .instance.ids} else {} end)}' <<<"$changes")" || status=$?
  if ((status == EXIT_NO_SUCH_RUN)); then
    settle_early_end
    return $?
  fi
  if ((status != 0)); then log_warn "the instance's id could not be recorded; the instance does it as well"; fi
  changes=$(with_launch_price "$changes")
  update_run_record "$bucket" "$environment" "$run_id" "$changes" || log_warn "run.json does not name the instance yet"
}

# Gives an unused claim back, with the reason in run.json. <exit status>
release_claim() {
  log_warn "giving the claim on $environment back"
  after_loss
  finish_run_record "$bucket" "$environment" "$run_id" launch_failed launch "${problem:-the launcher ended early}" "$1" \
    "{\"attempts\": $LADDER_ATTEMPTS}" || true
  transition_state "$bucket" "$environment" "$run_id" failed launch \
    && transition_state "$bucket" "$environment" "$run_id" cleanup cleanup || true
  delete_state "$bucket" "$environment" "$run_id" || log_error "the claim could not be given back; free it with: invoke kill --env $environment"
  drop_staged_states "$bucket" "$environment" "$run_id"
  # Whoever interrupts a launch knows; one that has waited for capacity may have nobody before it any more.
  case $1 in "$EXIT_INTERRUPTED" | "$EXIT_TERMINATED") ;; *) tell_end_of "$run_id" ;; esac
}

# Tells the topic of an end that is in run.json. <run_id>
tell_end_of() { notify "$(<"$work/find_topic")" "$bucket" "$environment" "$1" end; }

# A launch that came to no claim was no run: its record and its id go.
withdraw() {
  if ! retry_with_backoff 3 aws s3api delete-object --bucket "$bucket" --key "$environment/$run_id/run.json"; then
    log_warn "s3://$bucket/$environment/$run_id/run.json could not be deleted: $AWS_ERROR_TEXT"
  fi
  release_run_id "$bucket" "$run_id"
}

on_exit() {
  local status=$?
  set +e
  trap - EXIT
  # What is to be given back is given back also when nobody is there any more to read about it.
  trap '' TERM INT HUP PIPE
  if [[ $handed_over == true && -z $EARLY_OUTCOME ]]; then
    case $status in
      "$EXIT_INTERRUPTED" | "$EXIT_TERMINATED")
        log_warn "run $run_id goes on: EC2 has accepted ${instance_ids[*]}; end it with: invoke kill --env $environment"
        ;;
    esac
  fi
  if [[ $claimed == true && $handed_over == false ]]; then
    release_claim "$status"
  elif [[ $reserved == true && $claimed == false ]]; then
    withdraw
  fi
  if [[ -n $work ]]; then rm -rf "${work:?}"; fi
  exit "$status"
}

print_plan() {
  local node
  printf '# user data (%d bytes)\n' "$(wc -c <"$work/user_data.sh")"
  cat "$work/user_data.sh"
  printf '\n# calls that would change something\n'
  print_command aws s3api put-object --bucket "$bucket" --key "$(phase_log_key "$run_id")" --if-none-match '*'
  print_command aws s3api put-object --bucket "$bucket" --key "$environment/$run_id/run.json" --if-none-match '*'
  print_command aws s3api copy-object --bucket "$bucket" --key "$environment/system-state.json" --if-none-match '*'
  print_command aws s3api put-object --bucket "$bucket" --key "$environment/$run_id/config.yaml"
  printf '# one of these, tried in this order until one has capacity\n'
  print_ladder
  if [[ $(setting outside_switch) == true ]]; then
    for ((node = 0; node < $(setting nodes); node++)); do
      print_command aws scheduler create-schedule --cli-input-json \
        "$(outside_switch_request "$exports" "$environment" "$run_id" i-… "$(jq -r .deadline "$work/run.json")" "$node")"
    done
  fi
}

report() {
  local prefix="s3://$bucket/$environment/$run_id/"
  if [[ -z $EARLY_OUTCOME ]]; then log_info "run $run_id: instance ${instance_ids[*]} ($(pool_words)) is starting; results will be in $prefix"; fi
  log_info "follow it: invoke watch --env $environment    end it: invoke kill --env $environment"
  if [[ $as_json == true ]]; then
    # shellcheck disable=SC2016  # a jq program
    jq -cn --arg run "$run_id" --arg id "$instance_id" --arg env "$environment" --arg prefix "$prefix" \
      --slurpfile money "$work/gather_prices" --args \
      '{run_id: $run, instance_id: $id, environment: $env, s3_prefix: $prefix, estimate: $money[0].estimate}
        + if ($ARGS.positional | length) > 1 then {instance_ids: $ARGS.positional} else {} end' "${instance_ids[@]}"
  fi
}

main() {
  parse_arguments "$@"
  trap on_exit EXIT
  trap 'exit "$EXIT_TERMINATED"' TERM HUP
  trap 'exit "$EXIT_INTERRUPTED"' INT
  require_workstation
  work=$(mktemp -d)
  # What a signal leaves half done goes with it.
  export TMPDIR=$work
  start_quick_aws "$work"
  settings=$(load_settings "$environment" "${assignments[@]}")
  environment=$(setting environment)
  use_aws_settings "$settings"
  gather_facts
  if [[ $dry_run == true ]]; then
    meet_holder || log_warn "a launch would be refused now"
    run_id=$(new_run_id)
    write_launch_files
    print_plan
    return 0
  fi
  meet_holder
  reserve_run_id "$bucket" "$environment" look_for_holder
  reserved=true
  write_launch_files
  # The record comes before the claim: whatever holds the environment has one.
  create_run_record
  claim
  log_info "run $run_id holds $environment"
  put_run_file config.yaml application/yaml
  start_instance
  record_instance
  report
}

main "$@"
