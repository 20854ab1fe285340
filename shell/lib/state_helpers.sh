# shellcheck shell=bash
# The state file s3://BUCKET/ENV/system-state.json: read it, compare-and-swap it, delete it.
#
# A write stages the new body at a temporary key, checks it against the schema and publishes it with one
# CopyObject that carries If-None-Match:* (create) or If-Match:ETag (update), so of many writers one wins.
# python/chronos_ec2/state/store.py does the same; both read state_machine.json.
#
# Results of the last read or write stand in STATE_JSON and STATE_ETAG.
# Every call of AWS goes by retry_with_backoff, which comes with this, from aws_call.sh.
# Return codes are those of exit_codes.sh. Sourced by the launch, kill and bootstrap scripts.
[[ -n ${_CHRONOS_STATE_HELPERS:-} ]] && return 0
readonly _CHRONOS_STATE_HELPERS=1

_state_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=aws_call.sh
source "$_state_lib_dir/aws_call.sh"
# shellcheck source=package_file.sh
source "$_state_lib_dir/package_file.sh"

STATE_JSON=''
STATE_ETAG=''
readonly _STATE_RACES=6 _STATE_TRIES=6 _PATIENT_TRIES=18
_state_tries=$_STATE_TRIES
_state_s5cmd=()

# The one table of transitions and fields.
_state_table() { package_file state/state_machine.json; }

# Has this process's calls about the state outlast an S3 that is away for a minute, where they gave up after half of one. A
# process that has waited in vain does not wait so long again.
be_patient() { _state_tries=$_PATIENT_TRIES; }

# Makes a call about the state, as often as this process has patience for. <command…>   As retry_with_backoff.
_try_for_state() {
  local status=0
  retry_with_backoff "$_state_tries" "$@" || status=$?
  if ((status != 0 && AWS_TRIES == _PATIENT_TRIES)); then _state_tries=$_STATE_TRIES; fi
  return "$status"
}

