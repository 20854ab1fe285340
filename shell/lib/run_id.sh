# shellcheck shell=bash disable=SC2034  # run_id is the launch script's
# A run's id is the second of its launch. Two launches of one second, of whatever environments, must not share it:
# it is reserved by the create-only write of the run's phase log, whose path has no environment in it.
[[ -n ${_CHRONOS_RUN_ID:-} ]] && return 0
readonly _CHRONOS_RUN_ID=1

_run_id_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=state_helpers.sh
source "$_run_id_lib_dir/state_helpers.sh"

readonly _RUN_ID_ATTEMPTS=60

new_run_id() { TZ=UTC printf '%(%Y-%m-%d-%H%M%S)T\n' -1; }

phase_log_key() { printf 'logs/%s/phase_logs.json\n' "$1"; }

# Sets the variable `run_id` to an id that no other run has. <bucket> <env> <command to run before each further try>
# Returns 0; what the command returned when it failed; EXIT_STATE_CONFLICT when every second was taken.
reserve_run_id() {
  local bucket=$1 environment=$2 attempt writer candidate
  writer=$(random_nonce) || return $?
  for ((attempt = 0; attempt < _RUN_ID_ATTEMPTS; attempt++)); do
    if ((attempt > 0)); then
      sleep "$(_backoff_seconds 2)"
      "$3" || return $?
    fi
    candidate=$(new_run_id)
    if _reserve "$bucket" "$environment" "$candidate" "$writer"; then
      run_id=$candidate
      return 0
    fi
    case $AWS_ERROR_CODE in PreconditionFailed | 412) ;; *)
      _report_aws_error "writing s3://$bucket/$(phase_log_key "$candidate")"
      return $?
      ;;
    esac
  done
  log_error "$_RUN_ID_ATTEMPTS seconds in a row were taken by other launches; try again"
  return "$EXIT_STATE_CONFLICT"
}

# <bucket> <env> <run_id> <writer>
_reserve() {
  local file status=0 key
  key=$(phase_log_key "$3")
  file=$(mktemp) || return $?
  # shellcheck disable=SC2016  # a jq program
  jq -n --arg run "$3" --arg env "$2" --arg writer "$4" \
    '{run_id: $run, environment: $env, reserved_by: $writer, phases: []}' >"$file"
  retry_with_backoff 6 aws s3api put-object --bucket "$1" --key "$key" --body "$file" --content-type application/json \
    --tagging chronos-class=log --if-none-match '*' || status=$?
  # A refusal may answer our own write, made again after its answer was lost: the nonce tells.
  case $AWS_ERROR_CODE in PreconditionFailed | 412)
    if retry_with_backoff 6 aws s3api get-object --bucket "$1" --key "$key" "$file" \
      && [[ $(jq -r .reserved_by "$file" 2>/dev/null) == "$4" ]]; then
      status=0
    else
      AWS_ERROR_CODE=PreconditionFailed
    fi
    ;;
  esac
  rm -f "$file"
  return "$status"
}

# Gives an id back that no run came to use. <bucket> <run_id>
release_run_id() {
  retry_with_backoff 3 aws s3api delete-object --bucket "$1" --key "$(phase_log_key "$2")" \
    || log_warn "s3://$1/$(phase_log_key "$2") could not be deleted; a lifecycle rule does it"
}
