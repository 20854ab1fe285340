# shellcheck shell=bash disable=SC2034  # the results are the callers'
# One call of AWS: tried again where that helps, its error told apart by AWS's own code, and said.
#
# Results of the last call stand in AWS_OUTPUT, AWS_ERROR_CODE and AWS_ERROR_TEXT; AWS_TRIES is how often it was made.
[[ -n ${_CHRONOS_AWS_CALL:-} ]] && return 0
readonly _CHRONOS_AWS_CALL=1

_aws_call_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=exit_codes.sh
source "$_aws_call_lib_dir/exit_codes.sh"
# shellcheck source=log.sh
source "$_aws_call_lib_dir/log.sh"
# shellcheck source=request_count.sh
source "$_aws_call_lib_dir/request_count.sh"

AWS_ERROR_CODE=''
AWS_ERROR_TEXT=''
AWS_OUTPUT=''
AWS_TRIES=0

# Whether an AWS error code (empty: no answer at all) is worth another try. <code>
_is_transient() {
  case $1 in
    '' | 409 | 500 | 502 | 503 | 504 | ConditionalRequestConflict | InternalError | InternalFailure | SlowDown) return 0 ;;
    EndpointConnectionError | ConnectTimeoutError | ReadTimeoutError | ConnectionClosedError) return 0 ;;
    ServiceUnavailable | Unavailable | RequestTimeout | Throttling | ThrottlingException | RequestLimitExceeded) return 0 ;;
    *) return 1 ;;
  esac
}

# Whether the CLI never asked AWS because of something on this side. <its words>
_is_own_fault() {
  # On a machine of a run they come from the metadata service, and come again.
  if [[ -n ${INSTANCE_ID:-} && $1 == *[Cc]'redentials'* ]]; then return 1; fi
  case $1 in
    *'loading SSO Token'* | *'retrieving credentials'* | *'retrieving token'* | *'source_profile'*) return 0 ;;
    *'Unable to locate credentials'* | *'artial credentials'* | *'specify a region'* | *'could not be found'*) return 0 ;;
    usage:* | *'Unknown options'* | *'aws: error: '* | *'Parameter validation failed'*) return 0 ;;
    *) return 1 ;;
  esac
}

# Seconds to wait before try number $1 (from 0): full jitter under a doubling cap of 10 s.
_backoff_seconds() {
  local cap=$((200 << $1))
  if ((cap > 10000)); then cap=10000; fi
  local milliseconds=$((RANDOM * cap / 32768))
  printf '%d.%03d\n' "$((milliseconds / 1000))" "$((milliseconds % 1000))"
}

# Seconds that the AWS CLI waits for a connection and for a part of an answer. It knows no variable for them, and takes a
# minute each time: with its own tries and these, a call to a network that swallows everything would last for half an hour.
readonly _AWS_TIMEOUTS=(--cli-connect-timeout 10 --cli-read-timeout 60)

# Runs an AWS call; transient failures again, with capped exponential backoff and full jitter.
# <attempts> <command…>   Sets AWS_OUTPUT (its stdout), AWS_ERROR_CODE, AWS_ERROR_TEXT and AWS_TRIES; returns the command's
# own status.
retry_with_backoff() {
  local attempts=$1 attempt status errors
  shift
  if [[ $1 == aws ]]; then set -- aws "${_AWS_TIMEOUTS[@]}" "${@:2}"; fi
  AWS_ERROR_CODE='' AWS_ERROR_TEXT='no temporary file could be made' AWS_TRIES=0
  errors=$(mktemp) || return "$EXIT_FAILED"
  for ((attempt = 0; attempt < attempts; attempt++)); do
    AWS_ERROR_CODE='' AWS_TRIES=$((attempt + 1))
    note_call "$@"
    if AWS_OUTPUT=$("$@" 2>"$errors"); then
      rm -f "$errors"
      return 0
    else
      status=$?
    fi
    _read_aws_error "$errors"
    if ! _is_transient "$AWS_ERROR_CODE" || _is_own_fault "$AWS_ERROR_TEXT" || ((attempt == attempts - 1)); then
      break
    fi
    sleep "$(_backoff_seconds "$attempt")"
  done
  rm -f "$errors"
  return "$status"
}

# Sets AWS_ERROR_CODE and AWS_ERROR_TEXT from what the CLI said. By Bash alone: macOS's tr and sed refuse bytes that are
# no text. <file>
_read_aws_error() {
  local text LC_ALL=C
  { text=$(<"$1"); } 2>/dev/null # Bash tells of each NUL
  text=${text//[$'\n\t']/ }
  while [[ $text == *'  '* ]]; do text=${text//  / }; done
  AWS_ERROR_TEXT=$text AWS_ERROR_CODE=''
  if [[ $text =~ 'An error occurred ('([A-Za-z0-9.]*)')' ]]; then AWS_ERROR_CODE=${BASH_REMATCH[1]}; fi
}

# Says what went wrong with the last AWS call. <what was tried>
_report_aws_error() {
  case $AWS_ERROR_CODE in
    AccessDenied | 403 | AllAccessDisabled | Forbidden)
      log_error "$1: S3 refused it; check the bucket policy and the role's permissions. $AWS_ERROR_TEXT"
      return "$EXIT_S3_DENIED"
      ;;
    *)
      log_error "$1: $AWS_ERROR_TEXT"
      return "$EXIT_FAILED"
      ;;
  esac
}

# Writes a text to S3. On a full disk nothing is sent: half of it would be worse than none.
# <bucket> <key> <text> [further options of put-object…]
_put_text() {
  local file status
  file=$(mktemp) || return $?
  printf '%s\n' "$3" >"$file" \
    && aws s3api put-object --bucket "$1" --key "$2" --body "$file" --content-type application/json "${@:4}" && status=0 || status=$?
  rm -f "$file"
  return "$status"
}
