# shellcheck shell=bash
# The AWS CLI and this project's Python modules without their start-up: one process loads them, each call is a fork of it.
# prefork_server.py is that process. Without it, or with an AWS CLI that is not this project's own, calls are made as ever.
[[ -n ${_CHRONOS_QUICK_AWS:-} ]] && return 0
readonly _CHRONOS_QUICK_AWS=1

_quick_aws_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=workstation.sh
source "$_quick_aws_lib_dir/workstation.sh"

_quick_socket='' _quick_python='' _quick_client=''

# Starts the process, for as long as this script runs: it looks for that itself. Does not wait for it. <folder for its socket>
start_quick_aws() {
  local python program
  if [[ ${CHRONOS_QUICK_AWS:-true} != true ]]; then return 0; fi
  python=$(chronos_python) || return 0
  program=$(type -P aws) || return 0
  # Only the CLI that lies beside this Python is the one that this Python can load.
  if [[ ${program%/*} != "${python%/*}" ]]; then return 0; fi
  _quick_python=$python _quick_client="$_quick_aws_lib_dir/../../python/chronos_ec2/workstation/prefork_client.py"
  _quick_socket="$1/aws.socket"
  "$python" -m chronos_ec2.workstation.prefork_server "$_quick_socket" "$$" </dev/null >/dev/null 2>"$1/quick_aws.log" &
  disown "$!" # a plain `wait` is not for it
  # What looks like a call of `aws` is one of this function from here on.
  # shellcheck disable=SC2329
  aws() { _run_quickly "$(type -P aws)" aws "$@"; }
}

# Runs this project's Python, by the process where there is one. <argument…>
quick_python() {
  local python
  python=$(chronos_python) || return $?
  if [[ -z $_quick_socket ]]; then
    "$python" "$@"
  else
    _run_quickly "$python" python "$@"
  fi
}

# <program> <its name> <argument…>
_run_quickly() { "$_quick_python" -IS "$_quick_client" "$_quick_socket" "$@"; }
