# shellcheck shell=bash disable=SC2154,SC2034  # the launch script's variables
# One pool of EC2 capacity: asks it for the run's instances by one request, never twice, and sees them start.
#
# The pool stands in pool_type, pool_subnet, pool_zone, pool_market, pool_quota_code and pool_quota_name.
# Reads the launch script's `run_id`, `environment`, `work`, `settings` and `exports`; sets its `instance_id` (the
# first node's), `instance_ids` (all nodes', in the order of their ranks) and `handed_over` (true while an instance holds the
# claim). The script may define `after_acceptance` and `after_loss`, called with the instances' ids when EC2 has accepted
# them, and when it has ended one at the start.
[[ -n ${_CHRONOS_POOL:-} ]] && return 0
readonly _CHRONOS_POOL=1

_pool_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=launch_facts.sh
source "$_pool_lib_dir/launch_facts.sh"
# shellcheck source=launch_errors.sh
source "$_pool_lib_dir/launch_errors.sh"
# shellcheck source=kept_claim.sh
source "$_pool_lib_dir/kept_claim.sh"

# Seconds that a new instance profile may be unknown to EC2; that an instance may be pending; between two looks.
readonly PROFILE_PATIENCE=60 START_PATIENCE=180 START_LOOK=2
# Looks for an instance whose acceptance was never heard of, and the seconds between them: EC2 shows it a little late.
readonly FIND_LOOKS=6 FIND_LOOK=4

instance_ids=()

# How many machines the run wants.
wanted_nodes() { jq -r '.nodes // 1' <<<"$settings"; }

# Sets instance_id and instance_ids from a JSON array of instances, in EC2's own order. <json>
_take_instances() {
  mapfile -t instance_ids < <(jq -r 'sort_by(.AmiLaunchIndex // 0)[].InstanceId // empty' <<<"$1" 2>/dev/null)
  instance_id=${instance_ids[0]:-}
}

# Prints the idempotency token of an attempt at the pool, as workstation/pools.py does. <attempt>
pool_token() { printf '%s' "$run_id|$pool_type|$pool_subnet|$pool_market|$1" | sha256_of_input; }

# The pool in words.
pool_words() { printf '%s %s %s\n' "$pool_type" "${pool_zone:-$pool_subnet}" "$pool_market"; }

# Fills the array `run_instances`: the one call that costs money. <token>
plan_run_instances() {
  local words
  words=$(jq -nr --arg project "$TAG_PROJECT" --arg env "$environment" --arg run_id "$run_id" --arg token "$1" \
    --arg type "$pool_type" --arg subnet "$pool_subnet" --arg market "$pool_market" --arg user_data "$work/user_data.sh" \
    --arg deadline "$(jq -r .deadline "$work/run.json")" \
    --argjson settings "$settings" --argjson exports "$exports" --slurpfile facts "$work/facts.json" \
    -f "$_pool_lib_dir/run_instances.jq") || return $?
  mapfile -t run_instances <<<"aws"$'\n'"$words"
}

