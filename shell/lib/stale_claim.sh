# shellcheck shell=bash
# A claim whose instance EC2 proves gone is stale: a new launch takes it over by compare-and-swap.
[[ -n ${_CHRONOS_STALE_CLAIM:-} ]] && return 0
readonly _CHRONOS_STALE_CLAIM=1

_stale_claim_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=workstation.sh
source "$_stale_claim_lib_dir/workstation.sh"

# Whether the state last read was written longer ago than a launch takes from its claim to its instance. <seconds>
_claim_is_old() {
  local written
  written=$(jq -r '.timestamps.last_update | fromdateiso8601' <<<"$STATE_JSON") || return $?
  (($(date +%s) - written > $1))
}

# Takes the environment from the holder in STATE_JSON if its instance is proven gone, else refuses and says who holds it.
# <bucket> <env> <new state json> <the holder in words> <seconds that a claim whose instance EC2 does not know is respected>
# Returns 0; EXIT_HELD; EXIT_STATE_CONFLICT when another launch was faster.
take_over_stale_claim() {
  local bucket=$1 environment=$2 body=$3 holder=$4 old_run old_instance old_step fate
  # check_concurrent_run ran in a subshell: read again, so that the ETag is at hand.
  read_state "$bucket" "$environment" || return "$EXIT_STATE_CONFLICT"
  old_run=$(jq -r .run_id <<<"$STATE_JSON")
  old_instance=$(jq -r '.instance_id // ""' <<<"$STATE_JSON")
  old_step=$(jq -r .current_step <<<"$STATE_JSON")
  fate=$(instance_fate "$environment" "$old_run" "$old_instance")
  # EC2 shows a new instance only after a while: one that it does not know is proof only of an old claim.
  if [[ $fate != gone ]] && { [[ $fate != missing ]] || ! _claim_is_old "$5"; }; then
    log_error "$holder. EC2 says of its instance: $fate. Follow it with invoke watch, end it with invoke kill"
    return "$EXIT_HELD"
  fi
  log_warn "$holder. EC2 says that its instance is gone: the claim is stale and is taken over"
  atomic_write_state "$bucket" "$environment" "$body" "$STATE_ETAG" || return $?
  finish_run_record "$bucket" "$environment" "$old_run" lost "$old_step" \
    "the instance was gone before the run had recorded its end" '' || true
  drop_staged_states "$bucket" "$environment" "$old_run"
}