# Checks a state body against the schema; says what is wrong. <json>
validate_state() {
  local table problems
  # No input is no error to jq.
  if [[ -z ${1//[[:space:]]/} ]]; then
    log_error "state file: it is empty"
    return "$EXIT_STATE_UNREADABLE"
  fi
  table=$(_state_table) || return $?
  if ! problems=$(jq -r --slurpfile table "$table" -f "$_state_lib_dir/state_schema.jq" <<<"$1" 2>&1); then
    log_error "state file: cannot be checked: $problems"
    return "$EXIT_STATE_UNREADABLE"
  fi
  if [[ -n $problems ]]; then
    log_error "state file: ${problems//$'\n'/; }"
    return "$EXIT_STATE_UNREADABLE"
  fi
}

# Reads the state file into STATE_JSON and STATE_ETAG. <bucket> <env>
# Returns 0; EXIT_NO_SUCH_RUN when there is none; EXIT_STATE_UNREADABLE; EXIT_S3_DENIED.
read_state() {
  local bucket=$1 environment=$2 body
  STATE_JSON='' STATE_ETAG=''
  body=$(mktemp) || return "$EXIT_FAILED"
  if ! _try_for_state aws s3api get-object --bucket "$bucket" --key "$environment/system-state.json" "$body"; then
    rm -f "$body"
    case $AWS_ERROR_CODE in NoSuchKey | 404) return "$EXIT_NO_SUCH_RUN" ;; esac
    _report_aws_error "reading s3://$bucket/$environment/system-state.json"
    return $?
  fi
  STATE_ETAG=$(jq -r '.ETag // ""' <<<"$AWS_OUTPUT" 2>/dev/null) || STATE_ETAG=''
  if [[ -z $STATE_ETAG ]]; then
    rm -f "$body"
    log_error "the AWS CLI's answer has no ETag; it must answer in JSON: $AWS_OUTPUT"
    return "$EXIT_FAILED"
  fi
  if ! STATE_JSON=$(jq -ce . "$body" 2>/dev/null) || [[ $STATE_JSON == *$'\n'* ]]; then
    STATE_JSON=''
    rm -f "$body"
    log_error "s3://$bucket/$environment/system-state.json is not JSON"
    return "$EXIT_STATE_UNREADABLE"
  fi
  rm -f "$body"
  validate_state "$STATE_JSON"
}

# Makes the next transition read the file first.
forget_state() { STATE_JSON='' STATE_ETAG=''; }

# Publishes a body as the state file, by compare-and-swap. <bucket> <env> <json> <etag to match, or '' to create>
# Returns 0 with STATE_JSON and STATE_ETAG set; EXIT_STATE_CONFLICT when another writer won.
atomic_write_state() {
  local bucket=$1 environment=$2 body=$3 expected=$4
  local key="$environment/system-state.json" writer staged status
  validate_state "$body" || return $?
  writer=$(jq -r .control.writer <<<"$body")
  staged="$key.tmp-$writer"
  if ! _stage "$bucket" "$staged" "$body"; then
    _report_aws_error "writing s3://$bucket/$staged"
    return $?
  fi
  local -a condition=(--if-none-match '*')
  if [[ -n $expected ]]; then condition=(--if-match "$expected"); fi
  if _try_for_state aws s3api copy-object --bucket "$bucket" --key "$key" \
    --copy-source "$bucket/$staged" "${condition[@]}"; then
    STATE_JSON=$body
    STATE_ETAG=$(jq -r .CopyObjectResult.ETag <<<"$AWS_OUTPUT")
    status=0
  else
    _settle_refused_write "$bucket" "$environment" "$writer" "$expected" && status=0 || status=$?
  fi
  # A writer that dies before this leaves its body staged: drop_staged_states, or after a day a lifecycle rule, drops it.
  _run_s5cmd rm --raw "s3://$bucket/$staged" \
    || aws s3api delete-object --bucket "$bucket" --key "$staged" >/dev/null 2>&1 || true
  return "$status"
}

# Has bodies staged and dropped by s5cmd, which starts much sooner than the AWS CLI. What it fails at, the CLI does. It
# knows no conditions, so it publishes nothing. <s5cmd and its options…>
stage_by() { _state_s5cmd=("$@"); }

# Runs a command of s5cmd's, if there is one; what it says is lost. <command…>
_run_s5cmd() {
  # KILL, for it would ignore TERM where the script that starts it does.
  ((${#_state_s5cmd[@]} > 0)) && timeout -s KILL 30 "${_state_s5cmd[@]}" "$@" >/dev/null 2>&1
}

# Writes a body where nobody looks yet. <bucket> <key> <text>
_stage() {
  if ((${#_state_s5cmd[@]} > 0)); then
    note_requests P
    if printf '%s\n' "$3" | _run_s5cmd pipe --raw --content-type application/json --part-size 5 "s3://$1/$2"; then return 0; fi
  fi
  _try_for_state _put_text "$@"
}

# A refused or unanswered write may have landed: the writer nonce tells. <bucket> <env> <writer> <etag it named, or ''>
_settle_refused_write() {
  local code=$AWS_ERROR_CODE text=$AWS_ERROR_TEXT
  if read_state "$1" "$2"; then
    if [[ $(jq -r .control.writer <<<"$STATE_JSON") == "$3" ]]; then return 0; fi
    # Whatever the answer was: another launch has the claim, perhaps one of the same second and so of the same run id.
    if [[ -z $4 ]]; then return "$EXIT_STATE_CONFLICT"; fi
  fi
  case $code in
    PreconditionFailed | 412 | NoSuchKey | 404) return "$EXIT_STATE_CONFLICT" ;;
  esac
  AWS_ERROR_CODE=$code AWS_ERROR_TEXT=$text
  _report_aws_error "publishing s3://$1/$2/system-state.json"
}

# Prints the holder of an environment, if there is one. <bucket> <env>
# Returns 0 when it is free; EXIT_HELD when a run holds it (STATE_JSON is the holder's).
check_concurrent_run() {
  local status
  read_state "$1" "$2" && status=0 || status=$?
  case $status in
    0) ;;
    "$EXIT_NO_SUCH_RUN") return 0 ;;
    *) return "$status" ;;
  esac
  jq -r '"run \(.run_id) holds \(.environment): \(.status) at \(.current_step), since \(.timestamps.start), "
    + "last heard of \(.timestamps.last_update), instance \(.instance_id // "not known yet")"' <<<"$STATE_JSON"
  return "$EXIT_HELD"
}

# Whether the table allows a move; staying is allowed. <from> <to>
is_allowed_transition() {
  local table
  table=$(_state_table) || return $?
  jq -e --arg from "$1" --arg to "$2" \
    '.transitions as $t | ($t | has($from)) and ($t | has($to)) and ($from == $to or ($t[$from] | index($to) != null))' \
    "$table" >/dev/null
}

# Prints 16 hexadecimal digits that nobody else has.
random_nonce() { od -An -N8 -tx1 /dev/urandom | tr -d ' \n'; }

# Merges changes into the state last read, with a new revision and writer. <json object of changes>
_next_state() {
  local writer
  writer=$(random_nonce) || return $?
  # shellcheck disable=SC2016  # a jq program
  jq -c --argjson changes "$1" --arg now "$(utc_now)" --arg writer "$writer" \
    '. * $changes | .timestamps.last_update = $now | .control.writer = $writer | .control.revision += 1' <<<"$STATE_JSON"
}

# Whether the state as last seen is this run's and may become a status. <run_id> <status>
_known_state_allows() {
  local from
  [[ -n $STATE_JSON ]] || return 1
  from=$(jq -r --arg run "$1" 'select(.run_id == $run) | .status' <<<"$STATE_JSON")
  is_allowed_transition "$from" "$2"
}

# Says why the state just read may not become a status. <env> <run_id> <status>
_require_move() {
  local from
  if [[ $(jq -r .run_id <<<"$STATE_JSON") != "$2" ]]; then
    log_warn "the state file of $1 belongs to another run now"
    return "$EXIT_NO_SUCH_RUN"
  fi
  from=$(jq -r .status <<<"$STATE_JSON")
  if ! is_allowed_transition "$from" "$3"; then
    log_error "status $from may not become $3; nothing was changed"
    return "$EXIT_ILLEGAL_TRANSITION"
  fi
}

# Moves a run to a status at a step, whoever else writes meanwhile.
# <bucket> <env> <run_id> <status> <step> [json object of further changes]
# Returns 0; EXIT_NO_SUCH_RUN (gone, or another run's); EXIT_ILLEGAL_TRANSITION; EXIT_STATE_CONFLICT; …
transition_state() {
  local bucket=$1 environment=$2 run_id=$3 status=$4 step=$5 more=${6:-'{}'}
  local changes body race result
  # shellcheck disable=SC2016  # a jq program
  changes=$(jq -cn --arg status "$status" --arg step "$step" --argjson more "$more" \
    '{status: $status, current_step: $step} + $more') || return $?
  for ((race = 0; race < _STATE_RACES; race++)); do
    # What this process wrote last is tried first: it saves a read, and the ETag catches any other writer.
    if ((race > 0)) || ! _known_state_allows "$run_id" "$status"; then
      read_state "$bucket" "$environment" || return $?
      _require_move "$environment" "$run_id" "$status" || return $?
    fi
    body=$(_next_state "$changes") || return $?
    atomic_write_state "$bucket" "$environment" "$body" "$STATE_ETAG" && result=0 || result=$?
    if ((result != EXIT_STATE_CONFLICT)); then return "$result"; fi
    sleep "$(_backoff_seconds "$race")"
  done
  log_error "other writers won $_STATE_RACES times in a row; try again"
  return "$EXIT_STATE_CONFLICT"
}

# Writes changes to a run's state, status and step staying as they are. <bucket> <env> <run_id> <json object of changes>
# Returns 0; EXIT_NO_SUCH_RUN (gone, or another run's); EXIT_STATE_CONFLICT; …
amend_state() {
  local race body result
  for ((race = 0; race < _STATE_RACES; race++)); do
    read_state "$1" "$2" || return $?
    if [[ $(jq -r .run_id <<<"$STATE_JSON") != "$3" ]]; then return "$EXIT_NO_SUCH_RUN"; fi
    body=$(_next_state "$4") || return $?
    atomic_write_state "$1" "$2" "$body" "$STATE_ETAG" && result=0 || result=$?
    if ((result != EXIT_STATE_CONFLICT)); then return "$result"; fi
    sleep "$(_backoff_seconds "$race")"
  done
  return "$EXIT_STATE_CONFLICT"
}

# Deletes a run's state file; a file that is gone, or another run's, is left as it is. <bucket> <env> <run_id>
delete_state() {
  local bucket=$1 environment=$2 run_id=$3 race status
  for ((race = 0; race < _STATE_RACES; race++)); do
    read_state "$bucket" "$environment" && status=0 || status=$?
    if ((status == EXIT_NO_SUCH_RUN)); then return 0; fi
    if ((status != 0)); then return "$status"; fi
    if [[ $(jq -r .run_id <<<"$STATE_JSON") != "$run_id" ]]; then return 0; fi
    if delete_state_if_match "$bucket" "$environment" "$STATE_ETAG"; then return 0; fi
    case $AWS_ERROR_CODE in
      PreconditionFailed | 412) ;;
      *)
        _report_aws_error "deleting s3://$bucket/$environment/system-state.json"
        return $?
        ;;
    esac
    sleep "$(_backoff_seconds "$race")"
  done
  return "$EXIT_STATE_CONFLICT"
}

# Deletes exactly the file that was seen. <bucket> <env> <etag>
delete_state_if_match() {
  _try_for_state aws s3api delete-object --bucket "$1" --key "$2/system-state.json" --if-match "$3" && return 0
  case $AWS_ERROR_CODE in NoSuchKey | 404) return 0 ;; esac
  return 1
}

# Whether this AWS CLI knows the conditions that the protocol stands on; asks no server.
require_conditional_writes() {
  local skeleton
  if ! skeleton=$(aws s3api copy-object --generate-cli-skeleton input 2>/dev/null); then
    log_error "the aws command does not run; install AWS CLI 2.32 or newer"
    return "$EXIT_TOOL_MISSING"
  fi
  if ! jq -e 'has("IfMatch") and has("IfNoneMatch")' <<<"$skeleton" >/dev/null; then
    log_error "this AWS CLI does not know conditional CopyObject ($(aws --version 2>&1)); update it: the state file would not be safe"
    return "$EXIT_TOOL_TOO_OLD"
  fi
}

# Drops the bodies that ended runs' writers staged and never published; those of other runs may be in the making.
# <bucket> <env> <run_id…>
drop_staged_states() {
  local bucket=$1 environment=$2 key owner ended
  shift 2
  retry_with_backoff 3 aws s3api list-objects-v2 --bucket "$bucket" --prefix "$environment/system-state.json.tmp-" \
    --output json || return 0
  while read -r key; do
    owner=$(aws s3 cp --quiet "s3://$bucket/$key" - 2>/dev/null | jq -r '.run_id // ""' 2>/dev/null) || owner=''
    for ended in "$@"; do
      if [[ $owner == "$ended" ]]; then aws s3api delete-object --bucket "$bucket" --key "$key" >/dev/null || true; fi
    done
  done < <(jq -r '.Contents // [] | .[].Key' <<<"$AWS_OUTPUT")
}
