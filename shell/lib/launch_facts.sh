# shellcheck shell=bash disable=SC2154  # settings, exports, environment, bucket and work are the launch script's
# What a launch must know before it acts: the AMI, the subnets, and what has been uploaded.
# Reads the launch script's `settings` and `exports` (JSON), `environment`, `bucket` and `work` (a folder for the answers).
[[ -n ${_CHRONOS_LAUNCH_FACTS:-} ]] && return 0
readonly _CHRONOS_LAUNCH_FACTS=1

_launch_facts_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=workstation.sh
source "$_launch_facts_lib_dir/workstation.sh"
# shellcheck source=quick_aws.sh
source "$_launch_facts_lib_dir/quick_aws.sh"

# One setting as text. <key>
setting() { jq -r --arg key "$1" '.[$key]' <<<"$settings"; }

# Prints the id of the newest GPU Deep Learning AMI: the SSM parameter, then describe-images.
get_latest_ami() {
  local ami
  ami=$(setting ami_id)
  if [[ -z $ami ]]; then
    if retry_with_backoff 6 aws ssm get-parameter --name "$(setting ami_parameter)" --output json; then
      ami=$(jq -r .Parameter.Value <<<"$AWS_OUTPUT")
    elif retry_with_backoff 6 aws ec2 describe-images --owners amazon --output json --filters \
      "Name=name,Values=$(setting ami_name)" Name=state,Values=available Name=architecture,Values=x86_64; then
      ami=$(jq -r '.Images | sort_by(.CreationDate) | last | .ImageId // ""' <<<"$AWS_OUTPUT")
    fi
  fi
  if [[ $ami != ami-* ]]; then
    log_error "no AMI found: neither SSM parameter $(setting ami_parameter) nor an image named '$(setting ami_name)'; set ami_id. ${AWS_ERROR_TEXT:-}"
    return "$EXIT_NO_AMI"
  fi
  printf '%s\n' "$ami"
}

# Prints {id, name, root_device} of an image. <ami id>
describe_ami() {
  if ! retry_with_backoff 6 aws ec2 describe-images --image-ids "$1" --output json \
    || ! jq -ce '.Images[0] // empty | {id: .ImageId, name: .Name, root_device: .RootDeviceName}' <<<"$AWS_OUTPUT"; then
    log_error "AMI $1 cannot be used in $AWS_DEFAULT_REGION. ${AWS_ERROR_TEXT:-}"
    return "$EXIT_NO_AMI"
  fi
}

# Copies a manifest from the bucket to $work. <folder under cached-datasets/> <name> <what to do when it is missing>
fetch_manifest() {
  local key="cached-datasets/$1/$2"
  if retry_with_backoff 6 aws s3api get-object --bucket "$bucket" --key "$key" "$work/$1"; then return 0; fi
  case $AWS_ERROR_CODE in
    NoSuchKey | 404)
      log_error "s3://$bucket/$key is not there yet: run $3"
      return "$EXIT_NOT_UPLOADED"
      ;;
  esac
  _report_aws_error "reading s3://$bucket/$key"
}

digest_of() { sha256_of_input <"$1"; }

# Runs functions side by side, each one's stdout into $work/<function>. When some fail, the first of them (in the
# order given) explains itself on stderr and gives the return code. <function…>
side_by_side() {
  local job status
  local -A pids=()
  for job in "$@"; do
    "$job" >"$work/$job" 2>"$work/$job.err" &
    pids[$job]=$!
  done
  for job in "$@"; do
    status=0
    wait "${pids[$job]}" || status=$?
    cat "$work/$job.err" >&2
    if ((status != 0)); then
      wait
      return "$status"
    fi
  done
}

find_ami() {
  local ami_id
  ami_id=$(get_latest_ami) || return $?
  describe_ami "$ami_id"
}

fetch_scripts_manifest() {
  fetch_manifest scripts MANIFEST.sha256 "invoke upload --env $environment" || return $?
  # The user data is this checkout's: it would meet a bootstrap.sh of another.
  quick_python -m chronos_ec2.workstation.script_files --env "$environment" --bucket "$bucket" <"$work/scripts"
}
fetch_environment_manifest() {
  fetch_manifest python-env MANIFEST.json "invoke build-env --env $environment, then invoke upload --env $environment"
}
fetch_data_manifest() { fetch_manifest training-data MANIFEST.json "invoke upload --env $environment --data DIR"; }

# Looks whether the model that training starts from is there, in the one bucket that an instance reads.
require_start_model() {
  local model_id name
  model_id=$(jq -r 'if .trainer == "chronos" then .training.model_id // "random" else "random" end' <<<"$settings")
  # A folder is refused where the launch's files are made.
  if [[ $model_id != s3://* ]]; then return 0; fi
  if [[ $model_id != "s3://$bucket/"* ]]; then
    log_error "training.model_id: an instance reads s3://$bucket alone, not $model_id; fetch that model and send it with: invoke upload --env $environment --model DIR"
    return "$EXIT_SETTINGS_INVALID"
  fi
  model_id=${model_id%/}
  for name in config.json model.safetensors; do
    if retry_with_backoff 6 aws s3api head-object --bucket "$bucket" --key "${model_id#"s3://$bucket/"}/$name"; then continue; fi
    case $AWS_ERROR_CODE in
      NoSuchKey | NotFound | 404)
        log_error "training.model_id: $model_id has no $name; send a Chronos-2 model in safetensors with: invoke upload --env $environment --model DIR"
        return "$EXIT_NOT_UPLOADED"
        ;;
    esac
    _report_aws_error "looking at $model_id/$name"
    return $?
  done
}

# Whether the stack has what machines need that train together; says what to do when it has not.
require_cluster() {
  if (($(setting nodes) > 1)) && jq -e '(.ClusterSecurityGroupId and .PlacementGroupName) | not' <<<"$exports" >/dev/null; then
    log_error "nodes is $(setting nodes), and the stack has no placement group and security group for machines that train together: set nodes in invoke.yaml for an environment of this stack and run invoke deploy --env $environment"
    return "$EXIT_NOT_DEPLOYED"
  fi
}

# Prints the stack's subnets as {subnet_id, zone}, in the order of its export. A zone that may not be asked for is null: only
# the words for a pool lack it then.
fetch_subnets() {
  local -a ids
  IFS=, read -ra ids < <(jq -r .SubnetIds <<<"$exports")
  if ! retry_with_backoff 6 aws ec2 describe-subnets --subnet-ids "${ids[@]}" --output json; then
    if [[ $AWS_ERROR_CODE == InvalidSubnetID.NotFound ]]; then
      log_error "the stack's subnets are gone: run invoke deploy --env $environment. $AWS_ERROR_TEXT"
      return "$EXIT_NOT_DEPLOYED"
    fi
    log_warn "the zones of the subnets cannot be seen: $AWS_ERROR_TEXT"
    AWS_OUTPUT='{"Subnets":[]}'
  fi
  # shellcheck disable=SC2016  # a jq program
  jq -c '(.Subnets | map({key: .SubnetId, value: .AvailabilityZone}) | from_entries) as $zones
    | $ARGS.positional | map({subnet_id: ., zone: $zones[.]})' --args "${ids[@]}" <<<"$AWS_OUTPUT"
}
