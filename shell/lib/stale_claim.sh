# shellcheck shell=bash disable=SC2034,SC2153  # the results are the launch script's; STATE_ETAG is state_helpers.sh's
# Who holds an environment, and whether EC2 proves that claim stale: a new launch then takes it over.
[[ -n ${_CHRONOS_STALE_CLAIM:-} ]] && return 0
readonly _CHRONOS_STALE_CLAIM=1

_stale_claim_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=workstation.sh
source "$_stale_claim_lib_dir/workstation.sh"

STALE_ETAG=''
STALE_RUN=''
STALE_STEP=''
STALE_ERROR=''
STALE_OUTCOME=''
STALE_TOLD='{}'

# Whether the state last read was written longer ago than a launch takes from its claim to its instance. <seconds>
_claim_is_old() {
  local written
  written=$(jq -r '.timestamps.last_update | fromdateiso8601' <<<"$STATE_JSON") || return $?
  (($(date +%s) - written > $1))
}

# Prints how long the run of the state last read has held its environment, and what it has cost so far, as far as its record
# tells. <bucket> <env> <run_id>
_held_so_far() {
  local file
  file=$(mktemp) || return $?
  retry_with_backoff 2 aws s3api get-object --bucket "$1" --key "$2/$3/run.json" "$file" || : >"$file"
  # shellcheck disable=SC2016  # a jq program
  jq -Rrs -L "$_stale_claim_lib_dir" --argjson state "$STATE_JSON" '
    include "words"; include "run_cost";
    (try (fromjson | objects) catch null) as $record
    | ([now - ($state.timestamps.start | fromdateiso8601), 0] | max | span) as $age
    | ($record // {} | .ended_at = (now | floor | todateiso8601) | .outcome = "running"
        | if (.instance | type) == "object" then .instance.id //= $state.instance_id else . end
        | with_cost | .cost_usd.total) as $usd
    | "It is \($age) old and \(if $usd == null then "what it has cost so far is not known" else "has cost \($usd | dollars) so far" end)"' "$file" \
    || printf 'How old it is and what it has cost is not known\n'
  rm -f "$file"
}

# Whether an environment may be claimed: it is free, or its holder's instance is proven gone (then STALE_ETAG is the claim
# to replace, STALE_RUN and STALE_STEP whose it was, STALE_ERROR what its machine had said, STALE_TOLD how far
# it had come). Says who holds it otherwise. <bucket> <env> <seconds that a claim whose instance EC2 does not know is respected>
# Returns 0; EXIT_HELD; EXIT_STATE_UNREADABLE; EXIT_S3_DENIED; …
require_claimable() {
  local bucket=$1 environment=$2 patience=$3 status=0 words holder fate nodes
  STALE_ETAG='' STALE_RUN='' STALE_STEP='' STALE_ERROR='' STALE_TOLD='{}'
  words=$(mktemp) || return $?
  # Not $(…): STATE_JSON and STATE_ETAG are wanted here.
  check_concurrent_run "$bucket" "$environment" >"$words" || status=$?
  holder=$(<"$words")
  rm -f "$words"
  if ((status == EXIT_STATE_UNREADABLE)); then
    log_error "the state file cannot be read; look at it, then free the environment with: invoke kill --env $environment"
  fi
  if ((status != EXIT_HELD)); then return "$status"; fi
  STALE_RUN=$(jq -r .run_id <<<"$STATE_JSON")
  STALE_STEP=$(jq -r '.current_step | if test("^(step|epoch)_[0-9]+$") then "training" else . end' <<<"$STATE_JSON")
  STALE_ERROR=$(jq -r '.error_message // ""' <<<"$STATE_JSON")
  STALE_TOLD=$(told_by_state)
  nodes=$(jq -r '.control.nodes // 1' <<<"$STATE_JSON")
  if ((nodes > 1)); then
    fate=$(nodes_fate "$environment" "$STALE_RUN" "$nodes")
  else
    fate=$(instance_fate "$environment" "$STALE_RUN" "$(jq -r '.instance_id // ""' <<<"$STATE_JSON")")
  fi
  # shellcheck disable=SC2016  # a jq program
  STALE_OUTCOME=$(jq -r --arg fate "$fate" 'if $fate == "taken" or .control.interruption then "interrupted" else "lost" end' <<<"$STATE_JSON")
  # EC2 shows a new instance only after a while: one that it does not know is proof only of an old claim.
  if [[ $fate == gone || $fate == taken ]] || { [[ $fate == missing ]] && _claim_is_old "$patience"; }; then
    log_warn "$holder. EC2 says that its instance is gone: the claim is stale, a launch takes it over"
    STALE_ETAG=$STATE_ETAG
    return 0
  fi
  log_error "$holder. $(_held_so_far "$bucket" "$environment" "$STALE_RUN"). EC2 says of its instance: $fate. Follow it with invoke watch --env $environment, end it with invoke kill --env $environment"
  return "$EXIT_HELD"
}

# Whether no run holds the environment, without a word about one that does. <bucket> <env>
is_free() {
  local status=0
  read_state "$1" "$2" 2>/dev/null || status=$?
  ((status == EXIT_NO_SUCH_RUN))
}

# Prints the step of the newest checkpoint in S3 that has its manifest, nothing when there is none. <bucket> <prefix>
_saved_step() {
  retry_with_backoff 3 aws s3api list-objects-v2 --bucket "$1" --prefix "$2" --output json || return 0
  jq -r '[.Contents // [] | .[].Key | capture("/checkpoint-(?<step>[0-9]+)/manifest[.]json$").step | tonumber] | max // empty' \
    <<<"$AWS_OUTPUT"
}

# Completes the record of the run whose claim was taken over, and drops what it had staged. <bucket> <env>
settle_stale_run() {
  local error='the instance was gone before the run had recorded its end' more=$STALE_TOLD saved=''
  if [[ $STALE_OUTCOME == interrupted || $STALE_ERROR == 'deadline reached'* ]]; then
    saved=$(_saved_step "$1" "$2/$STALE_RUN/checkpoints/")
    # shellcheck disable=SC2016  # a jq program
    more=$(jq -c --argjson step "${saved:-null}" '. + {checkpoint_step: $step}' <<<"$more")
  fi
  if [[ $STALE_OUTCOME == interrupted ]]; then
    error='interrupted: EC2 took the spot machine back before the run had recorded its end; '
    if [[ -n $saved ]]; then
      error+="the checkpoint of step $saved is in S3, go on from it: invoke launch --env $2 --resume $STALE_RUN"
    else
      error+='no checkpoint was saved'
    fi
  elif [[ -n $STALE_ERROR ]]; then
    error="$STALE_ERROR; $error"
  fi
  finish_run_record "$1" "$2" "$STALE_RUN" "${STALE_OUTCOME:-lost}" "$STALE_STEP" "$error" '' "$more" || true
  drop_staged_states "$1" "$2" "$STALE_RUN"
}
