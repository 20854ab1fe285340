# shellcheck shell=bash
# What the two laptop scripts share: ending with a message, settings, credentials, exports, instances by tag.
[[ -n ${_CHRONOS_WORKSTATION:-} ]] && return 0
readonly _CHRONOS_WORKSTATION=1

_workstation_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=run_record.sh
source "$_workstation_lib_dir/run_record.sh"

readonly TAG_PROJECT='Chronos-Training'
readonly EXPORT_PREFIX='ChronosTraining'

# The Python that has this project's packages: $CHRONOS_PYTHON, else the repository's, else python3.
chronos_python() {
  local repository="$_workstation_lib_dir/../.."
  if [[ -n ${CHRONOS_PYTHON:-} ]]; then
    printf '%s\n' "$CHRONOS_PYTHON"
  elif [[ -x $repository/.venv/bin/python ]]; then
    printf '%s\n' "$repository/.venv/bin/python"
  else
    command -v python3
  fi
}

# Fails with a message when this machine lacks what the laptop scripts need; Linux has the one, macOS the other.
require_workstation() {
  local tool missing=()
  for tool in aws jq; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  command -v sha256sum >/dev/null || command -v shasum >/dev/null || missing+=('sha256sum or shasum')
  command -v timeout >/dev/null || command -v perl >/dev/null || missing+=('timeout or perl')
  if ((${#missing[@]} > 0)); then
    printf -v tool '%s, ' "${missing[@]}"
    log_error "not installed: ${tool%, }; run ./invokew setup, or put them on PATH"
    return "$EXIT_TOOL_MISSING"
  fi
  # shellcheck disable=SC2016  # a jq program
  if ! jq -en '$ARGS.named == {}' >/dev/null 2>&1; then
    log_error "jq 1.6 or newer is needed, this is $(jq --version 2>&1)"
    return "$EXIT_TOOL_MISSING"
  fi
}

# Prints the sha256 of what it reads.
sha256_of_input() {
  local digest
  if command -v sha256sum >/dev/null; then digest=$(sha256sum); else digest=$(shasum -a 256); fi
  printf '%s\n' "${digest%% *}"
}

# Prints an environment's settings as JSON. <env or ''> [KEY=VALUE…]
load_settings() {
  local python environment=$1 item
  shift
  python=$(chronos_python) || return $?
  local -a argv=("$python" -m chronos_ec2.workstation.settings)
  if [[ -n $environment ]]; then argv+=(--env "$environment"); fi
  for item in "$@"; do argv+=(--set "$item"); done
  "${argv[@]}"
}

# Exports the region and profile of the settings. <settings json>
use_aws_settings() {
  local profile
  AWS_DEFAULT_REGION=$(jq -r .region <<<"$1")
  export AWS_DEFAULT_REGION AWS_REGION=$AWS_DEFAULT_REGION
  profile=$(jq -r .aws_profile <<<"$1")
  if [[ -n $profile ]]; then
    # Keys in the environment would beat the profile here, and lose to it in boto3: two accounts at once.
    unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
    export AWS_PROFILE=$profile
  fi
  if [[ $(jq -r .embedded <<<"$1") == true && -z ${AWS_ENDPOINT_URL:-} ]]; then
    log_error "this environment is the embedded AWS, and AWS_ENDPOINT_URL is not set: run invoke local.start, then eval \"\$(invoke local.env)\""
    return "$EXIT_LOCAL_CLOUD_DOWN"
  fi
  # The user's own formats would break every answer that is read here.
  export AWS_DEFAULT_OUTPUT=json AWS_PAGER='' AWS_CLI_ERROR_FORMAT=legacy AWS_CLI_AUTO_PROMPT=off
  export AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=${AWS_MAX_ATTEMPTS:-3}
}

# Whether the CLI has got no answer, by its words: it has no code for that. Whatever else ends it before it has an answer of
# AWS's is about a profile, a session or a token. <its words>
_is_no_connection() {
  case $1 in
    '' | *'ould not connect'* | *'timeout on endpoint'* | *'imed out'* | *'onnection was closed'* | *'onnection reset'*) return 0 ;;
    *'ailed to connect'* | *'onnection refused'* | *'SSL validation failed'* | *'name resolution'* | *'proxy'*) return 0 ;;
    *) return 1 ;;
  esac
}

