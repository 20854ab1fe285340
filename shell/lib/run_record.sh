# shellcheck shell=bash
# run.json: the record of a run that outlives its state file. Written by the launch, completed here, once.
[[ -n ${_CHRONOS_RUN_RECORD:-} ]] && return 0
readonly _CHRONOS_RUN_RECORD=1

_run_record_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=state_helpers.sh
source "$_run_record_lib_dir/state_helpers.sh"

# Merges changes into a run's record, unless the record has its end already. With its end comes its cost.
# <bucket> <env> <run_id> <json object of changes>   Sets RUN_RECORD to what was written.
update_run_record() {
  local bucket=$1 key="$2/$3/run.json" changes=$4 file record etag race
  file=$(mktemp) || return $?
  for ((race = 0; race < 4; race++)); do
    if ! retry_with_backoff 6 aws s3api get-object --bucket "$bucket" --key "$key" "$file"; then
      rm -f "$file"
      _report_aws_error "reading s3://$bucket/$key"
      return $?
    fi
    etag=$(jq -r .ETag <<<"$AWS_OUTPUT")
    if [[ $(jq '.ended_at != null' "$file" 2>/dev/null) == true ]]; then
      rm -f "$file"
      return 0
    fi
    # shellcheck disable=SC2016  # a jq program
    if ! record=$(jq -L "$_run_record_lib_dir" --argjson changes "$changes" \
      'include "run_cost"; . * $changes | no_later_than_the_switches | with_cost' "$file") || [[ -z $record ]]; then
      rm -f "$file"
      log_error "s3://$bucket/$key is not a JSON object; it is left as it is"
      return "$EXIT_STATE_UNREADABLE"
    fi
    if retry_with_backoff 6 _put_text "$bucket" "$key" "$record" --if-match "$etag"; then
      # shellcheck disable=SC2034  # read by the report
      RUN_RECORD=$record
      rm -f "$file"
      return 0
    fi
    case $AWS_ERROR_CODE in PreconditionFailed | 412) ;; *) break ;; esac
  done
  rm -f "$file"
  _report_aws_error "writing s3://$bucket/$key"
}

# Prints what the state last read tells of a run that did not live to record its end: its timeline, as an object for the record.
told_by_state() { jq -c '{timeline: (.control.timeline | objects)} // {}' <<<"$STATE_JSON"; }

# Writes a run's end. <bucket> <env> <run_id> <outcome> <failed step or ''> <error or ''> <exit code or ''> [more json]
finish_run_record() {
  local more=${8:-'{}'} end
  # shellcheck disable=SC2016  # a jq program
  end=$(jq -cn --arg outcome "$4" --arg step "$5" --arg error "$6" --arg code "$7" --arg now "$(utc_now)" --argjson more "$more" '
    def or_null: if . == "" then null else . end;
    {ended_at: $now, outcome: $outcome, failed_step: ($step | or_null), error: ($error | or_null),
     exit_code: ($code | if . == "" then null else tonumber end)} + $more') || return $?
  update_run_record "$1" "$2" "$3" "$end"
}
