# shellcheck shell=bash disable=SC2154,SC2034  # bucket, environment and run_id are the launch script's
# A launch that takes long keeps its claim alive: a claim that was not written for claim_patience_seconds is stale.
[[ -n ${_CHRONOS_KEPT_CLAIM:-} ]] && return 0
readonly _CHRONOS_KEPT_CLAIM=1

_kept_claim_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=state_helpers.sh
source "$_kept_claim_lib_dir/state_helpers.sh"

readonly CLAIM_RENEWAL_SECONDS=45 NEVER=-1000000
# When the claim was written last, by this shell's SECONDS; NEVER makes the next look renew it.
claim_renewed_at=$SECONDS
# What the launch is at; `invoke watch` shows it.
claim_step=launch

# Writes the claim again when that is due. Reads the launch script's `bucket`, `environment` and `run_id`.
# Returns 0; EXIT_RUN_KILLED when the run was ended by somebody else; another code when the claim could not be renewed.
keep_claim() {
  local status=0
  if ((SECONDS - claim_renewed_at < CLAIM_RENEWAL_SECONDS)); then return 0; fi
  amend_state "$bucket" "$environment" "$run_id" "{\"current_step\": \"$claim_step\"}" || status=$?
  if ((status == EXIT_NO_SUCH_RUN)) || { ((status == 0)) && [[ $(jq -r .status <<<"$STATE_JSON") != initialization ]]; }; then
    log_error "run $run_id was ended while it was being launched"
    return "$EXIT_RUN_KILLED"
  fi
  if ((status != 0)); then
    log_warn "the claim on $environment could not be renewed"
    return "$status"
  fi
  claim_renewed_at=$SECONDS
}
