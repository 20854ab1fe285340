# shellcheck shell=bash disable=SC2034  # IMDS_BODY is for the callers
# What only the rented machine does: ask who it is (IMDSv2) and power itself off.
#
# Every path hangs from ${CHRONOS_ROOT}, as with DESTDIR; it is empty on EC2.
# `shutdown` is called by name here and in the user data, nowhere else, and only after this machine has
# shown that it is the one launched for this run.
[[ -n ${_CHRONOS_INSTANCE:-} ]] && return 0
readonly _CHRONOS_INSTANCE=1

_instance_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=exit_codes.sh
source "$_instance_lib_dir/exit_codes.sh"
# shellcheck source=log.sh
source "$_instance_lib_dir/log.sh"

INSTANCE_ID=''
_confirmed_run=''

# Reads one path of the instance metadata service, version 2. <path below /latest/>
imds_get() {
  local endpoint=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254} token
  endpoint=${endpoint%/}
  local -a bounded=(curl --silent --fail --connect-timeout 2 --max-time 5 --noproxy '*')
  token=$("${bounded[@]}" -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$endpoint/latest/api/token") || return $?
  "${bounded[@]}" -H "X-aws-ec2-metadata-token: $token" "$endpoint/latest/$1"
}

IMDS_BODY=''
_imds_token=''
_imds_token_ends=0

# Asks again and again for a metadata path that is normally not there, with one token for many questions.
# <path below /latest/>
# Sets IMDS_BODY. Returns 0 when it is there, 1 when it is not (404), EXIT_NOT_AN_INSTANCE when that cannot be told.
imds_find() {
  local endpoint=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254} answer attempt
  local -a bounded=(curl --silent --connect-timeout 2 --max-time 5 --noproxy '*')
  endpoint=${endpoint%/} IMDS_BODY=''
  for attempt in 1 2; do
    if ((SECONDS >= _imds_token_ends)); then
      _imds_token=$("${bounded[@]}" --fail -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 600' "$endpoint/latest/api/token") \
        || return "$EXIT_NOT_AN_INSTANCE"
      _imds_token_ends=$((SECONDS + 540))
    fi
    answer=$("${bounded[@]}" --write-out '\n%{http_code}' -H "X-aws-ec2-metadata-token: $_imds_token" "$endpoint/latest/$1") \
      || return "$EXIT_NOT_AN_INSTANCE"
    case ${answer##*$'\n'} in
      200) IMDS_BODY=${answer%$'\n'*} && return 0 ;;
      404) return 1 ;;
      401) _imds_token_ends=0 ;; # it has expired, whatever this machine's clock says
      *) return "$EXIT_NOT_AN_INSTANCE" ;;
    esac
  done
  return "$EXIT_NOT_AN_INSTANCE"
}

# Sets INSTANCE_ID if this machine is the EC2 instance of a run; says why not otherwise. <run_id>
confirm_instance() {
  local attempt run_tag
  if [[ -z ${CHRONOS_ROOT:-} ]] && ! _asks_ec2; then
    log_error "the metadata service $AWS_EC2_METADATA_SERVICE_ENDPOINT is a guest's, whose disk is not named (CHRONOS_ROOT): nothing was done"
    return "$EXIT_NOT_AN_INSTANCE"
  fi
  for ((attempt = 0; attempt < 5; attempt++)); do
    if INSTANCE_ID=$(imds_get meta-data/instance-id) && [[ -n $INSTANCE_ID ]]; then break; fi
    INSTANCE_ID=''
    sleep "$attempt"
  done
  if [[ -z $INSTANCE_ID ]]; then
    log_error "no EC2 metadata service (IMDSv2) answers: this is not an EC2 instance, nothing was done"
    return "$EXIT_NOT_AN_INSTANCE"
  fi
  for ((attempt = 0; attempt < 5; attempt++)); do
    if run_tag=$(imds_get meta-data/tags/instance/RunId); then break; fi
    run_tag=''
    sleep "$attempt"
  done
  if [[ $run_tag != "$1" ]]; then
    log_error "instance $INSTANCE_ID was not launched for run $1 (its RunId tag: '${run_tag:-none}'), nothing was done"
    INSTANCE_ID=''
    return "$EXIT_NOT_AN_INSTANCE"
  fi
  _confirmed_run=$1
}

# Whether the metadata service that is asked is EC2's own, at its own address.
_asks_ec2() {
  case ${AWS_EC2_METADATA_SERVICE_ENDPOINT:-} in
    '' | http://169.254.169.254 | http://169.254.169.254/ | 'http://[fd00:ec2::254]' | 'http://[fd00:ec2::254]/') return 0 ;;
    *) return 1 ;;
  esac
}

# Whether `shutdown` is this machine's power button. Under a root of its own, or with a metadata service at an address of its
# own, this is a guest on somebody's machine, and a `shutdown` from that machine's folders is that machine's.
_shutdown_is_ours() {
  if [[ -z ${CHRONOS_ROOT:-} ]] && _asks_ec2; then return 0; fi
  case $(type -P shutdown) in
    '' | /sbin/* | /bin/* | /usr/*) return 1 ;;
  esac
}

# The only way to power off: refuses on a machine that has not been confirmed. [minutes from now, default: at once]
power_off() {
  local minutes=${1:-}
  if [[ -z $_confirmed_run ]]; then
    log_error "power-off refused: this machine is not confirmed to be a run's instance"
    return "$EXIT_NOT_AN_INSTANCE"
  fi
  if ! _shutdown_is_ours; then
    log_error "power-off refused: $(type -P shutdown || echo 'no shutdown on PATH') is not this instance's"
    return "$EXIT_NOT_AN_INSTANCE"
  fi
  if [[ -n $minutes ]]; then
    shutdown -P "+$minutes"
  else
    shutdown -P now
  fi
}
