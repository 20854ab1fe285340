# shellcheck shell=bash
# What goes on behind the phases on the instance: parts that begin as soon as what they need is there. Each is waited for by the
# phase that it belongs to, which fails with it, in its own words. They end with the run.
# Uses run_waiting and stop_child of phases.sh.
[[ -n ${_CHRONOS_BEHIND:-} ]] && return 0
readonly _CHRONOS_BEHIND=1

_behind_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=children.sh
source "$_behind_lib_dir/children.sh"
# shellcheck source=exit_codes.sh
source "$_behind_lib_dir/exit_codes.sh"
# shellcheck source=log.sh
source "$_behind_lib_dir/log.sh"

declare -gA behind=() # the process of each part that has begun and was not waited for

# Begins a part behind whatever follows. So that it ends at once when it is told to, what takes long in it runs by run_waiting.
# <name> <command…>
begin() {
  {
    # What has begun last, though a TERM may come before child_pid names it.
    trap 'child_pid=${!:-}; stop_child 5; exit "$EXIT_TERMINATED"' TERM
    "${@:2}"
  } &
  behind[$1]=$!
}

# Waits for a part that has begun; its status. <name>
finish() {
  local status=0
  wait "${behind[$1]}" || status=$?
  unset "behind[$1]"
  return "$status"
}

# The same for a part that fetches something. One that could not, or that the kernel has ended, does it once more, here: S3 may have
# been away since it began, and has just taken the move of the state to the phase that waits. <name> <command…>
finish_fetch() {
  local status=0
  finish "$1" || status=$?
  if ((status != EXIT_FAILED && status <= 128)); then return "$status"; fi
  log_warn "$1 has come to nothing behind the phases; once more"
  "${@:2}"
}

# Ends all parts, when the phases end early.
stop_background() {
  end_children "${behind[@]}"
  behind=()
}
