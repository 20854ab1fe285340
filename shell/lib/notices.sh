# shellcheck shell=bash
# Notices: the stack's SNS topic is told once of a run's start, once of its end, once when nothing moves any more, and
# once when its GPUs do nothing.
#
# A notice fails nothing and holds nothing up: every call is bounded, and what goes wrong with one is only logged.
# What was told lies under the run's prefix, notices/{start,end,stall,idle}.json: of many who could tell, the one that
# creates the object does. Sourced on the instance and on the laptop; the environment has region and credentials.
[[ -n ${_CHRONOS_NOTICES:-} ]] && return 0
readonly _CHRONOS_NOTICES=1

_notices_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=log.sh
source "$_notices_lib_dir/log.sh"

# Tells the topic of an event of a run, if nobody has; always returns 0, after 24 s at most.
# <topic arn, or '' to tell nobody> <bucket> <env> <run_id> <start|end|stall|idle>
# [json object: what run.json may lack, or all of it: then it is not read]
notify() {
  local folder trouble
  if [[ -z $1 ]] || ! folder=$(mktemp -d); then return 0; fi
  if trouble=$(_tell_topic "$folder" "$@" 2>&1); then
    log_info "notice of the $5 of run $4: ${trouble:-sent}"
  else
    log_warn "the notice of the $5 of run $4 was not sent: $(LC_ALL=C tr -s '\n' ' ' <<<"${trouble:-no answer in time}")"
  fi
  rm -rf "${folder:?}"
}

# Prints a topic again if anybody listens to it: a run whose notices nobody gets makes no calls for them.
# <topic arn, or ''>
heard_topic() {
  local answer
  if [[ -z $1 ]]; then return 0; fi
  if answer=$(_bounded 6 sns list-subscriptions-by-topic --topic-arn "$1" --output json 2>/dev/null) \
    && [[ $(jq '.Subscriptions | length' <<<"$answer" 2>/dev/null) == 0 ]]; then
    return 0
  fi
  printf '%s\n' "$1"
}

# Prints what it has to say. <folder for files> <as notify>
_tell_topic() {
  local folder=$1 topic=$2 bucket=$3 run_prefix="$4/$5" lacking=${7:-'{}'} notice text claimed=true
  local key="$run_prefix/notices/$6.json"
  if [[ $lacking != *'"started_at"'* ]]; then
    _bounded 6 s3api get-object --bucket "$bucket" --key "$run_prefix/run.json" "$folder/run.json" >/dev/null 2>&1 || true
  fi
  notice=$(compose_notice "$folder/run.json" "${@:3:4}" "$lacking") || return $?
  printf '%s\n' "$notice" >"$folder/notice.json"
  if ! _claim_notice "$folder" "$bucket" "$key"; then
    if grep -qE '\((PreconditionFailed|412|ConditionalRequestConflict|409)\)' "$folder/error"; then
      printf 'sent before\n'
      return 0
    fi
    claimed=false # told twice is better than not told
  fi
  text=$(jq -r '.subject, .message' <<<"$notice")
  _bounded 8 sns publish --topic-arn "$topic" --subject "${text%%$'\n'*}" --message "${text#*$'\n'}" >/dev/null && return 0
  if [[ $claimed == true ]]; then _bounded 4 s3api delete-object --bucket "$bucket" --key "$key" >/dev/null || true; fi
  return 1
}

# Of many who tell, one creates the object. <folder with notice.json> <bucket> <key>
_claim_notice() {
  _bounded 6 s3api put-object --bucket "$2" --key "$3" --body "$1/notice.json" --content-type application/json \
    --tagging chronos-class=log --if-none-match '*' >/dev/null 2>"$1/error"
}

# One AWS call that ends in time, whatever happens. <seconds> <argv of aws>
_bounded() {
  local -a bound=(timeout -k 1 "$1")
  # macOS has no timeout. An alarm outlives the exec.
  command -v timeout >/dev/null || bound=(perl -e 'alarm shift; exec @ARGV' "$1")
  AWS_MAX_ATTEMPTS=2 "${bound[@]}" aws "${@:2}"
}

# Prints {subject, message}. <run.json, may be missing> <bucket> <env> <run_id> <event> <json object: what run.json may lack>
compose_notice() {
  local file=$1
  [[ -r $file ]] || file=/dev/null
  # shellcheck disable=SC2016  # a jq program
  jq -cn --rawfile text "$file" --argjson lacking "$6" --arg env "$3" --arg run "$4" --arg event "$5" \
    --arg prefix "s3://$2/$3/$4/" --argjson now "$(date +%s)" -L "$_notices_lib_dir" -f "$_notices_lib_dir/notice.jq"
}