# Tries the pool. <attempt at this pool, from 1>
# Returns 0 when the run has its instance; EXIT_FAILED with REFUSAL_… set when the pool gave none; EXIT_LAUNCH_REFUSED when
# the script itself gave the instance up.
try_pool() {
  local token
  token=$(pool_token "$1")
  _request_instance "$token" || return "$EXIT_FAILED"
  handed_over=true
  if declare -F after_acceptance >/dev/null && ! after_acceptance "${instance_ids[@]}"; then
    if end_instances; then
      problem+="; the instance was terminated"
    else
      problem+="; the instance could not be terminated and goes on: ${instance_ids[*]}"
    fi
    return "$EXIT_LAUNCH_REFUSED"
  fi
  _see_them_start && return 0
  if ((${#instance_ids[@]} > 1)); then _end_the_rest || return $?; fi
  if declare -F after_loss >/dev/null; then after_loss "${instance_ids[@]}" || true; fi
  instance_id='' instance_ids=() handed_over=false
  return "$EXIT_FAILED"
}

# Terminates the instances that were just accepted, each by itself: EC2 ends none of several when it refuses one. It may not know
# one yet that is some seconds old.   Returns 0, or EXIT_FAILED after having said why.
terminate_accepted() {
  local end=$((SECONDS + START_PATIENCE)) id status=0
  local -a left=("${instance_ids[@]}") unknown
  while true; do
    unknown=()
    for id in "${left[@]}"; do
      if retry_with_backoff 6 aws ec2 terminate-instances --instance-ids "$id" --output json; then continue; fi
      if [[ $AWS_ERROR_CODE == InvalidInstanceID.NotFound ]] && ((SECONDS < end)); then
        unknown+=("$id")
      else
        log_error "$id could not be terminated: $AWS_ERROR_TEXT; run invoke reap --env $environment"
        status=$EXIT_FAILED
      fi
    done
    if ((${#unknown[@]} == 0)); then return "$status"; fi
    left=("${unknown[@]}")
    sleep "$START_LOOK"
  done
}

# The same for instances that nobody may use. One that does not go keeps the claim: it runs, and ends itself at its deadline.
end_instances() {
  terminate_accepted || return $?
  handed_over=false
}

# One of several ended at its start: ends the others, and waits until they are gone. What of this attempt still lived could
# write into the run of the next one.   Returns 0; EXIT_LAUNCH_REFUSED with `problem` set when they do not go.
_end_the_rest() {
  local end=$((SECONDS + START_PATIENCE))
  log_warn "one of ${#instance_ids[@]} machines ended at its start; ending the others"
  end_instances || true
  while ((SECONDS < end)); do
    if retry_with_backoff 3 aws ec2 describe-instances --instance-ids "${instance_ids[@]}" --output json \
      && jq -e 'all(.Reservations[].Instances[]; .State.Name == "terminated")' <<<"$AWS_OUTPUT" >/dev/null; then
      return 0
    fi
    keep_claim || true
    sleep "$START_LOOK"
  done
  problem="one of ${#instance_ids[@]} machines ended at its start ($REFUSAL_WORDS), and the others do not go: ${instance_ids[*]}"
  log_error "$problem; run invoke kill --env $environment"
  handed_over=true
  return "$EXIT_LAUNCH_REFUSED"
}

# Asks EC2 for the instances. <token>   Returns 0 with instance_id and instance_ids set; 1 with REFUSAL_… set.
_request_instance() {
  local -a run_instances
  local end=$((SECONDS + PROFILE_PATIENCE))
  plan_run_instances "$1"
  instance_id='' instance_ids=()
  while true; do
    # EC2 says with status 500 that it has no capacity, and the CLI would ask again: here only what is transient is.
    if AWS_MAX_ATTEMPTS=1 retry_with_backoff 6 "${run_instances[@]}"; then
      _take_instances "$(jq -c .Instances <<<"$AWS_OUTPUT" 2>/dev/null)"
      if [[ $instance_id == i-* ]]; then return 0; fi
      note_refusal errors '' "the AWS CLI's answer names no instance: $AWS_OUTPUT"
      break
    fi
    note_refusal errors "$AWS_ERROR_CODE" "$AWS_ERROR_TEXT"
    if [[ $REFUSAL_KIND != profile ]] || ((SECONDS >= end)); then break; fi
    log_warn "EC2 does not know the instance profile yet; asking again"
    sleep 5
  done
  [[ $REFUSAL_KIND == unknown ]] && _find_instance "$1"
}

# An answer that never came may hide instances, so they are looked for by their token, which no other has. <token>
# Returns 0 with instance_id and instance_ids set (fewer when EC2 does not show all), the instance's own end being seen later; 1 when EC2 shows none, which proves nothing.
_find_instance() {
  local look wanted
  wanted=$(wanted_nodes)
  log_warn "run-instances has no certain answer ($(plain_error_text "$REFUSAL_TEXT")); looking whether there is an instance"
  for ((look = 0; look < FIND_LOOKS; look++)); do
    if ((look > 0)); then sleep "$FIND_LOOK"; fi
    retry_with_backoff 6 aws ec2 describe-instances --filters "Name=client-token,Values=$1" --output json || continue
    _take_instances "$(jq -c '[.Reservations[].Instances[]]' <<<"$AWS_OUTPUT")"
    if ((${#instance_ids[@]} >= wanted)); then break; fi
  done
  if [[ -z $instance_id ]]; then return 1; fi
  log_info "EC2 has the instance: ${instance_ids[*]}"
}

# Follows the accepted instances until none is pending. Returns 0 when they started, or when EC2 does not say in time; 1 with
# REFUSAL_… set when EC2 has ended one.
_see_them_start() {
  local end=$((SECONDS + START_PATIENCE)) found state code text
  while true; do
    if retry_with_backoff 3 aws ec2 describe-instances --instance-ids "${instance_ids[@]}" --output json; then
      # The one that says most: what has ended, else what is pending, else what runs.
      found=$(jq -r '[.Reservations[].Instances[]]
        | sort_by(.State.Name as $state | ["terminated", "shutting-down", "pending"] | index($state) // 3) | first // {}
        | [.State.Name // "pending", .StateReason.Code // "", .StateReason.Message // .StateTransitionReason // ""]
        | map(gsub("[\n\u001f]"; " ")) | join("\u001f")' <<<"$AWS_OUTPUT")
      IFS=$FIELD_END read -r state code text <<<"$found"
      case $state in
        pending) ;;
        shutting-down | terminated) if [[ -n $code || $state == terminated ]]; then
          note_refusal state_reasons "${code:-Unexplained}" "$text"
          # It ran, or somebody ended it: that is the run's story, which its record and `invoke watch` tell.
          [[ $REFUSAL_KIND == ended ]] || return "$EXIT_FAILED"
          return 0
        fi ;;
        *) return 0 ;;
      esac
    elif [[ $AWS_ERROR_CODE != InvalidInstanceID.NotFound ]]; then
      log_warn "whether ${instance_ids[*]} starts cannot be seen: $(plain_error_text "$AWS_ERROR_TEXT")"
      return 0
    fi
    if ((SECONDS >= end)); then
      log_warn "${instance_ids[*]} is still pending after $START_PATIENCE s; it is left to itself"
      return 0
    fi
    keep_claim || true
    sleep "$START_LOOK"
  done
}
