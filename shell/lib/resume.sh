# shellcheck shell=bash disable=SC2154  # environment, bucket, work and assignments are the launch script's
# Whether a launch can go on from another run's checkpoint.
# Reads the launch script's `environment`, `bucket`, `work` (with the manifests in it) and `assignments`.
[[ -n ${_CHRONOS_RESUME:-} ]] && return 0
readonly _CHRONOS_RESUME=1

_resume_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=launch_facts.sh
source "$_resume_lib_dir/launch_facts.sh"

# Prints {run_id, step} of the checkpoint to go on from, null when the launch is not asked to. <run id or ''>
find_checkpoint() {
  local python item found
  if [[ -z $1 ]]; then
    printf 'null\n'
    return 0
  fi
  python=$(chronos_python) || return $?
  local -a argv=("$python" -m chronos_ec2.workstation.resume --env "$environment" --bucket "$bucket" --run-id "$1"
    --dataset-sha256 "$(digest_of "$work/training-data")" --environment-sha256 "$(jq -r .sha256 "$work/python-env")")
  for item in "${assignments[@]}"; do argv+=(--set "$item"); done
  found=$("${argv[@]}") || return $?
  log_info "going on from step $(jq -r .step <<<"$found") of run $1"
  printf '%s\n' "$found"
}