# Prints who the caller is (an ARN), or says that there are no credentials.
require_credentials() {
  if ! retry_with_backoff 3 aws sts get-caller-identity --output json; then
    if [[ -z $AWS_ERROR_CODE ]] && _is_no_connection "$AWS_ERROR_TEXT"; then
      log_error "AWS cannot be reached${AWS_ENDPOINT_URL:+ at $AWS_ENDPOINT_URL (is the embedded AWS running? invoke local.status)}: $AWS_ERROR_TEXT"
      if [[ -n ${AWS_ENDPOINT_URL:-} ]]; then return "$EXIT_LOCAL_CLOUD_DOWN"; fi
      return "$EXIT_FAILED"
    fi
    log_error "AWS has no usable credentials: sign in (aws configure; with AWS CLI version 2 also aws login, aws sso login), or set AWS_PROFILE or the AWS_ACCESS_KEY_ID variables. $AWS_ERROR_TEXT"
    return "$EXIT_NO_CREDENTIALS"
  fi
  jq -r .Arn <<<"$AWS_OUTPUT"
}

# Prints the stack's exports as one JSON object, names without the prefix.
read_exports() {
  local exports wanted
  if ! retry_with_backoff 6 aws cloudformation list-exports --output json; then
    _report_aws_error "listing the CloudFormation exports"
    return $?
  fi
  # shellcheck disable=SC2016  # a jq program
  exports=$(jq -c --arg prefix "$EXPORT_PREFIX-" \
    '[.Exports[] | select(.Name | startswith($prefix)) | {key: (.Name | ltrimstr($prefix)), value: .Value}] | from_entries' \
    <<<"$AWS_OUTPUT")
  for wanted in BucketName SubnetIds SecurityGroupId InstanceProfileName; do
    if ! jq -e --arg name "$wanted" 'has($name)' <<<"$exports" >/dev/null; then
      log_error "CloudFormation export $EXPORT_PREFIX-$wanted is missing in $AWS_DEFAULT_REGION: run invoke deploy${environment:+ --env $environment}"
      return "$EXIT_NOT_DEPLOYED"
    fi
  done
  printf '%s\n' "$exports"
}

# Prints the live instances of an environment as a JSON array of {id, run_id, node, state}. <env> [run_id]
live_instances() {
  local -a filters=("Name=tag:Project,Values=$TAG_PROJECT" "Name=tag:Environment,Values=$1"
    "Name=instance-state-name,Values=pending,running,stopping,stopped")
  if [[ -n ${2:-} ]]; then filters+=("Name=tag:RunId,Values=$2"); fi
  if ! retry_with_backoff 6 aws ec2 describe-instances --filters "${filters[@]}" --output json; then
    _report_aws_error "looking for instances of $1"
    return $?
  fi
  jq -c '[.Reservations[].Instances[]
    | {id: .InstanceId, state: .State.Name, node: (.AmiLaunchIndex // 0), run_id: ((.Tags // []) | map(select(.Key == "RunId") | .Value) | first)}]' \
    <<<"$AWS_OUTPUT"
}

# Prints what EC2 says of a run's instance: its state, `gone` when it has ended, `taken` when it was a spot machine that
# EC2 has taken back, `missing` when EC2 does not know it
# (too young or too old to be shown), or `unknown` when EC2 cannot be asked.   <env> <run_id> <instance id or ''>
instance_fate() {
  local found id=$3
  if [[ -z $id ]]; then
    found=$(live_instances "$1" "$2") || {
      printf 'unknown\n'
      return 0
    }
    jq -r 'if length > 0 then .[0].state else "missing" end' <<<"$found"
    return 0
  fi
  if ! retry_with_backoff 6 aws ec2 describe-instances --instance-ids "$id" --output json; then
    case $AWS_ERROR_CODE in
      InvalidInstanceID.NotFound) printf 'missing\n' ;;
      *) printf 'unknown\n' ;;
    esac
    return 0
  fi
  jq -r '[.Reservations[].Instances[]] | .[0] | if . == null then "missing"
    elif .State.Name != "terminated" then .State.Name
    elif .StateReason.Code? // "" | startswith("Server.SpotInstance") then "taken" else "gone" end' <<<"$AWS_OUTPUT"
}

# Prints the same of a run of several machines, that of any machine that lives before that of one that has ended; `gone` and
# `taken` are proof for all of them. They are found by their tags, which show all that belongs to the run.
# <env> <run_id> <nodes>
nodes_fate() {
  if ! retry_with_backoff 6 aws ec2 describe-instances --output json --filters "Name=tag:Project,Values=$TAG_PROJECT" \
    "Name=tag:Environment,Values=$1" "Name=tag:RunId,Values=$2"; then
    printf 'unknown\n'
    return 0
  fi
  # Of a machine that EC2 does not show nobody knows whether it is too young or too old to be shown.
  jq -r --argjson nodes "$3" '[.Reservations[].Instances[]] | (map(select(.State.Name != "terminated")) | first) as $alive
    | if $alive != null then $alive.State.Name elif length < $nodes then "missing"
      elif any(.[]; .StateReason.Code? // "" | startswith("Server.SpotInstance")) then "taken" else "gone" end' <<<"$AWS_OUTPUT"
}

# Prints a command as it could be typed. <argv…>
print_command() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}
