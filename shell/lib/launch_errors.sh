# shellcheck shell=bash disable=SC2154,SC2034  # pool_… are the pool's; the results are for who sources this
# What EC2 means when it refuses an instance, and what a person can do about it. launch_errors.json is the table.
[[ -n ${_CHRONOS_LAUNCH_ERRORS:-} ]] && return 0
readonly _CHRONOS_LAUNCH_ERRORS=1

_launch_errors_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=aws_call.sh
source "$_launch_errors_lib_dir/aws_call.sh"

# Between the fields of one line; not white space, so an empty field stays one.
readonly FIELD_END=$'\x1f'

# Why EC2 gave no instance: its code ('' when no answer came), the CLI's text, and what the table knows of that.
REFUSAL_CODE='' REFUSAL_TEXT='' REFUSAL_KIND='' REFUSAL_WORDS='' REFUSAL_MOVES_ON='' REFUSAL_ADVICE='' REFUSAL_LIMITS='' REFUSAL_NEEDS=''
# Whether the same pool gives the same answer however long one waits.
REFUSAL_LASTS=''

# Looks a refusal up and sets REFUSAL_…. A code that the table does not have is `other`, a definite refusal, so nothing else is
# tried. No code at all is no answer, unless the call never left this machine. <errors|state_reasons> <code or ''> <the text>
note_refusal() {
  local code=$2 found
  # A StateReason's message begins with its code.
  REFUSAL_CODE=$2 REFUSAL_TEXT=${3#"$2: "}
  if [[ -z $code ]]; then
    code=NoAnswer
    if _is_own_fault "$3"; then code=NotSent; fi
  fi
  # shellcheck disable=SC2016  # a jq program
  found=$(jq -r --arg section "$1" --arg code "$code" --arg text "$3" '
    . as $table
    | (.[$section][$code]
       // (if ($code | test("^(NoAnswer|5[0-9][0-9]|409|.*(Timeout|Connect|Connection|Closed)Error)$")) then {kind: "unknown"}
           elif ($code | startswith("Server.")) then {kind: "capacity", words: "EC2 could not start it"}
           else {kind: "other"} end)) as $entry
    | ($entry.variants // [] | map(select(.contains as $part | $text | contains($part))) | first // {}) as $variant
    | ($entry * $variant) as $entry
    | $table.kinds[$entry.kind] + $entry
    | [.kind, .words, .moves_on // false, .advice // "", .limits // "", .needs // "", .lasts // false]
    | map(tostring | gsub("[\n\u001f]"; " ")) | join("\u001f")' \
    "$_launch_errors_lib_dir/launch_errors.json") || return $?
  IFS=$FIELD_END read -r REFUSAL_KIND REFUSAL_WORDS REFUSAL_MOVES_ON REFUSAL_ADVICE REFUSAL_LIMITS REFUSAL_NEEDS REFUSAL_LASTS <<<"$found"
}

# EC2's own words out of the CLI's: no preamble, no encoded message. <the CLI's error text>
plain_error_text() {
  local text=$1
  if [[ $text =~ 'An error occurred ('[^\)]*') when calling the '([A-Za-z]+' ')?'operation'(' (reached max retries: '[0-9]+')')?': '(.*) ]]; then
    text=${BASH_REMATCH[3]}
  fi
  text=${text%%' Encoded authorization failure message:'*}
  printf '%s\n' "${text%"${text##*[![:space:]]}"}"
}

# Prints what a person can do about the refusal in REFUSAL_…, for the pool in pool_….
explain_refusal() {
  case "$REFUSAL_KIND $REFUSAL_LIMITS" in
    'quota vcpus') _explain_vcpu_quota ;;
    'quota ebs') _explain_ebs_quota ;;
    'permission '*) _explain_permission ;;
  esac
  if [[ -n $REFUSAL_ADVICE ]]; then printf '%s\n' "$REFUSAL_ADVICE"; fi
}

# Prints a quota's value, or nothing when it cannot be read. Of one that the account was never given, Service Quotas knows the
# default alone. <service> <code>
_quota_value() {
  local -a which=(--service-code "$1" --quota-code "$2" --output json)
  if ! retry_with_backoff 3 aws service-quotas get-service-quota "${which[@]}"; then
    if [[ $AWS_ERROR_CODE != NoSuchResourceException ]]; then return 0; fi
    retry_with_backoff 3 aws service-quotas get-aws-default-service-quota "${which[@]}" || return 0
  fi
  jq -r '.Quota.Value // empty | floor' <<<"$AWS_OUTPUT"
}

# Prints how many vCPUs an instance type has, or nothing. <type>
_vcpus_of() {
  retry_with_backoff 3 aws ec2 describe-instance-types --instance-types "$1" --output json || return 0
  jq -r '.InstanceTypes[0].VCpuInfo.DefaultVCpus // empty' <<<"$AWS_OUTPUT"
}

_explain_vcpu_quota() {
  local value needed nodes
  if [[ -z $pool_quota_code ]]; then
    printf 'which quota limits %s is not known here; look for its family in the Service Quotas console\n' "$pool_type"
    return 0
  fi
  value=$(_quota_value ec2 "$pool_quota_code")
  needed=$(_vcpus_of "$pool_type")
  nodes=$(jq -r '.nodes // 1' <<<"${settings:-null}")
  if [[ -n $needed ]]; then needed=$((needed * nodes)); fi
  printf 'quota %s (%s) is %s vCPUs in %s; %s needs %s\n' "$pool_quota_code" "$pool_quota_name" \
    "${value:-an unknown number of}" "${AWS_DEFAULT_REGION:-this region}" "$( ((nodes == 1)) || printf '%d x ' "$nodes")$pool_type" "${needed:-some}"
  _print_increase ec2 "$pool_quota_code" "$((${value:-0} + ${needed:-8}))"
}

_explain_ebs_quota() {
  local code=L-7A658B76 value needed
  value=$(_quota_value ebs "$code")
  needed=$(jq -r '(.volume_gb // empty) * (.nodes // 1)' <<<"${settings:-null}")
  printf 'quota %s (Storage for General Purpose SSD (gp3) volumes, in TiB) is %s TiB in %s; this launch needs %s GB: delete volumes that nothing uses, or lower volume_gb\n' \
    "$code" "${value:-an unknown number of}" "${AWS_DEFAULT_REGION:-this region}" "${needed:-some}"
  _print_increase ebs "$code" "$((${value:-50} + 1))"
}

# <service> <code> <value>
_print_increase() {
  printf 'end what uses it up, or ask for more (free, hours to days): aws service-quotas request-service-quota-increase --service-code %s --quota-code %s --desired-value %s --region %s\n' \
    "$1" "$2" "$3" "${AWS_DEFAULT_REGION:-REGION}"
}

# Names the missing action: from EC2's words, else from the encoded message, which only some callers may decode.
_explain_permission() {
  local action='' resource='' denied=false decoded
  if [[ $REFUSAL_TEXT == *'explicit deny'* ]]; then denied=true; fi
  if [[ $REFUSAL_TEXT =~ 'not authorized to perform: '([A-Za-z0-9-]+:[A-Za-z0-9*]+)(' on resource: '([^ ]+))? ]]; then
    action=${BASH_REMATCH[1]} resource=${BASH_REMATCH[3]}
  elif [[ $REFUSAL_TEXT =~ 'Encoded authorization failure message: '([A-Za-z0-9_-]+) ]]; then
    decoded=$(_decode_authorization_message "${BASH_REMATCH[1]}")
    IFS=$FIELD_END read -r action resource denied <<<"$decoded"
  fi
  action=${action:-$REFUSAL_NEEDS}
  if [[ -z $action ]]; then
    printf 'the action could not be read from EC2'"'"'s message (sts:DecodeAuthorizationMessage would show it)\n'
  elif [[ $denied == true ]]; then
    printf 'a policy denies %s%s explicitly: an administrator has to take that away\n' "$action" "${resource:+ on $resource}"
  else
    printf 'the caller lacks the permission %s%s\n' "$action" "${resource:+ on $resource}"
  fi
}

# Prints action, resource and denied as fields, or nothing when the caller may not decode the message. <encoded>
_decode_authorization_message() {
  retry_with_backoff 2 aws sts decode-authorization-message --encoded-message "$1" --output json || return 0
  jq -r '.DecodedMessage | fromjson? // empty
    | [.context.action // "", .context.resource // "", .explicitDeny // false]
    | map(tostring | gsub("[\n\u001f]"; " ")) | join("\u001f")' <<<"$AWS_OUTPUT"
}
